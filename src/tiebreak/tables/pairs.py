"""Pairs from Python objects: dicts, tuples, a table, a pandas DataFrame or a `datasets.Dataset`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.tables.rows import REQUIRED, TEXT_COLUMNS, Forms, Pair, Problem, read_pair, recognise
from tiebreak.tables.table import Table

OPTIONAL = ("model_a", "model_b", "language", "winner", *CLASSES)


def as_pairs(objects: Iterable[object]) -> list[Pair]:
    """Read comparisons from Python objects.

    Args:
        objects: any mix of dicts with `prompt`, `response_a` and `response_b`, tuples (prompt, answer A, answer B) and
            `Pair`; or a `Table`, or a pandas DataFrame or a `datasets.Dataset` with these columns. A text is a string,
            or a list with one string for each turn; None is an empty text, as a null turn in a table is. The text
            columns of a DataFrame or Dataset may also hold Kaggle's JSON arrays, as files do. Optional: `id` (else the
            number, from 1, as in files), `winner` or the three one-hot columns, `model_a`, `model_b`, `language`.

    Returns:
        One pair for each object, in the same order.

    Raises:
        UserError: an object that is not a comparison, or an id that occurs twice; names the position.

    Example:
        >>> pair, = as_pairs([{"prompt": "2+2?", "response_a": "4", "response_b": "5", "winner": "model_a"}])
        >>> pair.id, pair.prompt, pair.label
        ('1', ['2+2?'], 0)
    """
    if isinstance(objects, Table):
        objects = objects.pairs
    if isinstance(objects, (str, bytes, Mapping)):
        raise UserError(
            f"pairs are a {type(objects).__name__}: give a list of dicts or of tuples (prompt, answer A, answer B), "
            "a DataFrame or one split of a Dataset"
        )
    if not isinstance(objects, Iterable):
        raise UserError(f"pairs are of type {type(objects).__name__}, which cannot be iterated over")
    is_frame = hasattr(objects, "to_dict") and hasattr(objects, "iloc")
    rows: list[Any] = list(objects.to_dict("records") if is_frame else objects)  # type: ignore[attr-defined]
    is_table = is_frame or hasattr(objects, "column_names")
    forms = Forms()
    if is_table:
        rows = [_plain_row(row) for row in rows]
        forms = recognise(rows[:100])
    first: dict[str, int] = {}
    pairs = [_as_pair(row, position, forms) for position, row in enumerate(rows)]
    for position, pair in enumerate(pairs):
        if (earlier := first.setdefault(pair.id, position)) < position:
            raise UserError(f"pairs[{position}]: its id {pair.id} occurs already in pairs[{earlier}]")
    return pairs


def as_labelled_pairs(objects: Iterable[object]) -> list[Pair]:
    """Read comparisons that are to be learnt from: some of them need a label.

    Raises:
        UserError: as `as_pairs`, and where none of them has one.
    """
    pairs = as_pairs(objects)
    if not pairs or any(pair.label is not None for pair in pairs):
        return pairs
    named = next(
        (names for kind in ("columns", "column_names") if (names := getattr(objects, kind, None)) is not None), ()
    )
    if isinstance(objects, Sequence) and isinstance(objects[0], Mapping):
        named = objects[0]
    others = [str(name) for name in named if name not in (*REQUIRED, *OPTIONAL)]
    has = f"; what else they have: {', '.join(others)}" if others else ""
    column = others[0] if len(others) == 1 else "COLUMN"
    raise UserError(
        f"no comparison has a label, which is read from winner or from {', '.join(CLASSES)}{has}. If one of them says "
        f"who wins, call it winner (DataFrame.rename(columns={{{column!r}: 'winner'}}))"
    )


def _as_pair(row: object, position: int, forms: Forms) -> Pair:
    if isinstance(row, Pair):
        return row
    if isinstance(row, (tuple, list)):
        if len(row) != len(TEXT_COLUMNS):
            raise UserError(f"pairs[{position}]: {len(row)} values instead of prompt, answer A and answer B")
        row = dict(zip(TEXT_COLUMNS, row, strict=True))
    if not isinstance(row, Mapping):
        raise UserError(f"pairs[{position}]: a {type(row).__name__} instead of a dict or a tuple")
    if absent := [name for name in TEXT_COLUMNS if name not in row]:
        seen = ", ".join(map(str, row)) or "nothing"
        raise UserError(f"pairs[{position}]: no {', '.join(absent)}; what it has: {seen}")
    cells = _plain_row({"id": position + 1} | {name: row[name] for name in (*REQUIRED, *OPTIONAL) if name in row})
    for name in TEXT_COLUMNS:
        if not isinstance(cells.get(name, ""), (str, list, type(None))):
            kind = type(row[name]).__name__
            raise UserError(f"pairs[{position}]: {name} is a {kind} instead of a string or a list of strings")
    pair = read_pair("", position, cells, forms, Counter())
    if isinstance(pair, Problem):
        raise UserError(f"pairs[{position}]: {pair.reason}")
    return pair


def _plain_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Values as a table file gives them: lists for arrays and tuples, None for a missing value of pandas."""
    return {name: _plain_value(value) for name, value in row.items()}


def _plain_value(value: Any) -> object:
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain_value(turn) for turn in value]
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    return None if missing else value
