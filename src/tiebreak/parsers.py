"""Parsers whose errors are one message, unknown words answered with near ones; and the options of many commands."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tiebreak.errors import UserError, did_you_mean
from tiebreak.overview import COMMANDS, PURPOSE, list_commands
from tiebreak.plurals import plain_number


class CommandParser(argparse.ArgumentParser):
    """Argparse's, whose errors are one message each, and which answers an unknown option with those that are near."""

    def __init__(self, **settings: Any) -> None:
        line = COMMANDS.get(settings["prog"].rpartition(" ")[2], PURPOSE)
        super().__init__(**{"description": f"{line[0].upper()}{line[1:]}"} | settings)

    def error(self, message: str) -> NoReturn:
        """Raise the mistake; where to read on is said with it."""
        raise UserError(f"{self.prog.rpartition(' ')[2]}: {message}\n`{self.prog} --help` shows what it takes")

    def parse_known_args(self, *words: Any, **named: Any) -> Any:
        """Refuse unknown options here, where the known ones are at hand, and not in the parser of all commands."""
        found, unknown = super().parse_known_args(*words, **named)
        for option in (word.partition("=")[0] for word in unknown if word.startswith("-")):
            hint = did_you_mean(option, (name for name in self._option_string_actions if name.startswith("--")))
            self.error(f"there is no option {option}{hint and f'; {hint}'}")
        if unknown:
            self.error(f"{' '.join(unknown)}: more than the command takes")
        return found, unknown


class MainParser(CommandParser):
    """The parser of all commands, whose help lists them by group."""

    def format_help(self) -> str:
        """All commands by what one does with them."""
        return (
            f"usage: tiebreak COMMAND [OPTIONS]\n\n{PURPOSE}\n\n{list_commands()}\n\n"
            "`tiebreak COMMAND --help` lists the options of one, `tiebreak --version` says which version this is.\n"
            "Exit codes: 0 done; 2 a mistake that you can correct; 75 stopped with a checkpoint, run it again.\n"
        )


def number(least: float, most: float, why: str, whole: bool = False, above: bool = False) -> Callable[[str], Any]:
    """A type of an option: a number from `least` to `most`.

    Args:
        least: of the range.
        most: of the range.
        why: what one beyond would cost or mean.
        whole: whether only integers are.
        above: whether `least` itself is outside.
    """

    def read(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a {'whole ' * whole}number") from None
        if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
            start = f"above {plain_number(least)}, up to" if above else f"from {plain_number(least)} to"
            raise argparse.ArgumentTypeError(f"{text[:60]} is not {start} {plain_number(most)}: {why}")
        return value

    return read


ROWS = number(1, 50_000_000, "each is written to a file, in about 1.5 KB", whole=True)
SEED = number(0, 2**63 - 1, "seeds are 63 bits", whole=True)
FOLDS = number(2, 1_000, "each fold is a training of its own", whole=True)
RESAMPLES = number(1, 1_000_000, "each resample takes a byte a row, and time", whole=True)
NODES = number(1, 100_000, "no cluster has more nodes", whole=True)
GPUS = number(1, 1_024, "no node has more GPUs", whole=True)
GIB = number(0, 100_000, "it is the memory of one GPU", above=True)
SECONDS = number(0, 86_400, "it is a wait in seconds", above=True)
RANKS = number(1, 65_536, "every rank is simulated", whole=True)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """How ranks share the work."""
    parser.add_argument(
        "--engine",
        choices=["auto", "ddp", "fsdp", "deepspeed"],
        default="auto",
        help="how ranks share the work (default: DDP for several ranks, DeepSpeed with --ds)",
    )
    parser.add_argument("--ds", type=Path, metavar="FILE", help="run under DeepSpeed with this configuration")


def add_on_bad_row(parser: argparse.ArgumentParser, rows: str) -> None:
    """What becomes of rows that cannot be read."""
    text = f"{rows} that cannot be read: exit 2 (fail, the default) or leave them out (skip)"
    parser.add_argument("--on-bad-row", choices=["fail", "skip"], default="fail", help=text)


def add_launch(parser: argparse.ArgumentParser) -> None:
    """What starts stages on several ranks."""
    text = "launcher for GPU stages, e.g. 'torchrun --nproc-per-node 8' (default: none)"
    parser.add_argument("--launch", default="", metavar="WORDS", help=text)


def add_set(parser: argparse.ArgumentParser, of: str = "the recipe") -> None:
    """Changes of a recipe."""
    text = f"change a field of {of}, e.g. train.lr=1e-4"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_common(parser: argparse.ArgumentParser) -> None:
    """What every command that a launcher starts takes."""
    add_set(parser)
    # The deepspeed launcher passes it; the rank comes from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
