"""Parsers whose errors are one message, whose unknown words are answered with near ones, and whose help has groups."""

import argparse
from typing import Any, NoReturn

from tiebreak.errors import UserError, did_you_mean
from tiebreak.overview import COMMANDS, PURPOSE, list_commands


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
