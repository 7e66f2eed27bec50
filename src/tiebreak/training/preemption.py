"""Being asked to stop: SIGTERM, SIGUSR1, Ctrl-C or a STOP file lead to a checkpoint and exit code 75."""

import signal
from pathlib import Path

STOPPED = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Set by a signal to this process or by a file `STOP` in the run folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "STOP"
        self._signalled = False
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the checkpoint
        self._signalled = True

    def __bool__(self) -> bool:
        return self._signalled or self._file.exists()


class Stopped(SystemExit):
    """Raised after the checkpoint is saved; ends the process with exit code 75."""

    def __init__(self) -> None:
        super().__init__(STOPPED)
