"""What a command prints: text of any origin, safe to show, on streams that may be closed or full."""

import contextlib
import io
import os
import re
import sys
from typing import TextIO

from tiebreak.errors import UserError

HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Controls of terminals, and what makes text run backwards; line feeds and tabs are layout."""


def visible(text: str) -> str:
    """The text with its control characters escaped: ids and names of tables may hold what clears a screen."""
    return HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose output is no terminal but shows a progress bar."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.stdout is not sys.__stdout__


def one_line(text: object) -> str:
    """A value of a table as it may stand within a message: no line of its own."""
    return visible(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def say(text: object = "") -> None:
    """Print a result.

    Raises:
        UserError: standard output cannot be written to. Where nobody reads it any more, that is no error.
    """
    try:
        print(visible(str(text)), flush=True)
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        told = f"standard output cannot be written to: {error.strerror}"
        raise UserError(f"{told}; make room, or send it elsewhere") from None


def complain(text: str) -> None:
    """Print to the errors, wherever they may go."""
    try:
        print(visible(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Send a stream that cannot be written to nowhere, so that its end is no error either."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()


def prepare_streams() -> None:
    """Have every text printed: what the terminal's encoding lacks is escaped, and closed streams lead nowhere."""
    for name, mode in {"stdin": "r", "stdout": "w", "stderr": "w"}.items():
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            with contextlib.suppress(OSError):  # its descriptor was exchanged, say of a file for a pipe
                stream.reconfigure(errors="backslashreplace")


def finish_streams(code: int) -> int:
    """Write what is left to be written; returns the command's exit code, 2 where its output was lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except (OSError, ValueError) as error:
        silence(sys.stdout)
        if code == 0:
            complain(f"tiebreak: error: standard output cannot be written to: {error}; make room, or send it elsewhere")
            return 2
    return code
