"""Preference tables: CSV, Parquet or JSON Lines with Kaggle or WSDM columns -> pairs."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tiebreak.data.cells import (
    LONE_SURROGATE,
    CellError,
    decode_json_cell,
    decode_plain_cell,
    replace_lone_surrogates,
)
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES, TIE

TEXT_COLUMNS = ("prompt", "response_a", "response_b")
REQUIRED = ("id", *TEXT_COLUMNS)
WINNERS = {"model_a": 0, "model_b": 1, "tie": TIE, "tie (bothbad)": TIE}
ONE, ZERO = {"1", "1.0", "true"}, {"0", "0.0", "false"}
UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")
SNIFFED_ROWS = 100
SHOWN_PROBLEMS = 10


@dataclass(slots=True)
class Pair:
    """One comparison: a conversation's prompts and two answers to each of them.

    `prompt`, `response_a` and `response_b` hold one string per turn, equally many; a null turn is
    the empty string. `label` is 0 (A wins), 1 (B wins), 2 (tie) or None. `row` counts data rows
    from 1. A pair with `unreadable` set has empty texts: it keeps its id in a prediction.
    """

    id: str
    prompt: list[str]
    response_a: list[str]
    response_b: list[str]
    label: int | None = None
    model_a: str | None = None
    model_b: str | None = None
    language: str | None = None
    file: str = ""
    row: int = 0
    unreadable: str | None = None


@dataclass(slots=True)
class Problem:
    """A row that cannot be used, and why. `cells` are its raw values."""

    file: str
    row: int
    id: str | None
    reason: str
    cells: dict = field(default_factory=dict)

    def __str__(self) -> str:
        who = f" (id {self.id})" if self.id else ""
        return replace_lone_surrogates(f"{self.file}, row {self.row}{who}: {self.reason}")


class NotUTF8(str):
    """A cell whose bytes are not UTF-8, as far as it could be read."""


@dataclass(slots=True)
class Table:
    """All readable pairs of one or more files, the rows left out, and counts of oddities."""

    pairs: list[Pair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)


def read_table(
    paths: Iterable[str | Path], on_bad_row: str = "fail", need_labels: bool = False, keep_ids: bool = False
) -> Table:
    """Read one or more files into one table, in order.

    Args:
        on_bad_row: `fail` tells all bad rows at once and stops; `skip` moves them to `problems`;
            `keep` (prediction) also leaves a pair with empty texts in their place.
        need_labels: a row without a label is a bad row.
        keep_ids: an id that occurs in two files is an error. Otherwise (training) the second
            becomes `file:id`, since ids are only names there.

    Raises:
        UserError: an unusable file, or bad rows under `fail`.
    """
    table = Table()
    first_seen: dict[str, str] = {}
    for path in map(Path, paths):
        for item in read_rows(path, table.counts):
            if isinstance(item, Pair) and need_labels and item.label is None:
                item = Problem(item.file, item.row, item.id, "no label (the winner columns are absent or empty)")
            if isinstance(item, Pair) and first_seen.get(item.id, str(path)) != str(path) and not keep_ids:
                short = f"{path.name}:{item.id}"
                item.id = short if short not in first_seen else f"{path}:{item.id}"
                table.counts["ids renamed"] += 1
            if isinstance(item, Pair) and item.id in first_seen:
                item = Problem(
                    item.file, item.row, item.id, f"the id occurs already in {Path(first_seen[item.id]).name}"
                )
            if isinstance(item, Pair):
                first_seen[item.id] = str(path)
                table.pairs.append(item)
                continue
            table.problems.append(item)
            if on_bad_row == "keep":
                if item.id is None or item.id in first_seen:
                    raise UserError(f"{item}. A prediction needs a unique id in every row")
                first_seen[item.id] = str(path)
                table.pairs.append(
                    Pair(item.id, [""], [""], [""], file=item.file, row=item.row, unreadable=item.reason)
                )
    if table.problems and on_bad_row == "fail":
        raise UserError(describe_problems(table.problems))
    if not table.pairs:
        raise UserError(f"{', '.join(map(str, paths))}: no readable rows")
    return table


def describe_problems(problems: list[Problem]) -> str:
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"\n  ... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return (
        f"{len(problems)} bad row{'s' * (len(problems) > 1)}:\n{shown}{more}\n"
        "Mend the table, or leave such rows out with --on-bad-row=skip "
        "(they are then written to skipped_rows.jsonl)"
    )


def read_rows(path: Path, counts: Counter) -> Iterator[Pair | Problem]:
    """Stream the rows of one file; raises UserError where the file as a whole is unusable."""
    columns, rows = open_rows(path)
    check_columns(path, columns)
    head = list(itertools.islice(rows, SNIFFED_ROWS))
    decode = decode_json_cell if _holds_json_arrays(head) else decode_plain_cell
    total = 0
    for total, (number, cells) in enumerate(itertools.chain(head, rows), 1):  # noqa: B007
        yield _read_row(path.name, number, cells, decode, counts)
    if total == 0:
        raise UserError(f"{path}: the table has a header but no rows")


def open_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict | str]]]:
    """The column names and a stream of (row number, cells by column name | what is wrong)."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: unknown format {path.suffix!r}; tables end in {', '.join(readers)}")
    return reader(path)


