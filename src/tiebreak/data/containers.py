"""The containers of tables: CSV, Parquet and JSON Lines files -> rows of raw cells."""

import csv
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tiebreak.data.cells import LONE_SURROGATE, replace_lone_surrogates
from tiebreak.errors import UserError

SNIFFED_ROWS = 100
UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")

Cells = Mapping[str, object]
"""One row's raw values by column name."""
RawRows = Iterator[tuple[int, Cells | str]]
"""Row numbers, from 1, and cells; or what is wrong with a row."""


class NotUTF8(str):
    """A cell whose bytes are not UTF-8, as far as it could be read."""


def open_rows(path: Path) -> tuple[list[str], RawRows]:
    """Open a table file: its column names and a stream of its rows.

    Raises:
        UserError: the file as a whole cannot be used.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: unknown format {path.suffix!r}; tables end in {', '.join(readers)}")
    return reader(path)


def _csv_rows(path: Path) -> tuple[list[str], RawRows]:
    csv.field_size_limit(2**31 - 1)
    handle = open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")  # noqa: SIM115
    if handle.read(2) in UTF_16:
        raise UserError(f"{path}: the file is UTF-16; save it as UTF-8")
    handle.seek(0)
    reader = csv.reader(handle, strict=True)

    def lines() -> Iterator[list[str]]:
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(
                    f"{path}, line {reader.line_num}: broken CSV ({error}); check the quotes there"
                ) from None

    def rows(columns: list[str]) -> RawRows:
        with handle:
            for number, values in enumerate(filter(None, lines()), 1):
                if len(values) != len(columns):
                    yield number, f"{len(values)} fields, the header has {len(columns)} (line {reader.line_num})"
                else:
                    yield number, dict(zip(columns, map(_mark_bytes, values), strict=True))

    columns = [replace_lone_surrogates(name.strip()) for name in next(lines(), [])]
    return columns, rows(columns)


def _mark_bytes(cell: str) -> str:
    """The cell, as `NotUTF8` where surrogates stand for bytes that could not be decoded."""
    return NotUTF8(cell) if not cell.isascii() and LONE_SURROGATE.search(cell) else cell


def _parquet_rows(path: Path) -> tuple[list[str], RawRows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def damaged(error: Exception) -> UserError:
        return UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})")

    faults = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        file = pq.ParquetFile(path)
    except faults as error:
        raise damaged(error) from None

    def rows() -> RawRows:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1024):
                for cells in batch.to_pylist():
                    number += 1
                    yield number, cells
        except faults as error:
            raise damaged(error) from None

    return file.schema_arrow.names, rows()


def _jsonl_rows(path: Path) -> tuple[list[str], RawRows]:
    def rows() -> RawRows:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
            for number, line in enumerate((line for line in handle if line.strip()), 1):
                yield number, _json_cells(line)

    stream = rows()
    head = list(itertools.islice(stream, SNIFFED_ROWS))
    columns = list(dict.fromkeys(name for _, cells in head if not isinstance(cells, str) for name in cells))
    return columns, itertools.chain(head, stream)


def _json_cells(line: str) -> Cells | str:
    if isinstance(_mark_bytes(line), NotUTF8):
        return "bytes that are not UTF-8"
    try:
        cells = json.loads(line, parse_int=str, parse_float=str)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not a JSON object ({getattr(error, 'msg', 'nested too deeply')})"
    return cells if isinstance(cells, dict) else "not a JSON object"
