"""Run under a launcher by test_resume.py: runs that are stopped and gone on with, in one process group.

Usage: resume.py WHAT TABLE FOLDER OUT.pt [ARGUMENT...]; rank 0 saves the final weights by name to OUT.pt.

    every-step KIND...          uninterrupted, and stopped after every step (the same ranks and engine)
    pairings METHOD...          saved after half the steps under each engine, gone on with under each
    chain UNTIL COMBINATION...  gone on with from FOLDER, which other numbers of ranks have written, to step UNTIL
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "engines"))
from steps import STEPS, make_job

from tiebreak.cluster.ranks import agree, find_ranks, joined
from tiebreak.preemption import Stopped
from tiebreak.training.checkpoints import Cursor, Saver, find_checkpoint, load_cursor, load_optimizer, load_weights
from tiebreak.training.claim import Claim, take_over
from tiebreak.training.loop import TrainingJob, fit

CHANGES = ("train.batch_size=5", "train.tokens_per_micro_batch=1000")
"""Smaller steps than those of steps.py, each in one micro-batch: what is resumed is the same."""
KINDS = ("plain", "zero1", "zero2", "zero3", "fsdp")


class StopAfter:
    """Stands in for the request to stop: made during a step, by the count of steps that the log has."""

    def __init__(self, job: TrainingJob, steps: int) -> None:
        self.job, self.steps = job, steps

    def __bool__(self) -> bool:
        return len(self.job.log) >= self.steps - 1

    def clear(self) -> None:
        """There is no STOP file."""


def go_on(table: Path, combination: str, folder: Path, until: int | None = None, save_in: Path | None = None):
    """From the newest checkpoint in `folder`, if any, to step `until` or the end; the weights by name."""
    ranks = find_ranks()
    job = make_job(table, combination, CHANGES)
    if ranks.first:
        for path in {folder, save_in or folder}:
            path.mkdir(parents=True, exist_ok=True)
    claim: Claim = agree(take_over(save_in or folder) if ranks.first else None)
    job.saver = Saver(save_in or folder, job.engine, 99, claim, 60)
    found, passed = agree(find_checkpoint(folder))
    assert not passed
    cursor = Cursor()
    if found is not None:
        cursor = load_cursor(found)
        load_weights(found, job.engine)
        load_optimizer(found, job.engine)
    if until is not None:
        job.stop = StopAfter(job, until - cursor.step)
    try:
        fit(job, cursor)
        assert until is None, "the request to stop was not noticed"
    except Stopped:
        assert cursor.step == until
    return {name: job.engine.get_weight(p).clone() for name, p in job.engine.trainable().items()}


def every_step(table: Path, folder: Path, *kinds: str) -> dict:
    results = {}
    for kind in kinds:
        combination = f"demo-llama2:qlora:{kind}"
        whole = go_on(table, combination, folder / kind / "whole")
        for step in range(1, STEPS):
            go_on(table, combination, folder / kind / "parted", until=step)
        results[kind] = whole, go_on(table, combination, folder / kind / "parted")
    return results


def pairings(table: Path, folder: Path, *methods: str) -> dict:
    results = {}
    for method in methods:
        for then in KINDS:
            go_on(table, f"demo-gemma2:{method}:{then}", folder / method / then, until=STEPS // 2)
        for then in KINDS:
            for now in KINDS:
                scratch = folder / method / f"{then}-{now}"
                results[method, then, now] = go_on(
                    table, f"demo-gemma2:{method}:{now}", folder / method / then, save_in=scratch
                )
    return results


def chain(table: Path, folder: Path, until: str, *combinations: str) -> dict:
    last = None if int(until) >= STEPS else int(until)
    return {c: go_on(table, c, folder / c.rpartition(":")[0].replace(":", "-"), last) for c in combinations}


if __name__ == "__main__":
    what, table, folder, out, *arguments = sys.argv[1:]
    work = {"every-step": every_step, "pairings": pairings, "chain": chain}[what]
    ranks = find_ranks()
    with joined(ranks, 120, always=True):
        results = work(Path(table), Path(folder), *arguments)
        if ranks.first:
            torch.save(results, out)
