"""One row at a time: a DeBERTa of 6 x 384 by length, ours against transformers, torch.compile and onnxruntime.

    python benchmarks/single_row.py --lengths 256 512 --threads 1

What a server does that answers as rows come. fp32, random weights, one process, batches of one row: nobody pads.
onnxruntime runs our export (`tiebreak export --onnx`). Compared are the logits.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from subjects import SIZES, compile_layers, train_judge
from timing import has, peer, record, run_claim, take_turns

XSMALL = SIZES | {
    "hidden_size": 384,
    "pooler_hidden_size": 384,
    "intermediate_size": 1_536,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}
OURS, EAGER, COMPILED, ONNX = "tiebreak", "transformers", "torch.compile", "onnxruntime"
REPEATS = 3
"""Rows of each turn."""


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Every length."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from tiebreak.api import Judge
    from tiebreak.export.export import export_judge
    from tiebreak.prediction.onnx_model import OnnxModel

    lengths = [256] if options.quick else options.lengths
    run = train_judge("demo-deberta", folder, max_tokens=max(lengths), sizes=XSMALL)
    judge = Judge.load(run, "cpu", "fp32").model
    judge.classifier.save_pretrained(folder / "peer")
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "peer").eval()
    session = None
    if has("onnx") and has("onnxruntime"):
        export_judge(run, folder / "onnx", tolerance=9, agreement=0, rows=8)
        session = OnnxModel(folder / "onnx", threads=options.threads)
    compiled = None
    if not options.quick:
        again = AutoModelForSequenceClassification.from_pretrained(folder / "peer").eval()
        compiled = compile_layers(again)
    rng = np.random.default_rng(0)
    for length in lengths:
        rows = rng.integers(5, plain.config.vocab_size - 20, (REPEATS, length))
        tensors = [torch.from_numpy(row) for row in rows]
        ways = {
            OURS: lambda t=tensors: [judge(row, [len(row)], None).numpy() for row in t],
            EAGER: lambda t=tensors: [plain(row[None], attention_mask=torch.ones(1, len(row))).logits for row in t],
        }
        if compiled is not None:
            ways[COMPILED] = lambda t=tensors: [
                compiled(row[None], attention_mask=torch.ones(1, len(row))).logits for row in t
            ]
        if session is not None:
            ways[ONNX] = lambda r=rows: [session.logits([[row]]) for row in r]
        with torch.no_grad():
            turns = take_turns(ways, options.rounds, warm=2)
        logits = {name: np.concatenate([np.asarray(one) for one in told[-1]]) for name, told in turns.results.items()}
        apart = max(float(np.abs(each - logits[OURS]).max()) for each in logits.values())
        took = {name: 1_000 * turns.of(name) / REPEATS for name in ways}
        best = min(took.get(COMPILED, took[EAGER]), took[EAGER])
        how = "torch.compile" if best < took[EAGER] else "as it comes"
        peers = [peer("onnxruntime, our export", None, took.get(ONNX), package="onnxruntime")]
        peers.append(peer("transformers", took[EAGER], best, how))
        setting = f"deberta 6 x 384, one row of {length:,} tokens"
        yield record(setting, "ms", took[OURS], peers, f"logits to {apart:.0e}", seconds=turns.raw)


if __name__ == "__main__":
    run_claim(__doc__, measure, lengths={"type": int, "nargs": "+", "default": [256, 512, 1_024]})
