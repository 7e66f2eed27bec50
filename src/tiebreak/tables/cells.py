"""One raw table cell -> the text of its turns.

Kaggle stores a conversation as a JSON array with one string (or null) per turn, `/` escaped
and everything outside ASCII written as `\\uXXXX`. Other tables hold plain text.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
BARE_LITERALS = frozenset({"true", "false", "none", "null", "nan"})
NUMBER = re.compile(r"[+-]?\d[\d_]*(\.\d*)?([eE][+-]?\d+)?")

_decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class CellError(ValueError):
    """A cell that cannot be read; the message says what is wrong with it."""


def decode_json_cell(cell: object, counts: Counter[str] | None = None) -> list[str | None]:
    """Decode a Kaggle cell into its turns; `None` stands for a `null` turn.

    Numbers and booleans inside the array, and a bare literal such as `True`, `1` or `null` in
    place of an array, are answers whose text happens to look like a literal: they stay text.
    Lone surrogates become U+FFFD and are counted under `lone surrogates`.

    Raises:
        CellError: anything else that is not an array of strings.
    """
    if not isinstance(cell, str):
        raise CellError(f"{type(cell).__name__} instead of text")
    text = cell.strip()
    if not text.startswith("["):
        if text.lower() in BARE_LITERALS or NUMBER.fullmatch(text):
            return [text]
        raise CellError("not a JSON array of turns" if text else "empty cell")
    try:
        turns = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise CellError(f"not a JSON array of turns ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise CellError("not a JSON array of turns (nested too deeply)") from None
    return [_turn_text(turn, counts) for turn in turns]


def _turn_text(turn: object, counts: Counter[str] | None) -> str | None:
    if turn is None:
        return None
    if isinstance(turn, bool):
        return json.dumps(turn)
    if isinstance(turn, str):
        return replace_lone_surrogates(turn, counts)
    raise CellError(f"a turn is a JSON {'object' if isinstance(turn, dict) else 'array'}, not a string")


def decode_plain_cell(cell: object, counts: Counter[str] | None = None) -> list[str | None]:
    """Decode a cell of a table of plain text, or of native lists in Parquet, JSON Lines and Python.

    Raises:
        CellError: an object, or a list that holds other than text.
    """
    if cell is None:
        return [None]
    if isinstance(cell, list):
        return [_turn_text(turn if not isinstance(turn, (int, float)) else str(turn), counts) for turn in cell]
    if isinstance(cell, dict):
        raise CellError("the cell is an object, not text")
    try:
        return [replace_lone_surrogates(cell if isinstance(cell, str) else json.dumps(cell), counts)]
    except TypeError:
        raise CellError(f"{type(cell).__name__} instead of text") from None


def replace_lone_surrogates(text: str, counts: Counter[str] | None = None) -> str:
    """Replace code points that no UTF-8 writer accepts by U+FFFD, counting them."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        text, replaced = LONE_SURROGATE.subn("\ufffd", text)
        if counts is not None:
            counts["lone surrogates"] += replaced
        return text


def encode_json_cell(turns: list[str | None]) -> str:
    """Write turns exactly as Kaggle's files do."""
    return json.dumps(turns, separators=(",", ":"), ensure_ascii=True).replace("/", "\\/")


def normalise_prompt(turns: Sequence[str]) -> str:
    """The form under which two prompts count as the same: case and white space folded."""
    return " ".join(" ".join(turns).casefold().split())