def check_columns(path: Path, columns: list[str]) -> None:
    """Raise UserError unless the names are unique, the required are there, and the winners whole."""
    doubled = [name for name, count in Counter(columns).items() if count > 1]
    if doubled:
        raise UserError(f"{path}: column {', '.join(map(repr, doubled))} occurs more than once")
    missing = [name for name in REQUIRED if name not in columns]
    winners = [name for name in CLASSES if name in columns]
    if winners and len(winners) < len(CLASSES) and "winner" not in columns:
        missing += [name for name in CLASSES if name not in columns]
    if missing:
        raise UserError(f"{path}: missing column {', '.join(missing)}; the file has {', '.join(columns) or 'none'}")


def read_label(cells: dict) -> int | None:
    """Class 0, 1 or 2 from one-hot winner columns or a `winner` column; None where unlabelled.

    Raises:
        CellError: columns that name no class, or more than one.
    """
    if "winner" in cells:
        winner = cells["winner"]
        if winner is None or str(winner).strip() == "":
            return None
        if str(winner).strip() not in WINNERS:
            raise CellError(f"winner is {winner!r}, not one of {', '.join(WINNERS)}")
        return WINNERS[str(winner).strip()]
    values = [str("" if cells.get(name) is None else cells[name]).strip().lower() for name in CLASSES]
    if not any(values):
        return None
    if any(value not in ONE | ZERO for value in values) or sum(value in ONE for value in values) != 1:
        shown = replace_lone_surrogates(", ".join(values))
        raise CellError(f"the winner columns are {shown}; exactly one must be 1 and the others 0")
    return next(k for k, value in enumerate(values) if value in ONE)


def _holds_json_arrays(head: list[tuple[int, dict | str]]) -> bool:
    """Whether most text cells of the first rows look like JSON arrays: then the odd one out is an error."""
    cells = [row.get(name) for _, row in head if isinstance(row, dict) for name in TEXT_COLUMNS]
    arrays = sum(isinstance(c, str) and c.strip().startswith("[") and c.strip().endswith("]") for c in cells)
    return arrays * 2 > len(cells)


