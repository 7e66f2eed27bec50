"""Stages that do not wait for one another, run at once on one machine, each on its share of the cores.

Two processes of one thread each do more than one of two threads: what a tiny or middling model computes is too little
to be cut in two.
"""

import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from tiebreak.pipeline import stage_record
from tiebreak.pipeline.stages import Stage, failure
from tiebreak.pipeline.warm import ForkedCommand, warm_up
from tiebreak.preemption import STOP_SIGNALS

POLL_S = 0.05

log = logging.getLogger(__name__)


@dataclass
class Running:
    """A stage that runs, what it has printed, and the cores that are its own."""

    stage: Stage
    process: ForkedCommand
    output: IO[bytes]
    cores: list[int]
    made_of: stage_record.StageRecord


def can_run_beside(beside: int, launch: str) -> bool:
    """Whether stages may run at once here: several are asked for, no launcher, no GPU, and cores for two."""
    if beside < 2 or launch or not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return False
    import torch

    return not torch.cuda.is_available()


def run_beside(stages: Sequence[Stage], beside: int) -> bool:
    """Run every stage that is not done yet, as many at once as their needs allow.

    What a stage prints is shown when it ends, so that two do not mix. Signals go on to all that run.

    Args:
        stages: in an order that they could run in one by one.
        beside: how many at once, at most; never more than there are cores.

    Returns:
        False, with nothing done, where processes cannot be forked.

    Raises:
        StageFailed: with the exit code of the first stage that did not finish, after the others were stopped.
    """
    if not warm_up():
        return False
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[k :: min(beside, len(cores))] for k in range(min(beside, len(cores)))]
    waiting, done = list(stages), set[str]()
    running: list[Running] = []

    def forward(number: int, frame: object) -> None:
        for one in running:
            one.process.send_signal(number)

    interrupted = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        interrupted.set()  # those that run got it from the terminal too, and save

    handlers = [(number, signal.signal(number, forward)) for number in STOP_SIGNALS]
    handlers.append((signal.SIGINT, signal.signal(signal.SIGINT, interrupt)))
    try:
        while running or (waiting and not interrupted.is_set()):
            ready = [] if interrupted.is_set() else [one for one in waiting if done.issuperset(one.needs)]
            for stage in ready[: len(shares)]:
                waiting.remove(stage)
                if stage.is_done():
                    log.info(f"done already: {stage.name}")
                    done.add(stage.name)
                else:
                    running.append(_start(stage, shares.pop()))
            ended = next((one for one in running if one.process.poll() is not None), None)
            if ended is None:
                time.sleep(POLL_S)
                continue
            running.remove(ended)
            shares.append(ended.cores)
            _end(ended)
            done.add(ended.stage.name)
    finally:
        for one in running:
            one.process.send_signal(signal.SIGTERM)
        for one in running:
            one.process.wait()
            _show(one)
        for number, handler in handlers:
            signal.signal(number, handler)
    if interrupted.is_set():
        raise KeyboardInterrupt
    return True


def _start(stage: Stage, cores: list[int]) -> Running:
    log.info(f"begun: {stage.name}")
    made_of = stage.made_of()
    stage_record.begin(made_of, stage.done, stage.record)
    output = tempfile.TemporaryFile()  # noqa: SIM115
    return Running(stage, ForkedCommand(stage.arguments, output.fileno(), cores), output, cores, made_of)


def _end(ended: Running) -> None:
    """Show what a stage printed; raise unless it finished."""
    code = ended.process.wait()
    _show(ended)
    if code != 0 or not ended.stage.done.is_file():
        raise failure(ended.stage, code)
    stage_record.end(ended.made_of, ended.stage.done, ended.stage.record, ended.stage.also)


def _show(ended: Running) -> None:
    log.info(f"$ tiebreak {shlex.join(ended.stage.arguments)}")
    sys.stdout.flush()
    with ended.output as output:
        output.seek(0)
        if hasattr(sys.stdout, "buffer"):
            shutil.copyfileobj(output, sys.stdout.buffer)
        else:  # a stream in memory, as notebooks have
            sys.stdout.write(output.read().decode(errors="replace"))
    sys.stdout.flush()
