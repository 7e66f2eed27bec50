"""Rows per second of `tiebreak predict` against Hugging Face's Trainer.predict, on the same model and the same rows.

    python benchmarks/predict_speed.py                    # a small DeBERTa on rows as long as the Arena's, float32
    python benchmarks/predict_speed.py --recipe demo-gemma2 --rows 200
    python benchmarks/predict_speed.py --workers          # one process against two, a core each

The peer runs as it comes (batches of 8 rows in the input's order, padded to the longest of the batch) and at its best
(sorted by length). Every way of predicting takes its turn in each round, in alternating order, in one process with the
same number of threads and the same allocator settings, those of the `tiebreak` command; tokenisation, loading and
merging are outside the clock of all. Printed: rows and real tokens per second (medians over the rounds), the ratios,
the padding each runs, and the largest difference of a logit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command sets it, for the peer too

import numpy as np
import torch

from tiebreak.config import load_recipe
from tiebreak.data.plan import blocks
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.prediction.compute import SwapPolicy, forward, run_blocks
from tiebreak.sample.generator import write_sample

SIZES = {
    "hidden_size": 192,
    "pooler_hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}
"""Of the base in place of the demo's own: large enough that the matrix products count."""


def enlarged(base: str, folder: Path) -> str:
    """The demo base's architecture and tokenizer at these sizes, with random weights."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from tiebreak.models.bases import resolve_base

    found = resolve_base(base)
    config = AutoConfig.from_pretrained(found)
    for name, value in SIZES.items():
        setattr(config, name, value)
    if hasattr(config, "layer_types") and config.layer_types:
        config.layer_types = [config.layer_types[k % len(config.layer_types)] for k in range(config.num_hidden_layers)]
    if hasattr(config, "num_key_value_heads") and config.num_key_value_heads:
        config.num_key_value_heads, config.head_dim = config.num_attention_heads, 32
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(found).save_pretrained(folder)
    return str(folder)


def compare(options: argparse.Namespace, folder: Path) -> dict:
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    base = load_recipe(options.recipe).model.base
    recipe = load_recipe(
        options.recipe,
        [f"model.base={enlarged(base, folder / 'base')}", "model.method=full", f"data.max_tokens={options.max_tokens}"],
    )
    write_sample(folder / "table.csv", options.rows, seed=11, profile="arena")
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([folder / "table.csv"], tokenizer, TEMPLATES[recipe.model.template], recipe.data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge = build_model(recipe, tokenizer, device, torch.float32).eval()
    # The peer gets transformers' own attention, from the same weights.
    judge.classifier.save_pretrained(folder / "peer")
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(folder / "peer").to(device).eval()
    plain.config.pad_token_id = tokenizer.pad_token_id
    rows = [{"input_ids": tokens.input_ids(k)[0].tolist(), "labels": 0} for k in range(len(tokens))]
    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_eval_batch_size=8,
        report_to=[],
        disable_tqdm=True,
        use_cpu=device.type == "cpu",
    )
    trainer = Trainer(plain, arguments, data_collator=DataCollatorWithPadding(tokenizer))
    order = np.argsort(tokens.lengths, kind="stable")
    cut = blocks(tokens.lengths, recipe.predict.tokens_per_block)[::-1]

    def ours() -> np.ndarray:
        part = run_blocks(
            lambda some, swapped: forward(judge, tokens, some, swapped), tokens.lengths, cut, SwapPolicy()
        )
        logits = np.empty_like(part.logits)
        logits[part.rows] = part.logits
        return logits

    def as_it_comes() -> np.ndarray:
        return trainer.predict(rows).predictions

    def sorted_by_length() -> np.ndarray:
        logits = np.empty((len(rows), 3), dtype=np.float32)
        logits[order] = trainer.predict([rows[k] for k in order]).predictions
        return logits

    ways = {"tiebreak": ours, "Trainer, as it comes": as_it_comes, "Trainer, sorted": sorted_by_length}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    logits: dict[str, np.ndarray] = {}
    for k in range(options.rounds):
        for name in sorted(ways, reverse=k % 2 == 1):
            began = time.perf_counter()
            logits[name] = ways[name]()
            seconds[name].append(time.perf_counter() - began)
            print(f"round {k + 1}/{options.rounds}: {name}, {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    real = int(tokens.lengths.sum())
    lengths = {"Trainer, as it comes": tokens.lengths, "Trainer, sorted": tokens.lengths[order]}
    padded = {
        name: sum(8 * int(each[k : k + 8].max()) for k in range(0, len(each), 8)) / real
        for name, each in lengths.items()
    }
    took = {name: median(each) for name, each in seconds.items()}
    return {
        "recipe": options.recipe,
        "rows": len(tokens),
        "mean_tokens": round(real / len(tokens), 1),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "rows_per_second": {name: round(len(tokens) / value, 2) for name, value in took.items()},
        "real_tokens_per_second": {name: round(real / value) for name, value in took.items()},
        "tokens_run_per_real_token": {"tiebreak": 1.0} | {name: round(value, 3) for name, value in padded.items()},
        "ratio": {name: round(took[name] / took["tiebreak"], 2) for name in ways if name != "tiebreak"},
        "largest_logit_difference": float(max(np.abs(logits[name] - logits["tiebreak"]).max() for name in logits)),
    }


def compare_workers(options: argparse.Namespace, folder: Path) -> dict:
    """The whole command by one process and by two, each on one thread; from the first part to the merged table."""
    from tiebreak.cli import main

    write_sample(folder / "table.csv", options.rows, seed=11, profile="arena")
    run = folder / "run"
    changes = [f"data.max_tokens={options.max_tokens}", "train.max_steps=1", "train.batch_size=8", "train.epochs=1"]
    common = [word for change in [*changes, "predict.tokens_per_block=4096"] for word in ("--set", change)]
    base = enlarged(load_recipe(options.recipe).model.base, folder / "base")
    train = ["train", "--recipe", options.recipe, "--model", base, "--data", str(folder / "table.csv")]
    assert main([*train, *common, "--set", "model.method=full", "--valid", "none", "--out", str(run)]) == 0
    predict = [sys.executable, "-m", "tiebreak", "predict", "--model", str(run), "--data", str(folder / "table.csv")]
    took: dict[int, list[float]] = {1: [], 2: []}
    for k in range(options.rounds):
        for count in (1, 2) if k % 2 == 0 else (2, 1):
            out = folder / f"out-{k}-{count}"
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            began = time.time()
            processes = [
                subprocess.Popen([*predict, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL)
                for _ in range(count)
            ]
            assert [process.wait() for process in processes] == [0] * count
            # Starting Python and its libraries is no part of the work: count from when the folder is there.
            (parts,) = out.glob("parts-*")
            began = max(began, (parts / "ids.jsonl").stat().st_mtime)
            took[count].append((out / "merged.json").stat().st_mtime - began)
    files = [folder / f"out-0-{count}" / "predictions.csv" for count in (1, 2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    one, two = (median(took[count]) for count in (1, 2))
    return {"rows": options.rows, "one_s": round(one, 1), "two_s": round(two, 1), "ratio": round(two / one, 3)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo-deberta")
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="as many as there are cores without")
    parser.add_argument("--workers", action="store_true", help="one process against two instead")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    # Progress goes to stderr.
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        found = (compare_workers if options.workers else compare)(options, Path(folder))
    print(json.dumps(found, indent=2))
