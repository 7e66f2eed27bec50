"""The containers of tables -> rows of raw cells: CSV, Parquet, Arrow and JSON files, compressed or not, and folders.

What a file is, its first bytes say; its name tells CSV from JSON only.
"""

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tiebreak.errors import UserError
from tiebreak.files import absent
from tiebreak.tables.cells import LONE_SURROGATE, replace_lone_surrogates
from tiebreak.tables.first_bytes import FAULTS, LONGEST_LINE, iter_lines, open_text, recognise_file

if TYPE_CHECKING:
    import pyarrow as pa

SNIFFED_ROWS = 100
DELIMITERS = ",;\t"
SHOWN_CHARACTERS = 200
JSON_CHUNK = 1 << 20
_SPACE = re.compile(r"\s*")

Cells = Mapping[str, object]
"""One row's raw values by column name."""
RawRows = Iterator[tuple[int, Cells | str]]
"""Row numbers, from 1, and cells; or what is wrong with a row."""


class NotUTF8(str):
    """A cell whose bytes are not UTF-8, as far as it could be read."""


def open_rows(path: Path) -> tuple[list[str], RawRows]:
    """Open a table: its column names and a stream of its rows.

    Args:
        path: of a file; or of a folder with the shards of one table, as `datasets` saves it or the hub stores it.

    Raises:
        UserError: the table as a whole cannot be used.
    """
    check_path(path)
    return _folder_rows(path) if path.is_dir() else _file_rows(path)


def check_path(path: Path) -> None:
    """Refuse what is no file or folder here.

    Raises:
        UserError: an address, a pipe, or nothing.
    """
    if match := re.match(r"([a-z][a-z0-9+.-]+):/", str(path)):
        how = {
            "hf": "hf download OWNER/NAME --repo-type dataset --local-dir DIR",
            "s3": "aws s3 cp ADDRESS FILE",
            "gs": "gcloud storage cp ADDRESS FILE",
        }.get(match[1], "curl -L -o FILE ADDRESS")
        raise UserError(f"{path}: only files on this machine are read; fetch it first, e.g. {how}")
    if not path.exists():
        pattern = " (the shell replaces * and ? only without quotes)" if set("*?[") & set(path.name) else ""
        raise UserError(f"{absent(path)}{pattern}")
    if not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: not a file; tables are read more than once, so write its content to a file first")


def shards_of(folder: Path) -> list[Path]:
    """The files of a folder that together are one table, in order.

    Raises:
        UserError: none, or files of several kinds; names what is there.
    """
    from tiebreak.structured import read_json  # an exported judge runs without what that needs

    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits")
        names = ", ".join(map(str, splits)) if isinstance(splits, list) else "in its folders"
        raise UserError(f"{folder}: holds the splits {printable(names)}; name one of these folders")
    by_kind: dict[str, list[Path]] = {}
    state = folder / "state.json"
    if state.is_file():
        named = read_json(state).get("_data_files")
        files = [entry.get("filename") for entry in named if isinstance(entry, dict)] if isinstance(named, list) else []
        if not files or not all(isinstance(name, str) and name and "\0" not in name for name in files):
            raise UserError(f"{state}: names no files of a table; save the data set again, or name one file")
        by_kind[".arrow"] = [folder / Path(str(name)).name for name in files]
    else:
        for path in sorted(folder.iterdir()):
            kind = "".join(suffix for suffix in path.suffixes[-2:] if suffix in SUFFIXES)
            if path.is_file() and kind and not path.name.startswith((".", "_")):
                by_kind.setdefault(kind, []).append(path)
        if len(by_kind) > 1:
            by_kind.pop(".json", None)  # beside shards, a description of them
    if len(by_kind) != 1:
        found = ", ".join(by_kind) or "no tables"
        inner = [sub.name for sub in sorted(folder.iterdir()) if sub.is_dir() and not sub.name.startswith(".")]
        below = f"; look in {', '.join(inner[:5])} below it" if inner and not by_kind else ""
        raise UserError(f"{folder}: a folder with {found}; name one file, or a folder with shards of one kind{below}")
    (shards,) = by_kind.values()
    if absent := [path.name for path in shards if not path.is_file()]:
        raise UserError(f"{folder}: lacks {', '.join(absent)}: fetch the folder again")
    return shards


