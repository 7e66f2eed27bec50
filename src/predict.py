"""Predict a table, under any launcher: python, torchrun, deepspeed or srun. `--help` lists the options."""

import sys

from tiebreak.__main__ import start

if __name__ == "__main__":
    sys.exit(start(["predict", *sys.argv[1:]]))
