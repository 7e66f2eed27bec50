"""`python -m tiebreak` and `torchrun -m tiebreak`: the command, under any launcher."""

import os
import sys


def leave_working_folder() -> None:
    """Import nothing from the folder that the command runs in: a user's random.py there is none of ours.

    `python -m` puts that folder first. It stays where it is the one that holds this package. Processes that this one
    starts do likewise.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        here = os.getcwd()
    except OSError:  # removed meanwhile
        here = ""
    if package != here:
        sys.path[:] = [folder for folder in sys.path if folder not in ("", here)]
        os.environ.setdefault("PYTHONSAFEPATH", "1")


def start(words: list[str] | None = None) -> int:
    """Run a command from its very start: Ctrl-C while modules are imported is no traceback.

    Args:
        words: of the command; those of this process if none are given.
    """
    import signal

    try:
        from tiebreak.cli import main

        return main(words)
    except KeyboardInterrupt:
        print("tiebreak: interrupted", file=sys.stderr)
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # what is left is the end of the interpreter


if __name__ == "__main__":
    leave_working_folder()
    sys.exit(start())
