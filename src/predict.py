"""Predict a table, under any launcher: python, torchrun, deepspeed or srun. `--help` lists the options."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
