"""Rows a second of prediction: ours against Trainer.predict, torch.compile, CrossEncoder.predict and onnxruntime.

    python benchmarks/predict_speed.py --recipes demo-deberta --threads 2

One judge with random weights, 24 rows that are spread and pad like the Arena's, fp32, all ways in one process. The
peers run as they come (the Trainer in batches of 8 rows in the input's order, CrossEncoder.predict in batches of 32,
which it sorts by length itself) and at their best (rows sorted by length; the best of several sizes of batch, tried
before). onnxruntime runs our export of the same judge, in bulk. Tokenisation, loading and merging are outside the clock
of all; only CrossEncoder.predict splits its texts, spelled ids, within it. Compared are the logits.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from subjects import (
    LONGEST,
    QUICK_SIZES,
    RECIPES,
    SIZES,
    as_pair,
    compile_layers,
    train_judge,
    write_plain_tokenizer,
    write_rows,
    write_spread_rows,
)
from timing import Ways, by_recipe, has, peer, record, run_claim, take_turns

OURS, COMES, SORTED, COMPILED = "tiebreak", "Trainer, as it comes", "Trainer, sorted", "torch.compile, sorted"
CROSS, CROSS_BEST, ONNX = "CrossEncoder", "CrossEncoder, best batch", "onnxruntime"
PEER_ROWS = 8
BATCHES = (1, 4, 8)
"""Of CrossEncoder.predict beside its default 32; the fastest over a few rows is its best."""
Predict = Callable[[], np.ndarray]


def in_order(order: np.ndarray, predict: Callable[[list[int]], np.ndarray]) -> Predict:
    """Predict rows in this order, and put the logits back."""

    def run() -> np.ndarray:
        logits = np.empty((len(order), 3), np.float32)
        logits[order] = predict(order.tolist())
        return logits

    return run


def ours(judge: Any, tokens: Any) -> Predict:
    """What `tiebreak predict` does between tokens and logits."""
    from tiebreak.data.plan import blocks
    from tiebreak.prediction.compute import SwapPolicy, forward, run_blocks

    cut = blocks(tokens.lengths, judge.recipe.predict.tokens_per_block)[::-1]

    def run() -> np.ndarray:
        part = run_blocks(
            lambda some, swap: forward(judge.model, tokens, some, swap), tokens.lengths, cut, SwapPolicy()
        )
        logits = np.empty_like(part.logits)
        logits[part.rows] = part.logits
        return logits

    return run


def trainer_ways(plain: Any, tokenizer: Any, rows: list[list[int]], order: np.ndarray, folder: Path) -> dict:
    """Hugging Face's Trainer in the input's order and sorted."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_eval_batch_size=PEER_ROWS,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(plain, arguments, data_collator=DataCollatorWithPadding(tokenizer))

    def predict(chosen: list[int]) -> np.ndarray:
        return trainer.predict([{"input_ids": rows[k], "labels": 0} for k in chosen]).predictions

    return {COMES: in_order(np.arange(len(rows)), predict), SORTED: in_order(order, predict)}


def compiled(model: Any, tokenizer: Any, rows: list[list[int]], order: np.ndarray) -> Predict:
    """Batches of like length through compiled layers."""
    import torch

    def predict(chosen: list[int]) -> np.ndarray:
        logits = []
        with torch.no_grad():
            for start in range(0, len(chosen), PEER_ROWS):
                some = [{"input_ids": rows[k]} for k in chosen[start : start + PEER_ROWS]]
                logits.append(model(**tokenizer.pad(some, return_tensors="pt")).logits.numpy())
        return np.concatenate(logits)

    return in_order(order, predict)


