"""Being asked to stop: SIGTERM, SIGUSR1, Ctrl-C or a STOP file lead to a checkpoint and exit code 75."""

import signal
import sys
from pathlib import Path

STOPPED = 75


def stop_at_once() -> None:
    """Until there is something to save, SIGTERM and SIGUSR1 end the process with exit code 75 right away."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _end)


def _end(number: int, frame: object) -> None:
    print(
        f"tiebreak: stopped by {signal.Signals(number).name}: run the same command again", file=sys.stderr, flush=True
    )
    raise Stopped


class StopRequest:
    """Set by a signal to this process or by a file `STOP` in the run folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "STOP"
        self._signalled = False
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the checkpoint
        self._signalled = True

    def __bool__(self) -> bool:
        return self._signalled or self._file.exists()

    def met(self) -> None:
        """The request is met: a STOP file has done its work, and does not stop the run that goes on."""
        self._file.unlink(missing_ok=True)


class Stopped(SystemExit):
    """Ends the process with exit code 75: what was reached is saved, and the same command goes on."""

    def __init__(self) -> None:
        super().__init__(STOPPED)
