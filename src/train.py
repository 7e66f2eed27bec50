"""Train a judge, under any launcher: python, torchrun, deepspeed or srun. `--help` lists the options."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
