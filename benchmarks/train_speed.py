"""Real tokens a second of training: `tiebreak train` against the trainers of transformers, TRL, sentence-transformers.

    python benchmarks/train_speed.py --recipes demo-gemma2 --threads 1

One model, 24 rows that are spread and pad like the Arena's, fp32, AdamW, batches of 8 rows for the peers, which add up
their gradients to the same step over all rows. Each way trains in a process of its own from the same weights and does
one step when it is its turn; the first step, with compilation, is not counted. A step is all from one to the next:
making batches, forward, backward, optimizer, log. Compared are the losses of the same steps. TRL's RewardTrainer learns
from pairs with one score each, so its losses are others; it gets the same rows, two by two. Transformers 5.23 adds the
batches' mean losses of a classifier where it should average them; clipping, which every step needs here, hides that
from the weights, and its losses are divided below.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from subjects import (
    LONGEST,
    QUANTILES,
    QUICK_SIZES,
    RECIPES,
    SIZES,
    TOGETHER,
    as_pair,
    compile_layers,
    enlarged,
    run_tiebreak,
    write_plain_tokenizer,
    write_spread_rows,
)
from timing import Gate, by_recipe, has, peer, record, run_claim, stepping, take_turns

PEER_ROWS, ROWS = 8, TOGETHER * len(QUANTILES)
"""Of the peers' batches, and of a step."""
SAME = {"lr": 1e-4, "weight_decay": 0.0, "max_grad_norm": 1.0, "eps": 1e-5}
"""Settings of all optimizers (AdamW), without warm-up or decay. With a smaller eps, rounding alone moves weights whose
gradient is next to zero."""
MOST_STEPS = 1_000
RANDOM, GROUPED, COMPILED = "Trainer, random", "Trainer, grouped", "Trainer, grouped, torch.compile"
REWARD, CROSS = "TRL RewardTrainer", "CrossEncoderTrainer"
WARM = {COMPILED: 2}
"""Steps before the first that counts, if more than one: what is left to compile at the second."""


def train_ours(gate: Gate, words: list[str]) -> None:
    """The command itself; a step ends when it is in the log."""
    from tiebreak.training.log import RunLog

    log_step = RunLog.step

    def step(self: RunLog, found: dict) -> None:
        log_step(self, found)
        gate((found["step"], found["loss"]))

    RunLog.step = step
    run_tiebreak(*words)


def callback(gate: Gate, batches: int) -> Any:
    """Of a Trainer, whose step ends when it is in the log; `batches` are those that its loss adds up."""
    from transformers import TrainerCallback

    class Gated(TrainerCallback):
        def on_log(self, arguments, state, control, logs=None, **keywords) -> None:
            if logs and "loss" in logs:
                gate((state.global_step, logs["loss"] / batches))

    return Gated()


def arguments_of(rows: int, folder: Path) -> dict[str, Any]:
    """What every peer's trainer is told."""
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": PEER_ROWS,
        "gradient_accumulation_steps": rows // PEER_ROWS,
        "max_steps": MOST_STEPS,
        "learning_rate": SAME["lr"],
        "weight_decay": SAME["weight_decay"],
        "max_grad_norm": SAME["max_grad_norm"],
        "adam_epsilon": SAME["eps"],
        "lr_scheduler_type": "constant",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }


