"""Run under a launcher by test_engines.py: a few training steps of every combination, in one process group.

Usage: steps.py TABLE OUT.pt COMBINATION..., each NAME:METHOD:ENGINE with ENGINE plain, zero1, zero2 or fsdp.
Rank 0 saves per combination the steps' records, the optimizer's first moments after step 1 (the clipped
gradient times 1 - beta1), and the final weights.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from tiebreak.cluster.ranks import find_ranks, joined
from tiebreak.config import load_recipe
from tiebreak.data.plan import Plan
from tiebreak.data.tokens import prepare
from tiebreak.engines.choose import check_engine, make_engine
from tiebreak.models.loading import build_judge, load_tokenizer
from tiebreak.training.loop import Job, train_step
from tiebreak.training.losses import cross_entropy
from tiebreak.training.optimizer import build_optimizer

STEPS = 4
CHANGES = [
    "train.batch_size=15",  # shared by no number of ranks
    "train.tokens_per_micro_batch=600",  # several micro-batches a step
    "data.max_tokens=160",
    "train.lr=1e-3",
    "train.warmup=0",
    "train.max_grad_norm=0.5",  # clips: the norms are above it
    "model.lora.r=4",
    "train.eps=1e-6",  # else rounding alone moves weights whose true gradient is zero
]


class Records(list):
    """Stands in for the run's log."""

    def step(self, record: dict) -> None:
        self.append(record)


def run(table: Path, combination: str) -> dict:
    name, method, kind = combination.split(":")
    recipe = load_recipe(name, [*CHANGES, f"model.method={method}"])
    ranks = find_ranks()
    ds = Path(f"ds_configs/{kind}.json") if kind.startswith("zero") else None
    wanted = "fsdp" if kind == "fsdp" else "auto"
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([table], tokenizer, recipe.model.template, recipe.data, need_labels=True)
    judge = build_judge(recipe, tokenizer, ranks.device, torch.float32)
    config = check_engine(wanted, ds, recipe.train, ranks.world)
    engine = make_engine(judge, partial(build_optimizer, train=recipe.train), ranks, recipe.train, wanted, config)
    train, rows = recipe.train, np.arange(len(tokens))
    plan = Plan(
        tokens.lengths, train.batch_size, 1, train.seed, "random", STEPS, ranks.world, train.tokens_per_micro_batch
    )
    records = Records()
    job = Job(
        recipe,
        engine,
        plan,
        tokens,
        rows,
        tokens,
        rows[:0],
        cross_entropy,
        Path("."),
        records,
        False,
        STEPS,  # type: ignore[arg-type]
    )
    engine.module.train()
    moments = {}
    for index in range(STEPS):
        train_step(job, plan.step(index), index)
        if index == 0:
            moments = {key: state["exp_avg"].clone() for key, state in engine.optimizer_state().items()}
    weights = {key: weight.clone() for key, weight in engine.weights().items()}
    micro = [len(plan.step(index).micro_batches[0]) for index in range(STEPS)]
    return {
        "engine": engine.name,
        "wrapper": type(engine.module).__name__,
        "micro_batches": micro,
        "whole": sorted(name for name, p in judge.named_parameters() if not isinstance(p, DTensor)),
        "records": list(records),
        "moments": moments,
        "weights": weights,
    }


if __name__ == "__main__":
    table, out, *combinations = sys.argv[1:]
    ranks = find_ranks()
    with joined(ranks, 120, always=True):
        results = {combination: run(Path(table), combination) for combination in combinations}
        if ranks.first:
            torch.save(results, out)
