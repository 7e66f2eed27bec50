"""Prediction files: `id` and the probabilities of the three classes, read with care."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tiebreak import CLASSES
from tiebreak.errors import UserError

ORDERS = ("predictions_ab.csv", "predictions_ba.csv")
"""Beside a predictions.csv made in both answer orders: what each order said, both in the table's own A and B."""
SUM_TOLERANCE = 1e-3
"""How far a row's probabilities may be from summing to one: files of three decimals are meant well."""


def read_predictions(path: Path) -> tuple[list[str], np.ndarray]:
    """Ids (n) and probabilities (n, 3) of a predictions.csv or .parquet; every row sums to one.

    Raises:
        UserError: another header, an id twice, or a row that holds no probabilities.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    ids: list[str] = []
    values: list[list[float]] = []
    try:
        rows = _rows(path)
        if next(rows, None) != ["id", *CLASSES]:
            raise UserError(f"{path}: not a predictions file; its header is not id,{','.join(CLASSES)}")
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            try:
                name, a, b, tie = row
                values.append([float(a), float(b), float(tie)])
            except (ValueError, TypeError):
                raise UserError(f"{path}, row {number}: not an id and three probabilities; predict again") from None
            ids.append(str(name))
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError and Arrow's among them
        raise UserError(f"{path}: not a readable {path.suffix[1:] or 'csv'} file ({error})") from None
    if not ids:
        raise UserError(f"{path}: the file has a header but no rows")
    probabilities = np.array(values)
    # Written so that a NaN fails too.
    good = (probabilities >= 0).all(1) & (np.abs(probabilities.sum(1) - 1) <= SUM_TOLERANCE)
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        shown = ", ".join(f"{value:g}" for value in values[bad])
        raise UserError(
            f"{path}, row {bad + 1} (id {ids[bad]}): {shown} are not probabilities that sum to one "
            f"({int((~good).sum())} such rows)"
        )
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{path}: the id {twice} occurs twice; merge or predict again")
    return ids, probabilities / probabilities.sum(1, keepdims=True)


def _rows(path: Path) -> Iterator[Sequence]:
    """The header, then the rows."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path)
        yield table.column_names
        yield from zip(*(column.to_pylist() for column in table.columns), strict=True)
        return
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from csv.reader(file)