def train_transformers(gate: Gate, folder: Path, rows: list[dict], way: str) -> None:
    """Hugging Face's Trainer."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    model = AutoModelForSequenceClassification.from_pretrained(folder / "peer")
    if way == COMPILED:
        compile_layers(model)
    grouping = "random" if way == RANDOM else "group_by_length"
    settings = arguments_of(len(rows), folder) | {"train_sampling_strategy": grouping}
    arguments = TrainingArguments(**settings)
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(folder / "peer"))
    gated = callback(gate, arguments.gradient_accumulation_steps)
    Trainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[gated]).train()


def train_reward(gate: Gate, folder: Path, rows: list[dict]) -> None:
    """TRL's RewardTrainer; rows two by two, so that a step has the same tokens."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(
        folder / "peer", num_labels=1, ignore_mismatched_sizes=True
    )
    settings = arguments_of(len(rows), folder) | {"per_device_train_batch_size": PEER_ROWS // 2}
    arguments = RewardConfig(**settings, max_length=None, bf16=False, gradient_checkpointing=False)
    ids = [row["input_ids"] for row in rows]
    pairs = Dataset.from_dict({"chosen_ids": ids[::2], "rejected_ids": ids[1::2]})
    tokenizer = AutoTokenizer.from_pretrained(folder / "peer")
    RewardTrainer(
        model, arguments, train_dataset=pairs, processing_class=tokenizer, callbacks=[callback(gate, 1)]
    ).train()


def train_cross_encoder(gate: Gate, folder: Path, rows: list[dict]) -> None:
    """sentence-transformers' CrossEncoder; its tokenizer gives back the ids that its texts spell."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import CrossEntropyLoss

    model = CrossEncoder(str(folder / "peer"), device="cpu", max_length=2 * LONGEST)
    texts = [as_pair(row["input_ids"]) for row in rows]
    columns = {"one": [pair[0] for pair in texts], "other": [pair[1] for pair in texts]}
    table = Dataset.from_dict(columns | {"label": [row["labels"] for row in rows]})
    arguments = CrossEncoderTrainingArguments(**arguments_of(len(rows), folder))
    trainer = CrossEncoderTrainer(
        model, arguments, train_dataset=table, loss=CrossEntropyLoss(model), callbacks=[callback(gate, 1)]
    )
    trainer.train()


def prepare_both(recipe_name: str, options: argparse.Namespace, folder: Path) -> tuple[list[str], list[dict]]:
    """The words of our command and the peers' rows; the same weights are stored for both."""
    import torch

    from tiebreak.config import load_recipe
    from tiebreak.data.prepare import prepare
    from tiebreak.data.templates import TEMPLATES
    from tiebreak.models.loading import build_model, load_tokenizer

    sizes = QUICK_SIZES if options.quick else SIZES
    base = enlarged(load_recipe(recipe_name).model.base, folder / "base", sizes)
    changes = [f"model.base={base}", "model.method=full", f"data.max_tokens={options.max_tokens}", "data.swap=never"]
    changes += [f"train.{name}={value}" for name, value in SAME.items()]
    changes += [f"train.batch_size={ROWS}", f"train.max_steps={MOST_STEPS}", f"train.epochs={MOST_STEPS}"]
    changes += ["train.warmup=0", "train.schedule=constant", f"train.eval_every={MOST_STEPS}", "train.precision=fp32"]
    changes += ["train.betas=[0.9,0.999]"]
    recipe = load_recipe(recipe_name, changes)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    template = TEMPLATES[recipe.model.template]
    table = write_spread_rows(folder / "table.csv", tokenizer, template, recipe.data)
    tokens = prepare([table], tokenizer, template, recipe.data, need_labels=True)
    torch.manual_seed(recipe.train.seed)
    classifier = build_model(recipe, tokenizer, torch.device("cpu"), torch.float32).classifier
    classifier.config.pad_token_id = tokenizer.pad_token_id
    classifier.save_pretrained(folder / "peer")
    write_plain_tokenizer(folder / "peer", classifier.config.vocab_size, tokenizer.pad_token_id)
    rows = [
        {"input_ids": tokens.input_ids(k)[0].tolist(), "labels": int(tokens.labels[k]), "length": int(length)}
        for k, length in enumerate(tokens.lengths)
    ]
    words = ["train", "--recipe", recipe_name, "--data", str(table), "--valid", "none", "--out", str(folder / "run")]
    return [*words, *(word for change in changes for word in ("--set", change))], rows


def measure_one(recipe: str, options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """The records of one model."""
    folder.mkdir()
    words, rows = prepare_both(recipe, options, folder)
    peers = {RANDOM: (train_transformers, folder, rows, RANDOM), GROUPED: (train_transformers, folder, rows, GROUPED)}
    if options.all:
        peers[COMPILED] = (train_transformers, folder, rows, COMPILED)
        peers |= {REWARD: (train_reward, folder, rows)} if has("trl") else {}
        peers |= {CROSS: (train_cross_encoder, folder, rows)} if has("sentence_transformers") else {}
    with contextlib.ExitStack() as open_ways:
        ways = {
            name: open_ways.enter_context(
                stepping(*target, threads=options.threads, warm=WARM.get(name, 1))
            )
            for name, target in {"tiebreak": (train_ours, words), **peers}.items()
        }  # fmt: skip
        turns = take_turns(ways, options.rounds, warm=0)
    real = sum(row["length"] for row in rows)
    rates = turns.rates(real)
    losses = {name: dict(told) for name, told in turns.results.items() if name != REWARD}
    ours = losses.pop("tiebreak")
    apart = [abs(loss - ours[step]) for each in losses.values() for step, loss in each.items() if step in ours]
    shown = [peer("Trainer", rates[RANDOM], rates[GROUPED], "rows of like length")]
    if options.all:
        shown += [
            peer("Trainer, torch.compile", None, rates[COMPILED], "rows of like length"),
            peer("TRL RewardTrainer", rates.get(REWARD), None, package="trl"),
            peer("CrossEncoderTrainer", rates.get(CROSS), None, package="sentence_transformers"),
        ]
    lengths = [row["length"] for row in rows]
    setting = f"{recipe.removeprefix('demo-')}, {real / len(rows):.0f} tokens a row (median {median(lengths):.0f})"
    yield record(
        setting, "tokens/s", rates["tiebreak"], shown, f"losses to {max(apart):.0e}",
        seconds=turns.raw, losses={name: list(each.values()) for name, each in losses.items()} | {"tiebreak": ours},
    )  # fmt: skip


if __name__ == "__main__":
    run_claim(
        __doc__,
        by_recipe(measure_one),
        recipes={"nargs": "+", "default": list(RECIPES)},
        max_tokens={"type": int, "default": LONGEST},
        all={
            "action": argparse.BooleanOptionalAction,
            "default": True,
            "help": "torch.compile, TRL and sentence-transformers too",
        },
    )