def printable(text: str) -> str:
    """The beginning of a text as a terminal may show it: no control characters."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in text[:SHOWN_CHARACTERS])
    return shown + ("..." if len(text) > SHOWN_CHARACTERS else "")


def _folder_rows(folder: Path) -> tuple[list[str], RawRows]:
    opened = [_file_rows(shard) for shard in shards_of(folder)]
    columns = list(dict.fromkeys(name for names, _ in opened for name in names))
    rows = itertools.chain.from_iterable(rows for _, rows in opened)
    return columns, ((number, cells) for number, (_, cells) in enumerate(rows, 1))


def _file_rows(path: Path) -> tuple[list[str], RawRows]:
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; fetch or write it again")
    kind = recognise_file(path)
    suffix = next((s for s in reversed(path.suffixes) if s.lower() in TEXT_READERS), path.suffix).lower()
    reader = {"parquet": _parquet_rows, "arrow": _arrow_rows}.get(kind) or TEXT_READERS.get(suffix)
    if suffix in (".parquet", ".arrow", ".feather") and kind not in ("parquet", "arrow"):
        raise UserError(f"{path}: not a readable {suffix[1:].title()} file (it begins otherwise); is it cut short?")
    if reader is None:
        raise UserError(f"{path}: unknown format {printable(path.suffix)!r}; tables end in {', '.join(SUFFIXES)}")
    return reader(path)


def _csv_rows(path: Path) -> tuple[list[str], RawRows]:
    csv.field_size_limit(LONGEST_LINE)
    handle = open_text(path)
    text = iter_lines(path, handle)
    header = next(text, "")
    delimiter = max(DELIMITERS, key=header.count) if header.count(",") < 3 else ","
    reader = csv.reader(itertools.chain([header], text), strict=True, delimiter=delimiter)

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
    import pyarrow.parquet as pq

    return _batched_rows(path, "Parquet", lambda: pq.ParquetFile(path), lambda file: file.iter_batches(batch_size=1024))


def _arrow_rows(path: Path) -> tuple[list[str], RawRows]:
    """An Arrow file (Feather) or a stream, as `datasets` writes it."""
    import pyarrow as pa

    def open_file() -> "pa.RecordBatchStreamReader | pa.RecordBatchFileReader":
        source = pa.memory_map(str(path))
        try:
            return pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            return pa.ipc.open_stream(source)

    def batches(reader: "pa.RecordBatchStreamReader | pa.RecordBatchFileReader") -> "Iterator[pa.RecordBatch]":
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            return map(reader.get_batch, range(reader.num_record_batches))
        return iter(reader)

    return _batched_rows(path, "Arrow", open_file, batches)


def _batched_rows(
    path: Path, kind: str, open_file: Callable[[], Any], batches: "Callable[[Any], Iterator[pa.RecordBatch]]"
) -> tuple[list[str], RawRows]:
    import pyarrow as pa

    def damaged(error: Exception) -> UserError:
        return UserError(f"{path}: not a readable {kind} file ({str(error).splitlines()[0]}); fetch it again")

    faults = (pa.ArrowException, OSError, UnicodeDecodeError)
    try:
        file = open_file()
        schema = getattr(file, "schema_arrow", None) or file.schema
        names: list[str] = schema.names
    except faults as error:
        raise damaged(error) from None

    def rows() -> RawRows:
        number = 0
        try:
            for batch in batches(file):
                batch.validate(full=True)  # Arrow trusts offsets, and reads wherever they point
                for start in range(0, batch.num_rows, 1024):
                    for cells in batch.slice(start, 1024).to_pylist():
                        number += 1
                        yield number, cells
        except faults as error:
            raise damaged(error) from None

    return names, rows()


def _json_rows(path: Path) -> tuple[list[str], RawRows]:
    """JSON Lines, or one array of objects."""
    with open_text(path) as handle:
        first = next((line for line in _pieces(path, handle) if line.strip()), "")
    is_array = first.lstrip().startswith("[")
    stream = _array_rows(path) if is_array else _line_rows(path)
    head = list(itertools.islice(stream, SNIFFED_ROWS))
    if head and all(isinstance(cells, str) for _, cells in head):
        what = "no element" if is_array else "no line"
        indented = "; it is indented JSON: one object a line is wanted" if first.strip() in ("{", "[") else ""
        raise UserError(f"{path}: {what} of the first {len(head)} is a row ({head[0][1]}){indented}")
    columns = list(dict.fromkeys(name for _, cells in head if not isinstance(cells, str) for name in cells))
    return columns, itertools.chain(head, stream)


def _line_rows(path: Path) -> RawRows:
    decoder, doubled = _row_decoder()
    with open_text(path) as handle:
        for number, line in enumerate((line for line in iter_lines(path, handle) if line.strip()), 1):
            yield number, _json_cells(line, decoder, doubled)


def _pieces(path: Path, handle: TextIO) -> Iterator[str]:
    """Yield a text in pieces, as its first line may be all of it; none is too long to look at."""
    try:
        while piece := handle.readline(JSON_CHUNK):
            yield piece
    except FAULTS as error:
        raise UserError(f"{path}: broken ({error}); fetch it again") from None


def _array_rows(path: Path) -> RawRows:
    """Elements of one JSON array, read a piece at a time so that memory does not grow with the file."""
    decoder, doubled = _row_decoder()
    with open_text(path) as handle:
        buffer, place, number, ended = "", 0, 0, False

        def more() -> bool:
            """Read on, at least as much as is left over, so that no text is looked at more than twice on average."""
            nonlocal buffer, place, ended
            try:
                piece = handle.read(max(JSON_CHUNK, len(buffer) - place))
            except FAULTS as error:
                raise UserError(f"{path}: broken after element {number} ({error}); fetch it again") from None
            if len(buffer) - place > LONGEST_LINE:
                raise UserError(
                    f"{path}: element {number + 1} has more than {LONGEST_LINE:,} characters; is it another file?"
                )
            buffer, place, ended = buffer[place:] + piece, 0, not piece
            return not ended

        def skip() -> str:
            """Go to the next character that is no space, and return it; nothing at the end."""
            nonlocal place
            while True:
                place = _SPACE.match(buffer, place).end()  # type: ignore[union-attr]
                if place < len(buffer):
                    return buffer[place]
                if not more():
                    return ""

        skip()
        place += 1  # behind the bracket
        separated = True
        while (mark := skip()) != "]":
            try:
                if not separated:
                    if mark != ",":
                        raise json.JSONDecodeError("a comma or the end of the array is wanted", buffer, place)
                    place, separated = place + 1, True
                    continue
                doubled.clear()
                value, end = decoder.raw_decode(buffer, place)
            except (json.JSONDecodeError, RecursionError) as error:
                if separated and isinstance(error, json.JSONDecodeError) and more():
                    continue
                message = getattr(error, "msg", "nested too deeply")
                raise UserError(f"{path}: broken JSON after element {number} ({message}); is it cut short?") from None
            place, separated, number = end, False, number + 1
            yield number, _as_row(value, doubled)


def _row_decoder() -> tuple[json.JSONDecoder, list[str]]:
    """A decoder of rows, which leaves numbers as text; and where it lists the keys that it meets twice in an object."""
    doubled: list[str] = []

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        cells = dict(pairs)
        if len(cells) < len(pairs):
            doubled.append(Counter(name for name, _ in pairs).most_common(1)[0][0])
        return cells

    return json.JSONDecoder(object_pairs_hook=once, parse_int=str, parse_float=str), doubled


def _as_row(value: object, doubled: list[str]) -> Cells | str:
    if doubled:
        return f"the key {printable(doubled[0])!r} stands twice in one object: leave one of them"
    return value if isinstance(value, dict) else "not a JSON object"


def _json_cells(line: str, decoder: json.JSONDecoder, doubled: list[str]) -> Cells | str:
    if isinstance(_mark_bytes(line), NotUTF8):
        return "bytes that are not UTF-8"
    try:
        doubled.clear()
        value = decoder.decode(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return f"not a JSON object ({getattr(error, 'msg', 'nested too deeply')})"
    return _as_row(value, doubled)


TEXT_READERS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), _csv_rows),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _json_rows),
}
SUFFIXES = (".csv", ".parquet", *list(TEXT_READERS)[1:], ".arrow", ".feather", ".gz", ".zst", ".zip")
