"""Distil teachers into a student, under any launcher: python, torchrun, deepspeed or srun. `--help` lists options."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
