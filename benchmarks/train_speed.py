"""Real tokens per second of `tiebreak train` against Hugging Face's Trainer, on the same model and the same rows.

    python benchmarks/train_speed.py                          # a small Gemma-2 on rows as long as the Arena's, fp32
    python benchmarks/train_speed.py --recipe demo-deberta --rounds 5 --threads 2

The peer runs as it comes (random batches of 8 rows, padded to the longest) and at its best (batches of like length).
Every step of every way takes all rows: the peer adds up the gradients of its batches of 8, tiebreak those of its packed
micro-batches. So all ways have the same losses, step by step, and these are compared. (For classifiers transformers
5.23 adds the batches' means where it should average them; clipping, which every step needs here, hides that, and its
losses are divided below.) Each round trains each way for three steps from the same weights, in alternating order; the
first step of each warms up. Printed: real tokens per second (medians over the steps of all rounds), the ratios, and the
largest difference of a loss. A step's clock holds the forward and backward passes, the optimizer and the making of
batches; tokenisation and loading are outside of it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command sets it, for the peer too
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from predict_speed import enlarged
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tiebreak.cli import main
from tiebreak.config import Recipe, load_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.sample.generator import write_sample

STEPS = 3
PEER_ROWS = 8
"""Of the peer's batches."""
SAME = {"lr": 1e-4, "weight_decay": 0.0, "max_grad_norm": 1.0, "eps": 1e-5}
"""Settings of both optimizers (AdamW), without warm-up or decay. With a smaller eps, rounding alone moves weights whose
gradient is next to zero."""


class Clock(TrainerCallback):
    """Seconds of each of the peer's steps, and its losses."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *arguments, **keywords) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *arguments, **keywords) -> None:
        self.seconds.append(time.perf_counter() - self.began)

    def on_log(self, arguments, state, control, logs=None, **keywords) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def train_peer(folder: Path, tokenizer, rows: list[dict], grouped: bool) -> Clock:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "peer")
    model.config.pad_token_id = tokenizer.pad_token_id
    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_train_batch_size=PEER_ROWS,
        gradient_accumulation_steps=len(rows) // PEER_ROWS,
        max_steps=STEPS,
        learning_rate=SAME["lr"],
        weight_decay=SAME["weight_decay"],
        max_grad_norm=SAME["max_grad_norm"],
        adam_epsilon=SAME["eps"],
        lr_scheduler_type="constant",
        train_sampling_strategy="group_by_length" if grouped else "random",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
    )
    clock = Clock()
    collator = DataCollatorWithPadding(tokenizer)
    Trainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[clock]).train()
    clock.losses = [loss / arguments.gradient_accumulation_steps for loss in clock.losses]
    return clock


def train_ours(folder: Path, options: argparse.Namespace, changes: list[str], out: Path) -> Clock:
    words = [word for change in changes for word in ("--set", change)]
    table = str(folder / "table.csv")
    assert (
        main(["train", "--recipe", options.recipe, "--data", table, "--valid", "none", "--out", str(out), *words]) == 0
    )
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    clock = Clock()
    clock.seconds = [record["seconds"] for record in records if "grad_norm" in record]
    clock.losses = [record["loss"] for record in records if "grad_norm" in record]
    return clock


def prepare_both(options: argparse.Namespace, folder: Path) -> tuple[list[str], object, list[dict]]:
    """The recipe's changes, the tokenizer and the peer's rows; the same weights are stored for both."""
    write_sample(folder / "table.csv", options.rows, seed=11, profile="arena")
    base = enlarged(load_recipe(options.recipe).model.base, folder / "base")
    changes = [f"model.base={base}", "model.method=full", f"data.max_tokens={options.max_tokens}", "data.swap=never"]
    changes += [f"train.{name}={value}" for name, value in SAME.items()]
    changes += [
        f"train.batch_size={options.rows}",
        f"train.max_steps={STEPS}",
        f"train.epochs={STEPS}",
        "train.warmup=0",
    ]
    changes += ["train.schedule=constant", "train.eval_every=999", "train.precision=fp32", "train.betas=[0.9,0.999]"]
    recipe: Recipe = load_recipe(options.recipe, changes)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([folder / "table.csv"], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    torch.manual_seed(recipe.train.seed)
    judge = build_model(recipe, tokenizer, torch.device("cpu"), torch.float32)
    judge.classifier.save_pretrained(folder / "peer")
    rows = [
        {
            "input_ids": tokens.input_ids(k)[0].tolist(),
            "labels": int(tokens.labels[k]),
            "length": int(tokens.lengths[k]),
        }
        for k in range(len(tokens))
    ]
    return changes, tokenizer, rows


def compare(options: argparse.Namespace, folder: Path) -> dict:
    changes, tokenizer, rows = prepare_both(options, folder)
    ways = ("tiebreak", "Trainer, random", "Trainer, grouped")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {}
    for turn in range(options.rounds):
        for way in ways if turn % 2 == 0 else ways[::-1]:
            if way == "tiebreak":
                clock = train_ours(folder, options, changes, folder / f"run-{turn}")
            else:
                clock = train_peer(folder, tokenizer, rows, way.endswith("grouped"))
            seconds[way] += clock.seconds[1:]
            losses[way] = clock.losses
            print(f"round {turn + 1}/{options.rounds}: {way}, {clock.seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    took = {way: median(each) for way, each in seconds.items()}
    real = sum(row["length"] for row in rows)
    apart = [abs(one - other) for way in ways for one, other in zip(losses[way], losses["tiebreak"], strict=True)]
    return {
        "recipe": options.recipe,
        "rows": len(rows),
        "mean_tokens": round(real / len(rows), 1),
        "threads": torch.get_num_threads(),
        "real_tokens_per_second": {way: round(real / value) for way, value in took.items()},
        "ratio": {way: round(took[way] / took["tiebreak"], 2) for way in ways[1:]},
        "largest_loss_difference": max(apart),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo-gemma2")
    parser.add_argument("--rows", type=int, default=64, help=f"of each step, a multiple of {PEER_ROWS}")
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    # Progress goes to stderr.
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        found = compare(options, Path(folder))
    print(json.dumps(found, indent=2))
