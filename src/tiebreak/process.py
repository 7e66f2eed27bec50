"""The process that a command runs in: environment variables, thread settings and log output, set in one place."""

import logging
import sys
from typing import TextIO


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stdout` is at the moment of writing, which tests and notebooks replace."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    @property
    def stream(self) -> TextIO:
        return sys.stdout

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


def configure_logging(first: bool = True) -> None:
    """Send the package's messages to stdout as plain lines; ranks other than the first say warnings only.

    Commands call this. The library itself never does, so a program or a notebook decides what it shows.
    """
    logger = logging.getLogger("tiebreak")
    if not any(isinstance(handler, _StdoutHandler) for handler in logger.handlers):
        handler = _StdoutHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if first else logging.WARNING)
