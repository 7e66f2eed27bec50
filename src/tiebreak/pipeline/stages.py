"""Stages of a pipeline: each a command in a process of its own, done once its last file is there."""

import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.pipeline.warm import ForkedCommand, warm_up
from tiebreak.preemption import STOP_SIGNALS, STOPPED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A command of ours, and what it waits for.

    Attributes:
        name: unique within a pipeline.
        arguments: words after `tiebreak`.
        done: the file that it writes last.
        needs: names of the stages before it.
        gpu: whether the launcher starts it, on the accelerators.
    """

    name: str
    arguments: list[str]
    done: Path
    needs: tuple[str, ...] = ()
    gpu: bool = False


class StageFailed(SystemExit):
    """Ends the command with the exit code of the stage that failed; the same command goes on from there."""


def run_stage(stage: Stage, launch: str = "") -> None:
    """Run a stage unless it is done.

    Args:
        stage: what to run.
        launch: launcher of a stage on the accelerators, e.g. `torchrun --nproc-per-node 8`.

    Raises:
        StageFailed: with the stage's exit code; signals to this process go on to it.
    """
    if stage.done.is_file():
        log.info(f"done already: {stage.name}")
        return
    launcher = shlex.split(launch) if stage.gpu else []
    log.info(f"$ tiebreak {shlex.join(stage.arguments)}")
    sys.stdout.flush()  # before the stage writes there itself
    process: ForkedCommand | subprocess.Popen[bytes]
    if stage.gpu and not launcher and warm_up():
        process = ForkedCommand(stage.arguments)
    else:
        process = subprocess.Popen([*(launcher or [sys.executable]), "-m", "tiebreak", *stage.arguments])
    numbers = STOP_SIGNALS
    handlers = [signal.signal(number, lambda number, frame: process.send_signal(number)) for number in numbers]
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the stage got it too, and saves
        code = process.wait()
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
    if code != 0 or not stage.done.is_file():
        raise failure(stage, code)


def failure(stage: Stage, code: int) -> StageFailed:
    """Say that a stage ended with this code and is not done; what to raise."""
    again = ": run the same command again" if code == STOPPED else f" (exit code {code})"
    print(f"tiebreak: stage {stage.name} did not finish{again}", file=sys.stderr, flush=True)
    return StageFailed(code if code > 0 else 1)


def exec_stage(stages: Sequence[Stage], name: str) -> None:
    """Turn this process, one of any number under a launcher, into the stage; return only if that is done already.

    Raises:
        UserError: no such stage, or one before it is not done.
    """
    stage = check_needs(stages, name)
    if stage.done.is_file():
        log.info(f"done already: {name}")
        return
    os.execv(sys.executable, [sys.executable, "-m", "tiebreak", *stage.arguments])


def check_needs(stages: Sequence[Stage], name: str) -> Stage:
    """The stage of this name, if all that it needs is done.

    Raises:
        UserError: no such stage, or one before it is not done.
    """
    known = {stage.name: stage for stage in stages}
    if name not in known:
        raise UserError(f"no stage {name!r}; the stages are {', '.join(known)}")
    if waiting := [need for need in known[name].needs if not known[need].done.is_file()]:
        raise UserError(f"stage {name} needs stages that are not done: {', '.join(waiting)}")
    return known[name]


def list_stages(stages: Sequence[Stage]) -> str:
    """A line per stage, tab-separated: name, what it needs or `-`, `cpu` or `gpu`, `done` or `todo`."""
    return "\n".join(
        "\t".join(
            [
                stage.name,
                ",".join(stage.needs) or "-",
                "gpu" if stage.gpu else "cpu",
                "done" if stage.done.is_file() else "todo",
            ]
        )
        for stage in stages
    )
