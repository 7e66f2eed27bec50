"""Requests to stop: a signal, Ctrl-C or a STOP file lead to a checkpoint and exit code 75."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tiebreak.terminal import complain

STOPPED = 75
"""Exit code of a command that was stopped and may be run again."""
INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Slurm and launchers send these. Batch files send USR2: NCCL may catch USR1 (facebookincubator/submitit#1697)."""


AGAIN_S = 0.05

_interrupted = threading.Event()
_others: Callable[[Any], object] = sys.unraisablehook
"""The hook before ours."""


class Stopped(SystemExit):
    """Ends the process with exit code 75: what was reached is saved, and the same command goes on."""

    def __init__(self, alone: bool = False) -> None:
        super().__init__(STOPPED)
        self.alone = alone
        """Whether other ranks know nothing of it: they must not be waited for."""


def stop_at_once() -> None:
    """End the process with exit code 75 at any stop signal: for the time in which there is nothing to save."""
    global _others
    if threading.current_thread() is not threading.main_thread():  # where Python delivers no signals
        return
    _interrupted.clear()
    for number in STOP_SIGNALS:
        signal.signal(number, _end)
    signal.signal(signal.SIGINT, _interrupt)
    if sys.unraisablehook is not _ask_again:
        _others, sys.unraisablehook = sys.unraisablehook, _ask_again


def _ask_again(dropped: Any) -> None:
    """Send a stop signal once more, a little later, whose exception Python has dropped: it came while a callback of an
    import's locks or a finaliser ran, and the command would go on."""
    if isinstance(dropped.exc_value, (Stopped, KeyboardInterrupt)):
        number = signal.SIGTERM if isinstance(dropped.exc_value, Stopped) else signal.SIGINT
        again = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        _others(dropped)


def was_interrupted() -> bool:
    """Whether Ctrl-C came: a library may have made another error of it."""
    return _interrupted.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    complain(f"tiebreak: stopped by {signal.Signals(number).name}: run the same command again")
    raise Stopped(alone=True)


class StopRequest:
    """True once a signal came to this process or a file `STOP` is in the run folder.

    Signals are taken while it is entered as a context; afterwards they do what they did before. Outside the main
    thread, where Python delivers no signals, only the file counts.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "STOP"
        self._signalled = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (*STOP_SIGNALS, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the checkpoint
        self._signalled = True

    def __bool__(self) -> bool:
        return self._signalled or self._file.exists()

    def clear(self) -> None:
        """Remove the STOP file, so that the resumed run is not stopped again."""
        self._file.unlink(missing_ok=True)
