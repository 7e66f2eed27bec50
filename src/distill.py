"""Distil teachers into a student, under any launcher: python, torchrun, deepspeed or srun. `--help` lists options."""

import sys

from tiebreak.__main__ import start

if __name__ == "__main__":
    sys.exit(start(["distill", *sys.argv[1:]]))