def cross_encoder_ways(folder: Path, rows: list[list[int]], order: np.ndarray) -> tuple[Ways, int]:
    """CrossEncoder.predict as it comes, and in the batches that a few rows went fastest in."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", max_length=2 * LONGEST)
    texts = [as_pair(row) for row in rows]
    some = [texts[k] for k in order[:: max(1, len(order) // PEER_ROWS)]]

    def seconds(batch: int) -> float:
        began = time.perf_counter()
        model.predict(some, batch_size=batch, show_progress_bar=False)
        return time.perf_counter() - began

    best = min(BATCHES, key=lambda batch: min(seconds(batch) for _ in range(2)))
    ways = {
        CROSS: lambda: model.predict(texts, show_progress_bar=False),
        CROSS_BEST: lambda: model.predict(texts, batch_size=best, show_progress_bar=False),
    }
    return ways, best


def measure_one(recipe: str, options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """The record of one model."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tiebreak.api import Judge
    from tiebreak.data.prepare import prepare
    from tiebreak.export.export import export_judge
    from tiebreak.prediction.onnx_model import OnnxModel

    folder.mkdir()
    run = train_judge(recipe, folder, options.max_tokens, QUICK_SIZES if options.quick else SIZES)
    judge = Judge.load(run, "cpu", "fp32")
    spread = (judge.tokenizer, judge.manifest.text_template(judge.recipe), judge.recipe.data)
    tokens = prepare([write_spread_rows(folder / "table.csv", *spread)], *spread)
    # The peers get transformers' own attention, from the same weights.
    judge.model.classifier.save_pretrained(folder / "peer")
    pad = judge.tokenizer.pad_token_id
    write_plain_tokenizer(folder / "peer", judge.model.classifier.config.vocab_size, pad)
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "peer").eval()
    plain.config.pad_token_id = pad
    tokenizer = AutoTokenizer.from_pretrained(folder / "peer")
    rows = [tokens.input_ids(k)[0].tolist() for k in range(len(tokens))]
    order = np.argsort(-tokens.lengths, kind="stable")
    ways: Ways = {OURS: ours(judge, tokens), **trainer_ways(plain, tokenizer, rows, order, folder)}
    best = 0
    if options.all:
        again = AutoModelForSequenceClassification.from_pretrained(folder / "peer", pad_token_id=pad).eval()
        ways[COMPILED] = compiled(compile_layers(again), tokenizer, rows, order)
    if not options.quick and has("sentence_transformers"):
        more, best = cross_encoder_ways(folder / "peer", rows, order)
        ways |= more if options.all else {CROSS_BEST: more[CROSS_BEST]}
    graph = not options.quick and "deberta" in recipe and has("onnxruntime") and has("onnx")
    if graph:
        export_judge(run, folder / "onnx", data=[write_rows(folder / "held.csv", 8, seed=17)], tolerance=9, agreement=0)
        session = OnnxModel(folder / "onnx", threads=options.threads)
        ways[ONNX] = lambda: session.logits([[np.array(row)] for row in rows])
    turns = take_turns(ways, options.rounds)
    torch._dynamo.reset()
    rates = turns.rates(len(rows))
    logits = {name: told[-1] for name, told in turns.results.items()}
    apart = max(float(np.abs(each - logits[OURS]).max()) for each in logits.values())
    peers = [peer("Trainer.predict", rates[COMES], rates[SORTED], "sorted")]
    if options.all:
        peers.append(peer("transformers, torch.compile", None, rates[COMPILED], "sorted"))
    if not options.quick:
        name, package = "CrossEncoder.predict", "sentence_transformers"
        peers.append(peer(name, rates.get(CROSS), rates.get(CROSS_BEST), f"batches of {best}", package=package))
    if graph:
        peers.append(peer("onnxruntime, our export", None, rates[ONNX], "in bulk"))
    setting = f"{recipe.removeprefix('demo-')}, {tokens.lengths.mean():.0f} tokens a row"
    real = int(tokens.lengths.sum())
    padded = {
        name: sum(PEER_ROWS * int(each[k : k + PEER_ROWS].max()) for k in range(0, len(each), PEER_ROWS)) / real
        for name, each in {COMES: tokens.lengths, SORTED: tokens.lengths[order]}.items()
    }
    yield record(
        setting, "rows/s", rates[OURS], peers, f"logits to {apart:.0e}",
        seconds=turns.raw, tokens_run_per_real_token=padded,
    )  # fmt: skip


if __name__ == "__main__":
    run_claim(
        __doc__,
        by_recipe(measure_one),
        recipes={"nargs": "+", "default": list(RECIPES)},
        max_tokens={"type": int, "default": LONGEST},
        all={"action": argparse.BooleanOptionalAction, "default": True, "help": "torch.compile too"},
    )
