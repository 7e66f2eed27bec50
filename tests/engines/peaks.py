"""The most memory that a rank's tensors take in a step of each engine, counted as they are made.

Usage (under a launcher): peaks.py OUT.json FOLDER COMBINATION..., each METHOD:ENGINE of a Llama-2 in FOLDER. A step of
two micro-batches of full rows is weighed, after one of short rows that has made the optimizer's states. Rank 0 writes
the bytes.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from steps import ds_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from live import Live

from tiebreak.cluster.ranks import find_ranks, joined
from tiebreak.config import Recipe, load_recipe
from tiebreak.engines.choose import Choice, choose_engine, hands_out, make_engine
from tiebreak.engines.hand_out import build_for_engine
from tiebreak.models.loading import load_tokenizer
from tiebreak.training.optimizer import build_optimizer

ROWS, LENGTH, SHORT = 2, 256, 8
CHANGES = [f"data.max_tokens={LENGTH}", f"train.tokens_per_micro_batch={ROWS * LENGTH}", "train.precision=fp32"]
BUCKET = 1_000_000
"""Weights in DeepSpeed's buckets, which are made for larger models."""


def ask(folder: Path, combination: str, world: int) -> tuple[Recipe, Choice]:
    """The recipe, and the engine that runs it."""
    method, kind = combination.split(":")
    recipe = load_recipe("demo-llama2", [f"model.base={folder}", f"model.method={method}", "model.lora.r=4", *CHANGES])
    ds = None
    if kind.startswith("zero"):
        ds = ds_file(kind)
        config = json.loads(ds.read_text())
        config["zero_optimization"]["reduce_bucket_size"] = BUCKET
        ds.write_text(json.dumps(config))
    return recipe, choose_engine("fsdp" if kind == "fsdp" else "auto", ds, recipe.train, world)


def weigh(folder: Path, combination: str) -> dict[str, int]:
    """Bytes that live before the weighed step, and the most while it runs."""
    ranks = find_ranks()
    recipe, choice = ask(folder, combination, ranks.world)
    tokenizer = load_tokenizer(str(folder), recipe.model.template)
    live = Live()
    with live:
        model = build_for_engine(recipe, tokenizer, ranks, torch.float32, hands_out(choice.kind, recipe))
        engine = make_engine(model, partial(build_optimizer, train=recipe.train), ranks, recipe, choice)
        engine.module.train()
        for length in (SHORT, LENGTH):
            held = live.live["cpu"]
            live.restart()
            for last in (False, True):
                with engine.micro_batch(last):
                    tokens = torch.randint(10, 1000, (ROWS * length,))
                    engine.backward(engine.module(tokens, [length] * ROWS).square().sum())
            engine.step(torch.zeros(1, dtype=torch.float64))
    return {"held": held, "peak": live.peak["cpu"]}


if __name__ == "__main__":
    out, folder, *combinations = sys.argv[1:]
    with joined(find_ranks(), 300, always=True):
        found = {combination: weigh(Path(folder), combination) for combination in combinations}
        if find_ranks().first:
            Path(out).write_text(json.dumps(found))
