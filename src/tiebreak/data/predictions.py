"""Tables of predictions: `id` and the probabilities of the three classes, checked when read, written whole."""

import csv
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tiebreak.errors import UserError
from tiebreak.files import absent, open_atomically
from tiebreak.labels import CLASSES
from tiebreak.outputs import refuse_over
from tiebreak.plurals import plural
from tiebreak.tables.first_bytes import LONGEST_LINE, iter_lines
from tiebreak.tables.rows import LONGEST_ID

log = logging.getLogger(__name__)

ORDERS = ("predictions_ab.csv", "predictions_ba.csv")
"""Beside a predictions.csv made in both answer orders: each order's probabilities, both in the table's own A and B."""
COLUMNS = ("id", *CLASSES)
SEPARATORS = (",", ";", "\t")
SUM_TOLERANCE = 1e-3
"""How far a row's probabilities may be from summing to one, as in half precision; more where few decimals are shown."""
SUM_SAID = 1e-6
"""Sums that are further from one are told."""
SHOWN_COLUMNS, SHOWN_CHARS, LONGEST_REASON = 5, 40, 300
DIGITS = 9
CHUNK = 65_536
"""Rows at a time."""
MOST_SPARE = 1 << 20
"""Bytes of a Parquet column beside its cells."""
TableFormat = Literal["kaggle", "parquet", "wsdm"]
FORMATS: dict[TableFormat, str] = {
    "kaggle": "predictions.csv",
    "parquet": "predictions.parquet",
    "wsdm": "submission.csv",
}
"""The name of a table of each format in a prediction's folder."""
Chunks = Iterable[tuple[list[str], np.ndarray]]
"""Ids (m) and probabilities (m, 3) of consecutive rows."""
Writer = Callable[[list[str], np.ndarray], None]
"""Appends ids (m) and probabilities (m, 3) to a table."""


