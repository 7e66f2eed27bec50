"""`python -m tiebreak` and `torchrun -m tiebreak`: the command, under any launcher."""

import signal
import sys


def start(words: list[str] | None = None) -> int:
    """Run a command from its very start: Ctrl-C while modules are imported is no traceback.

    Args:
        words: of the command; those of this process if none are given.
    """
    try:
        from tiebreak.cli import main

        return main(words)
    except KeyboardInterrupt:
        print("tiebreak: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the end of the interpreter


if __name__ == "__main__":
    sys.exit(start())