def _read_row(file: str, number: int, cells: dict | str, decode, counts: Counter) -> Pair | Problem:
    if isinstance(cells, str):
        return Problem(file, number, None, cells)
    if absent := [name for name in REQUIRED if name not in cells]:
        return Problem(file, number, _name(cells.get("id")), f"no {', '.join(absent)}", cells)
    row_id = "" if cells["id"] is None else str(cells["id"]).strip()
    if not row_id or LONE_SURROGATE.search(row_id):
        return Problem(file, number, None, "the id has bytes that are not UTF-8" if row_id else "no id", cells)
    texts = []
    for name in TEXT_COLUMNS:
        try:
            raw = cells[name]
            if isinstance(raw, NotUTF8):
                raise CellError("bytes that are not UTF-8")
            texts.append(decode(raw, counts))
        except CellError as error:
            return Problem(file, number, row_id, f"{name}: {error}", cells)
        except (AttributeError, TypeError):
            return Problem(file, number, row_id, f"{name}: {type(cells[name]).__name__} instead of text", cells)
    turns = max(1, len(texts[0]))
    for name, text in zip(TEXT_COLUMNS, texts, strict=True):
        counts["null turns"] += text.count(None)
        if not text:  # `[]`: nothing was said in any turn
            counts["empty arrays"] += 1
            text.extend([None] * turns)
        if len(text) != turns:
            return Problem(
                file, number, row_id, f"{name} has {len(text)} turns, the prompt {turns}: they must be equal", cells
            )
    try:
        label = read_label(cells)
    except CellError as error:
        return Problem(file, number, row_id, str(error), cells)
    prompt, response_a, response_b = ([turn or "" for turn in text] for text in texts)
    model_a, model_b, language = (_name(cells.get(column)) for column in ("model_a", "model_b", "language"))
    return Pair(row_id, prompt, response_a, response_b, label, model_a, model_b, language, file, number)


def _name(value: object) -> str | None:
    return replace_lone_surrogates(str(value)) if value not in (None, "") else None


def _csv_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict | str]]]:
    csv.field_size_limit(2**31 - 1)
    handle = open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")  # noqa: SIM115
    if handle.read(2) in UTF_16:
        raise UserError(f"{path}: the file is UTF-16; save it as UTF-8")
    handle.seek(0)
    reader = csv.reader(handle, strict=True)

    def rows(columns: list[str]) -> Iterator[tuple[int, dict | str]]:
        number = 0
        with handle:
            for values in _told(path, reader):
                if not values:
                    continue
                number += 1
                if len(values) != len(columns):
                    yield number, f"{len(values)} fields, the header has {len(columns)} (line {reader.line_num})"
                else:
                    yield number, dict(zip(columns, map(_marked, values), strict=True))

    columns = [replace_lone_surrogates(name.strip()) for name in next(_told(path, reader), [])]
    return columns, rows(columns)


def _marked(cell: str) -> str:
    return NotUTF8(cell) if not cell.isascii() and LONE_SURROGATE.search(cell) else cell


def _told(path: Path, reader) -> Iterator[list[str]]:
    """The reader's rows, with a broken quote told as the user's mistake."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: broken CSV ({error}); check the quotes there") from None


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict | str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def damaged(error: Exception) -> UserError:
        return UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})")

    faults = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        file = pq.ParquetFile(path)
    except faults as error:
        raise damaged(error) from None

    def rows() -> Iterator[tuple[int, dict | str]]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1024):
                for cells in batch.to_pylist():
                    number += 1
                    yield number, cells
        except faults as error:
            raise damaged(error) from None

    return file.schema_arrow.names, rows()


def _jsonl_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, dict | str]]]:
    def lines() -> Iterator[tuple[int, dict | str]]:
        number = 0
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as handle:
            for line in handle:
                if not line.strip():
                    continue
                number += 1
                if _marked(line) is not line:
                    yield number, "bytes that are not UTF-8"
                    continue
                try:
                    cells = json.loads(line, parse_int=str, parse_float=str)
                except (json.JSONDecodeError, RecursionError) as error:
                    yield number, f"not a JSON object ({getattr(error, 'msg', 'nested too deeply')})"
                    continue
                yield number, cells if isinstance(cells, dict) else "not a JSON object"

    stream = lines()
    head = list(itertools.islice(stream, SNIFFED_ROWS))
    columns = list(dict.fromkeys(name for _, cells in head if isinstance(cells, dict) for name in cells))

    return columns, itertools.chain(head, stream)
