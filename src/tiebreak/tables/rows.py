"""One raw row of a table -> a pair, or what is wrong with it."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from tiebreak.errors import UserError
from tiebreak.tables.cells import (
    LONE_SURROGATE,
    CellError,
    decode_json_cell,
    decode_plain_cell,
    replace_lone_surrogates,
)
from tiebreak.tables.containers import Cells, NotUTF8
from tiebreak.tables.winner import read_label
from tiebreak.terminal import one_line

TEXT_COLUMNS = ("prompt", "response_a", "response_b")
REQUIRED = ("id", *TEXT_COLUMNS)
LONGEST_ID = 1_000
UNREADABLE_LABELS = "labels that cannot be read"
JSON_IN_PLAIN = "JSON arrays among the plain texts of "
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FLOAT_ID = re.compile(r"[+-]?\d+\.0")

Decoder = Callable[[object, Counter[str] | None], list[str | None]]
"""Raw cell -> turns, counting unusual encodings."""


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
    cells: Cells = field(default_factory=dict)

    def __str__(self) -> str:
        who = f" (id {self.id})" if self.id else ""
        return one_line(replace_lone_surrogates(f"{self.file}, row {self.row}{who}: {self.reason}"))


@dataclass(frozen=True)
class Forms:
    """How the cells of a table are read.

    Attributes:
        decoders: of each text column.
        float_ids: whether ids are whole numbers that became floats ("1000.0").
        labels: `strict`: a label that cannot be read makes a bad row; `lenient`: it is none, and counted.
    """

    decoders: Mapping[str, Decoder] = field(default_factory=lambda: dict.fromkeys(TEXT_COLUMNS, decode_plain_cell))
    float_ids: bool = False
    labels: Literal["strict", "lenient"] = "strict"


def recognise(head: Iterable[Cells], labels: Literal["strict", "lenient"] = "strict") -> Forms:
    """Tell from a table's first rows how its cells are read, column by column.

    A text column is decoded as JSON if most of its cells look like arrays, else taken as plain text.

    Raises:
        UserError: a column of lists as Python writes them, which are not JSON.
    """
    head = list(head)
    decoders: dict[str, Decoder] = {}
    for name in TEXT_COLUMNS:
        texts = [cells.get(name) for cells in head]
        arrays = [c for c in texts if isinstance(c, str) and c.strip().startswith("[") and c.strip().endswith("]")]
        decoders[name] = decode_json_cell if len(arrays) * 2 > len(texts) else decode_plain_cell
        if sum(map(_is_python_list, arrays)) * 2 > len(texts):
            raise UserError(
                f"column {name} holds lists as Python's str() writes them ({arrays[0][:40]!r}), not JSON: write the "
                "table with json.dumps(turns) for each cell"
            )
    ids = [str(cells.get("id")) for cells in head]
    return Forms(decoders, bool(ids) and all(map(_FLOAT_ID.fullmatch, ids)), labels)


def _is_python_list(cell: str) -> bool:
    """Whether a cell is a Python list of strings that JSON cannot read."""
    try:
        decode_json_cell(cell)
        return False
    except CellError:
        pass
    try:
        turns = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(turns, list) and all(isinstance(turn, str) or turn is None for turn in turns)


def read_pair(file: str, number: int, cells: Cells, forms: Forms, counts: Counter[str]) -> Pair | Problem:
    """Read one row.

    Args:
        file: name of the table, for messages.
        number: of the row, from 1.
        cells: raw values by column name.
        forms: how they are read.
        counts: gets the numbers of unusual encodings, by kind.
    """
    if absent := [name for name in REQUIRED if name not in cells]:
        return Problem(file, number, _text(cells.get("id")), f"no {', '.join(absent)}", cells)
    try:
        row_id = read_id(cells["id"], forms.float_ids)
    except CellError as error:
        return Problem(file, number, None, str(error), cells)
    try:
        prompt, response_a, response_b = _read_texts(cells, forms.decoders, counts)
    except CellError as error:
        return Problem(file, number, row_id, str(error), cells)
    label = None
    try:
        label = read_label(cells, counts)
    except CellError as error:
        counts[UNREADABLE_LABELS] += 1
        if forms.labels == "strict":
            return Problem(file, number, row_id, str(error), cells)
    model_a, model_b, language = (_text(cells.get(column)) for column in ("model_a", "model_b", "language"))
    return Pair(row_id, prompt, response_a, response_b, label, model_a, model_b, language, file, number)


def read_id(value: object, float_ids: bool = False) -> str:
    """A row's id as text.

    Raises:
        CellError: none, or bytes that are neither text nor a UUID.
    """
    if isinstance(value, bytes):
        try:
            value = str(UUID(bytes=value)) if len(value) == 16 else value.decode()
        except UnicodeDecodeError:
            raise CellError("the id is bytes that are not UTF-8") from None
    row_id = "" if value is None or value != value else str(value).strip()
    if not row_id:
        raise CellError("no id")
    if LONE_SURROGATE.search(row_id):
        raise CellError("the id has bytes that are not UTF-8")
    if len(row_id) > LONGEST_ID:
        raise CellError(f"the id has {len(row_id):,} characters, and ids have at most {LONGEST_ID:,}")
    if any(c < " " or c == "\x7f" for c in row_id):
        raise CellError(f"the id {row_id[:40]!r} has control characters")
    return row_id.removesuffix(".0") if float_ids else row_id


def _read_texts(cells: Cells, decoders: Mapping[str, Decoder], counts: Counter[str]) -> list[list[str]]:
    """The turns of prompt and answers, equally many each.

    Raises:
        CellError: a text that cannot be read, or unequal numbers of turns.
    """
    texts: list[list[str | None]] = []
    for name in TEXT_COLUMNS:
        raw, decode = cells[name], decoders[name]
        try:
            if isinstance(raw, NotUTF8):
                raise CellError("bytes that are not UTF-8")
            if decode is decode_plain_cell and isinstance(raw, str) and _is_json_of_turns(raw):
                counts[JSON_IN_PLAIN + name] += 1
            texts.append(decode(raw, counts))
        except CellError as error:
            raise CellError(f"{name}: {error}") from None
    turns = max(1, len(texts[0]))
    for name, text in zip(TEXT_COLUMNS, texts, strict=True):
        counts["null turns"] += text.count(None)
        if not text:  # `[]`: nothing was said in any turn
            counts["empty arrays"] += 1
            text.extend([None] * turns)
        if len(text) != turns:
            raise CellError(f"{name} has {len(text)} turns, the prompt {turns}: they must be equal")
    return [[turn or "" for turn in text] for text in texts]


def _is_json_of_turns(cell: str) -> bool:
    """Whether a cell is what a JSON column holds: an array that begins with a string or a null."""
    if not cell.startswith(('["', "[null")) or not cell.rstrip().endswith("]"):
        return False
    try:
        decode_json_cell(cell)
        return True
    except CellError:
        return False


def _text(value: object) -> str | None:
    """A short text, such as a name, as pages and tables may show it: control characters become U+FFFD."""
    text = replace_lone_surrogates(str(value)) if value not in (None, "") else ""
    return _CONTROL.sub("\ufffd", text) or None
