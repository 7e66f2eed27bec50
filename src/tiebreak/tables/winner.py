"""The winner of a row, in all the words and numbers that public tables have for it -> the class."""

from collections import Counter
from collections.abc import Collection, Mapping

from tiebreak.labels import CLASS_NAMES, CLASSES, TIE
from tiebreak.tables.cells import CellError, replace_lone_surrogates

LABEL_COLUMNS = ("winner", "label", "target", "preference")
"""Columns that may hold the winner; `winner` counts beside the three one-hot columns, the others only without them."""
BOTH_BAD = ("tie (bothbad)", "tie (both bad)", "both_bad", "bothbad", "both bad")
WINNERS = {
    **dict.fromkeys(("model_a", "a", "response_a", "0"), 0),
    **dict.fromkeys(("model_b", "b", "response_b", "1"), 1),
    **dict.fromkeys(("tie", "2", "both_good", "tie (bothgood)", *BOTH_BAD), TIE),
}
"""What a winner column says, in lower case -> the class."""
WINNER_COLUMNS = (*LABEL_COLUMNS, *CLASSES)
"""All columns that are read for a label."""
KNOWN = "model_a, model_b, tie, tie (bothbad), both_bad, A, B, 0, 1, 2 (A, B, tie)"
ONE, ZERO = {"1", "1.0", "true"}, {"0", "0.0", "false"}
ABSENT = "no label (the winner columns are absent or empty)"


def has_winner(columns: Collection[str]) -> bool:
    """Whether a table with these columns can have labels."""
    return set(CLASSES) <= set(columns) or any(name in columns for name in LABEL_COLUMNS)


def winner_column(columns: Collection[str]) -> str | None:
    """The column that names the winner in a word or a number, if any."""
    names = LABEL_COLUMNS[:1] if any(name in columns for name in CLASSES) else LABEL_COLUMNS
    return next((name for name in names if name in columns), None)


def read_label(cells: Mapping[str, object], counts: Counter[str] | None = None) -> int | None:
    """Read class 0, 1 or 2 of a row; None where it has no label.

    Args:
        cells: the row; its winner columns are looked at.
        counts: gets the number of ties of which the table says that both answers are bad.

    Raises:
        CellError: columns that name no class, more than one, or that contradict one another.
    """
    one_hot = _read_one_hot(cells)
    column = winner_column(cells)
    if column is None:
        return one_hot
    named = read_winner(column, cells[column], counts)
    if named is not None and one_hot is not None and named != one_hot:
        names = CLASS_NAMES[named], CLASS_NAMES[one_hot]
        raise CellError(f"the winner column says {names[0]}, the three winner_* columns say {names[1]}")
    return one_hot if named is None else named


def read_winner(column: str, value: object, counts: Counter[str] | None = None) -> int | None:
    """The class that a cell of a winner column names; None where it is empty.

    Raises:
        CellError: a word or number that names no class.
    """
    word = "" if value is None or value != value else str(value).strip().lower().removesuffix(".0")
    if not word:
        return None
    if word not in WINNERS:
        raise CellError(f"{column} is {replace_lone_surrogates(str(value)[:40])!r}, not one of {KNOWN}")
    if counts is not None and word in BOTH_BAD:
        counts["ties that are both bad"] += 1
    return WINNERS[word]


def _read_one_hot(cells: Mapping[str, object]) -> int | None:
    """The class of the three one-hot columns; None where they are absent or empty."""
    values = [str("" if cells.get(name) is None else cells[name]).strip().lower() for name in CLASSES]
    if not any(values):
        return None
    if any(value not in ONE | ZERO for value in values) or sum(value in ONE for value in values) != 1:
        shown = replace_lone_surrogates(", ".join(value[:40] for value in values))
        raise CellError(f"the winner columns are {shown}; exactly one must be 1 and the others 0")
    return next(label for label, value in enumerate(values) if value in ONE)
