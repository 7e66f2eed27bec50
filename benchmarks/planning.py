"""Seconds and memory to plan ten and a hundred million rows: blocks of prediction, and training up to its first step.

    python benchmarks/planning.py --rows 10000000

Rows are lengths alone, as the Arena's are drawn (benchmarks/straggle.py). Prediction is planned whole: blocks of like
length. Training is planned as far as its first step needs, which is an epoch's order and the layout of 4,096 steps on
64 ranks; the Trainer needs its epoch's order too, by its own samplers, random or with rows of like length. The peers
stop at ten million: their lists of a hundred million Python numbers take tens of GiB. `ten_million.py` does all the
rest of a prediction of ten million rows: leases, parts, merging.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from straggle import draw_lengths
from timing import Turns, fresh, peak_growth, peer, record, run_claim, take_turns

from tiebreak.config import load_recipe
from tiebreak.data.plan import Plan, blocks

RANKS, BATCH = 64, 512
LARGEST_OF_PEERS = 10_000_000
PEER_BATCH = 8


def plan_training(rows: int, gigabytes: bool = False) -> float:
    """Seconds, or GiB, up to the first step."""
    lengths = draw_lengths(rows)
    return _cost(lambda: Plan(lengths, BATCH, 1, 0, world=RANKS).step(0), gigabytes)


def plan_prediction(rows: int, gigabytes: bool = False) -> float:
    """Seconds, or GiB, of all blocks."""
    lengths, tokens = draw_lengths(rows), load_recipe("demo-deberta").predict.tokens_per_block
    return _cost(lambda: blocks(lengths, tokens), gigabytes)


def _cost(work, gigabytes: bool) -> float:
    began = time.perf_counter()
    grown = peak_growth(work) / 1024
    return grown if gigabytes else time.perf_counter() - began


def beside_peers(rows: int, rounds: int) -> Turns:
    """Training up to the first step, ours and the Trainer's samplers."""
    from torch.utils.data import RandomSampler
    from transformers.trainer_pt_utils import LengthGroupedSampler

    lengths = draw_lengths(rows)
    as_list = lengths.tolist()
    ways = {
        "tiebreak": lambda: Plan(lengths, BATCH, 1, 0, world=RANKS).step(0),
        "random": lambda: next(iter(RandomSampler(as_list))),
        "grouped": lambda: next(iter(LengthGroupedSampler(PEER_BATCH, lengths=as_list))),
    }
    return take_turns(ways, rounds, warm=0)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Every number of rows; what takes minutes is done once."""
    for rows in [100_000] if options.quick else options.rows:
        shown = f"{rows:,} rows"
        if rows <= LARGEST_OF_PEERS:
            turns = beside_peers(rows, options.rounds)
            others = peer("Trainer", turns.of("random"), turns.of("grouped"), "rows of like length")
            setting = f"{shown}, training up to its first step"
            yield record(setting, "s", turns.of("tiebreak"), [others], seconds=turns.raw)
        for what, plan in (("training up to its first step", plan_training), ("prediction", plan_prediction)):
            grown = fresh(plan, rows, True)
            seconds = fresh(plan, rows)
            yield record(f"{shown}, {what}", "s", seconds, [], f"{grown:.2f} GiB beside the lengths")


if __name__ == "__main__":
    run_claim(__doc__, measure, rows={"type": int, "nargs": "+", "default": [10_000_000, 100_000_000]})
