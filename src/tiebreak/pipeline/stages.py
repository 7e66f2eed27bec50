"""Stages of a pipeline: each a command in a process of its own, done once its last file is there and of its making."""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tiebreak.cluster.ranks import own_rank
from tiebreak.errors import UserError
from tiebreak.pipeline import stage_record
from tiebreak.pipeline.warm import ForkedCommand, warm_up
from tiebreak.preemption import STOP_SIGNALS, STOPPED
from tiebreak.terminal import complain

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
        also: further files that it leaves and later stages read.
        waited_for: the last files of those stages.
        record: where it is kept what it was made of; None keeps nothing.
    """

    name: str
    arguments: list[str]
    done: Path
    needs: tuple[str, ...] = ()
    gpu: bool = False
    also: tuple[Path, ...] = ()
    waited_for: tuple[Path, ...] = ()
    record: Path | None = None

    def made_of(self) -> stage_record.StageRecord:
        """What it would be made of now."""
        return stage_record.make_record(self.arguments, self.waited_for, self.done)

    def is_done(self) -> bool:
        """Whether it need not run: its last file is there, whole, and made of what is there now."""
        return stage_record.is_done(self.name, self.done, self.made_of(), self.record, self.also)


def with_records(stages: Sequence[Stage], out: Path) -> list[Stage]:
    """The stages of a chain, with a record of each below the chain's folder."""
    done = {stage.name: stage.done for stage in stages}
    return [
        replace(
            stage,
            waited_for=tuple(done[name] for name in stage.needs if name in done),
            record=stage_record.record_path(out, stage.name),
        )
        for stage in stages
    ]


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
    launcher = read_launcher(launch) if stage.gpu else []
    if stage.is_done():
        log.info(f"done already: {stage.name}")
        return
    made_of = stage.made_of()
    stage_record.begin(made_of, stage.done, stage.record)
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
    stage_record.end(made_of, stage.done, stage.record, stage.also)


def read_launcher(launch: str) -> list[str]:
    """The words of a launcher, none if there is none.

    Raises:
        UserError: an unclosed quote, or a command that is not there.
    """
    try:
        words = shlex.split(launch)
    except ValueError as error:
        raise UserError(f"--launch {launch!r}: {error}; quote it as a shell would") from None
    if words and shutil.which(words[0]) is None:
        raise UserError(f"--launch {launch!r}: there is no command {words[0]}; is it installed, and in PATH?")
    return words


def failure(stage: Stage, code: int) -> StageFailed:
    """Say that a stage ended with this code and is not done; what to raise."""
    if -code in STOP_SIGNALS:  # before it could take the signal
        code = STOPPED
    why = "" if code == STOPPED else f" (exit code {code}): correct what is said above, then"
    complain(f"tiebreak: stage {stage.name} did not finish{why or ':'} run the same command again")
    return StageFailed(code if code > 0 else 1)


def exec_stage(stages: Sequence[Stage], name: str) -> None:
    """Turn this process, one of any number under a launcher, into the stage; return only if that is done already.

    Raises:
        UserError: no such stage, or one before it is not done.
    """
    stage = check_needs(stages, name)
    if stage.is_done():
        log.info(f"done already: {name}")
        return
    if own_rank() == 0:
        stage_record.begin(stage.made_of(), stage.done, stage.record)
    os.execv(sys.executable, [sys.executable, "-m", "tiebreak", *stage.arguments])


def check_needs(stages: Sequence[Stage], name: str) -> Stage:
    """The stage of this name, if all that it needs is done.

    Raises:
        UserError: no such stage, or one before it is not done.
    """
    known = {stage.name: stage for stage in stages}
    if name not in known:
        raise UserError(f"no stage {name!r}; the stages are {', '.join(known)}")
    if waiting := [need for need in known[name].needs if not known[need].is_done()]:
        raise UserError(f"stage {name} needs stages that are not done: {', '.join(waiting)}; run these first")
    return known[name]


def list_stages(stages: Sequence[Stage]) -> str:
    """A line per stage, tab-separated: name, what it needs or `-`, `cpu` or `gpu`, `done` or `todo`."""
    return "\n".join(
        "\t".join(
            [
                stage.name,
                ",".join(stage.needs) or "-",
                "gpu" if stage.gpu else "cpu",
                "done" if stage.is_done() else "todo",
            ]
        )
        for stage in stages
    )
