"""Stages of a chain: each a command in a process of its own, done once its last file is there."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tiebreak.training.preemption import STOPPED


class StageFailed(SystemExit):
    """Ends the chain with the exit code of the stage that failed; the same command goes on from there."""


def run_stage(arguments: Sequence[str], done: Path, launch: str = "") -> None:
    """Run `tiebreak ARGUMENTS` unless the file `done`, which it writes last, is there.

    Args:
        launch: words before the command, as `torchrun --nproc-per-node 8`; none is this Python.

    Raises:
        StageFailed: with the stage's exit code; signals to this process go on to it.
    """
    if done.is_file():
        print(f"done already: {done.parent}", flush=True)
        return
    command = [*(shlex.split(launch) or [sys.executable]), "-m", "tiebreak", *map(str, arguments)]
    print(f"$ tiebreak {shlex.join(map(str, arguments))}", flush=True)
    process = subprocess.Popen(command)
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, lambda number, frame: process.send_signal(number)) for number in numbers]
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the stage got it too, and saves
        code = process.wait()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if code != 0 or not done.is_file():
        again = ": run the same command again" if code == STOPPED else f" (exit code {code})"
        print(f"tiebreak: {arguments[0]} did not finish{again}", file=sys.stderr, flush=True)
        raise StageFailed(code if code > 0 else 1)
