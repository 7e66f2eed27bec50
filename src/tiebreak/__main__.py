"""`python -m tiebreak` and `torchrun -m tiebreak`: the command, under any launcher."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main())