def read_predictions(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read the ids (n) and probabilities (n, 3) of a predictions.csv or .parquet; every row sums to one.

    Submissions of others are read too: columns by name in any order, beside others; semicolons or tabs, with decimal
    commas; few decimals, which are then scaled to sum to one. What was made of them is logged.

    Raises:
        UserError: a column that is absent or doubled, an id twice, or a row that holds no probabilities.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(absent(path))
    ids: dict[str, None] = {}
    values: list[list[float]] = []
    try:
        for first, cells in _picked(path):
            if (row_id := str(first)) in ids:
                fault = f"{path}, row {len(ids) + 1}: the id {row_id[:LONGEST_ID]} occurs twice"
                raise UserError(f"{fault}; merge or predict again")
            try:
                values.append([_number(cell) for cell in cells])
            except (ValueError, TypeError):
                shown = ", ".join(str(cell)[:SHOWN_CHARS] for cell in cells)
                fault = f"{path}, row {len(ids) + 1}: not an id and three probabilities ({shown})"
                raise UserError(f"{fault}; predict again") from None
            ids[row_id] = None
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError and Arrow's among them
        raise UserError(f"{path}: not a readable {path.suffix[1:] or 'csv'} file ({error}); predict again") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{path}: damaged ({error}); predict again") from None  # Arrow's word for it
    if not ids:
        raise UserError(f"{path}: the file has a header but no rows; predict again")
    probabilities = np.array(values)
    _check_sums(path, list(ids), probabilities)
    return list(ids), probabilities / probabilities.sum(1, keepdims=True)


def _rows(path: Path) -> Iterator[Sequence[Any]]:
    """Yield the header, then the rows."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    csv.field_size_limit(LONGEST_LINE)
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(iter_lines(path, file), "")
        file.seek(0)
        found = [
            mark for mark in SEPARATORS if set(COLUMNS) <= set(_names(next(csv.reader([header], delimiter=mark), [])))
        ]
        yield from csv.reader(iter_lines(path, file), delimiter=found[0] if found else SEPARATORS[0])


def _parquet_rows(path: Path) -> Iterator[Sequence[Any]]:
    """Yield the header, then the rows, without the cells of other columns, of which nothing is read."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            yield names
            wanted = [name for name in names if name.strip() in COLUMNS]
            _check_sizes(file.metadata, wanted)
            for batch in file.iter_batches(CHUNK, columns=wanted):
                batch.validate(full=True)
                columns = dict(zip(batch.schema.names, (column.to_pylist() for column in batch.columns), strict=True))
                yield from zip(*(columns.get(name, [None] * len(batch)) for name in names), strict=True)
    except UserError:
        raise
    except Exception as error:  # Arrow's are of many types
        raise ValueError(str(error)[:LONGEST_REASON]) from None


def _check_sizes(metadata: Any, wanted: Sequence[str]) -> None:
    """Refuse cells that no prediction has, before memory is taken for them."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            most = MOST_SPARE + 4 * LONGEST_ID * group.num_rows
            if column.path_in_schema in wanted and column.total_uncompressed_size > most:
                size = column.total_uncompressed_size
                raise ValueError(
                    f"{size:,} bytes of {column.path_in_schema} in {group.num_rows:,} rows: no ids are so long"
                )


def _names(header: Sequence[Any]) -> list[str]:
    return [str(name).strip() for name in header]


def _picked(path: Path) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Yield id and probabilities of each row as they stand; logs which columns are not used."""
    rows = _rows(path)
    names = _names(next(rows, []))
    absent = [name for name in COLUMNS if name not in names]
    doubled = [name for name in COLUMNS if names.count(name) > 1]
    if absent or doubled:
        fault = f"lacks {', '.join(absent)}" if absent else f"has {', '.join(doubled)} twice"
        raise UserError(f"{path}: not a predictions file; its header {fault} (wanted: {','.join(COLUMNS)})")
    if others := [name for name in names if name not in COLUMNS]:
        listed = ", ".join(name[:SHOWN_CHARS] for name in others[:SHOWN_COLUMNS])
        log.info(f"{path}: {plural(len(others), 'column')} ignored: {listed}" + ", ..." * (len(others) > SHOWN_COLUMNS))
    places = [names.index(name) for name in COLUMNS]
    for number, row in enumerate(filter(None, rows), 1):
        if len(row) != len(names):
            fault = f"{plural(len(row), 'field')}, the header has {len(names)}"
            raise UserError(f"{path}, row {number}: not an id and three probabilities: {fault}; predict again")
        yield row[places[0]], [row[place] for place in places[1:]]


def _number(cell: Any) -> float:
    """A number, also with a decimal comma."""
    try:
        return float(cell)
    except ValueError:
        return float(cell.replace(",", "."))


def _check_sums(path: Path, ids: list[str], probabilities: np.ndarray) -> None:
    """Refuse rows that are no probabilities; sums may be off by as much as the decimals that are shown leave open."""
    off = np.abs(probabilities.sum(1) - 1)
    tolerance, decimals = SUM_TOLERANCE, 0
    if SUM_TOLERANCE < off.max() < 1:  # false for NaN
        decimals = max(map(_count_decimals, probabilities.ravel().tolist()))
        if decimals > 1:  # one decimal leaves so much open that wrong rows would pass
            tolerance = max(tolerance, len(CLASSES) * 0.5 * 10.0**-decimals * (1 + 1e-9))
    # Written so that a NaN fails too.
    good = (probabilities >= 0).all(1) & (off <= tolerance)
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        shown = ", ".join(f"{value:g}" for value in probabilities[bad])
        percent = np.allclose(probabilities.sum(1), 100, rtol=0.02)
        way = "percent? divide by 100" if percent else "correct the file, or predict again"
        raise UserError(
            f"{path}, row {bad + 1} (id {ids[bad][:LONGEST_ID]}): {shown} are not probabilities that sum to one "
            f"({plural(int((~good).sum()), 'such row')}); {way}"
        )
    if off.max() > SUM_SAID:
        rounded = f" (rounded to {plural(decimals, 'decimal')})" if decimals else ""
        log.info(
            f"{path}: {plural(int((off > SUM_SAID).sum()), 'row')} sum to one within {off.max():.1g} only{rounded}: "
            "scaled to sum to one"
        )


def _count_decimals(number: float) -> int:
    """Decimals of the shortest way to write a number; 0 for `1.0`."""
    exponent = Decimal(repr(number)).normalize().as_tuple().exponent
    return max(0, -int(exponent))


def write_predictions(path: str | Path, ids: Iterable[str], probabilities: np.ndarray) -> None:
    """Write a Kaggle submission: the decimals written for each row sum to exactly one."""
    write_table(Path(path), in_chunks(ids, probabilities))


def refuse_table(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write predictions over an input, or over a table that holds none.

    Raises:
        UserError: naming it.
    """
    refuse_over(path, inputs)
    if path.is_file():
        with open(path, "rb") as file:
            first = file.readline(1_000).decode(errors="replace").strip()
        if first and first != ",".join(COLUMNS):
            raise UserError(f"{path} is there and holds no predictions: move it away, or choose another --out")


def in_chunks(ids: Iterable[str], probabilities: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
    """Cut a table (n, 3) and its ids (n) into chunks of `CHUNK` rows."""
    stream = iter(ids)
    for start in range(0, len(probabilities), CHUNK):
        chunk = probabilities[start : start + CHUNK]
        yield list(islice(stream, len(chunk))), chunk


def write_table(path: Path, chunks: Chunks, format: TableFormat = "kaggle") -> None:
    """Write a table of probabilities, whole or not at all."""
    with table_writer(path, format) as write:
        for ids, probabilities in chunks:
            write(ids, probabilities)


@contextmanager
def table_writer(path: Path, format: TableFormat = "kaggle") -> Iterator[Writer]:
    """Yield a function that appends rows to a table, which takes its place at the end, whole or not at all.

    Args:
        path: of the table.
        format: `kaggle` is CSV with the three probabilities, `parquet` the same columns, `wsdm` CSV with the winner:
            `model_a` or `model_b`, whichever is likelier.
    """
    with open_atomically(path) as file, _parquet(file) if format == "parquet" else _csv(file, format) as write:
        yield write


@contextmanager
def _csv(file: BinaryIO, format: TableFormat) -> Iterator[Writer]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *(CLASSES if format == "kaggle" else ["winner"])])

    def write(ids: list[str], probabilities: np.ndarray) -> None:
        if format == "kaggle":
            columns = [_decimals(units) for units in round_rows(probabilities).T]
        else:
            columns = [np.where(probabilities[:, 0] >= probabilities[:, 1], "model_a", "model_b").tolist()]
        writer.writerows(zip(ids, *columns, strict=True))

    yield write
    text.detach()


@contextmanager
def _parquet(file: BinaryIO) -> Iterator[Writer]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in CLASSES)])
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda ids, probabilities: writer.write_table(
            pa.table([ids, *(column / 10**DIGITS for column in round_rows(probabilities).T)], schema=schema)
        )


def round_rows(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities (n, 3) to units of the last decimal, int64, each row summing to exactly one."""
    units = np.rint(probabilities[:, :2] * 10**DIGITS).astype(np.int64)
    rest = 10**DIGITS - units.sum(1)
    units[:, 0] += np.minimum(rest, 0)  # both were rounded up and nothing is left for the tie
    return np.column_stack([units, np.maximum(rest, 0)])


def round_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Round probabilities (n, 3) as a table holds them: what `read_predictions` returns of it, bit for bit."""
    rounded: np.ndarray = round_rows(probabilities) / 10**DIGITS
    return np.asarray(rounded / rounded.sum(1, keepdims=True))


def _decimals(units: np.ndarray) -> list[str]:
    return [f"{value // 10**DIGITS}.{value % 10**DIGITS:0{DIGITS}d}" for value in units.tolist()]
