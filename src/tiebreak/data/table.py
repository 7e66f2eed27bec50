"""Preference tables: rows of raw cells, with Kaggle or WSDM columns -> pairs, or labels alone."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tiebreak.data.cells import (
    LONE_SURROGATE,
    CellError,
    decode_json_cell,
    decode_plain_cell,
    replace_lone_surrogates,
)
from tiebreak.data.containers import SNIFFED_ROWS, Cells, NotUTF8, open_rows
from tiebreak.errors import UserError
from tiebreak.files import as_paths
from tiebreak.labels import CLASS_NAMES, CLASSES, NO_LABEL, TIE
from tiebreak.plurals import plural

TEXT_COLUMNS = ("prompt", "response_a", "response_b")
REQUIRED = ("id", *TEXT_COLUMNS)
WINNERS = {"model_a": 0, "model_b": 1, "tie": TIE, "tie (bothbad)": TIE}
ONE, ZERO = {"1", "1.0", "true"}, {"0", "0.0", "false"}
SHOWN_PROBLEMS, SHOWN_FILES = 10, 3
NO_LABEL_REASON = "no label (the winner columns are absent or empty)"

OnBadRow = Literal["fail", "skip", "keep"]
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
        return replace_lone_surrogates(f"{self.file}, row {self.row}{who}: {self.reason}")


@dataclass(slots=True, repr=False)
class Table:
    """All readable pairs of one or more files, the rows left out, and counts of oddities."""

    pairs: list[Pair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def labels(self) -> np.ndarray:
        """Class (n,) of each pair: 0, 1, 2, or -1 where it has none."""
        return np.array([NO_LABEL if pair.label is None else pair.label for pair in self.pairs], dtype=np.int64)

    @property
    def prompts(self) -> list[list[str]]:
        """Each pair's prompt, a list of turns: rows of one prompt belong together when intervals are resampled."""
        return [pair.prompt for pair in self.pairs]

    def __repr__(self) -> str:
        files = list(dict.fromkeys(pair.file for pair in self.pairs if pair.file))
        named = ", ".join(files) if len(files) <= SHOWN_FILES else f"{len(files):,} files"
        counts = np.bincount(self.labels - NO_LABEL, minlength=1 + len(CLASS_NAMES))[[1, 2, 3, 0]]
        labels = ", ".join(f"{name} {n:,}" for name, n in zip((*CLASS_NAMES, "none"), counts, strict=True))
        rows = f"{plural(len(self.pairs), 'row')}, {len(self.problems):,} bad"
        return f"Table({named or 'no file'}: {rows}; labels: {labels})"


def read_table(
    paths: str | Path | Iterable[str | Path],
    on_bad_row: OnBadRow = "fail",
    need_labels: bool = False,
    keep_ids: bool = False,
) -> Table:
    """Read one or more files into one table, in order.

    Args:
        paths: files, read in this order.
        on_bad_row: `fail` raises one error that lists the bad rows; `skip` moves them to `problems`;
            `keep` (prediction) also puts a pair with empty texts in their place.
        need_labels: a row without a label is a bad row.
        keep_ids: an id that occurs in two files is an error. Otherwise (training) the second
            becomes `file:id`, since ids are only names there.

    Raises:
        UserError: an unusable file, or bad rows under `fail`.
    """
    table = Table()
    first_files: dict[str, Path] = {}
    files = as_paths(paths)
    for path in files:
        for row in read_rows(path, table.counts):
            if isinstance(row, Pair):
                row = _accept(row, path, first_files, table.counts, need_labels=need_labels, keep_ids=keep_ids)
            if isinstance(row, Problem):
                table.problems.append(row)
                if on_bad_row != "keep":
                    continue
                row = _stand_in(row, first_files)
            first_files[row.id] = path
            table.pairs.append(row)
    if table.problems and on_bad_row == "fail":
        raise UserError(describe_problems(table.problems))
    if not table.pairs:
        raise UserError(f"{', '.join(map(str, files))}: no readable rows")
    return table


def _accept(
    pair: Pair, path: Path, first_files: Mapping[str, Path], counts: Counter[str], *, need_labels: bool, keep_ids: bool
) -> Pair | Problem:
    """Check a pair against the rows before it; `first_files` holds the file of each id so far.

    In training an id that an earlier file has is renamed.
    """
    if need_labels and pair.label is None:
        return Problem(pair.file, pair.row, pair.id, NO_LABEL_REASON)
    if not keep_ids and first_files.get(pair.id, path) != path:
        short = f"{path.name}:{pair.id}"
        pair.id = f"{path}:{pair.id}" if short in first_files else short
        counts["ids renamed"] += 1
    if pair.id in first_files:
        reason = f"the id occurs already in {first_files[pair.id].name}"
        return Problem(pair.file, pair.row, pair.id, reason)
    return pair


def _stand_in(problem: Problem, first_files: Mapping[str, Path]) -> Pair:
    """A pair with empty texts that keeps a bad row's id in a prediction."""
    if problem.id is None or problem.id in first_files:
        raise UserError(f"{problem}. A prediction needs a unique id in every row")
    return Pair(problem.id, [""], [""], [""], file=problem.file, row=problem.row, unreadable=problem.reason)


def describe_problems(problems: list[Problem]) -> str:
    """One message about bad rows: the first of them, and what to do."""
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"\n  ... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return (
        f"{plural(len(problems), 'bad row')}:\n{shown}{more}\n"
        "Correct the table, or leave such rows out with --on-bad-row=skip "
        "(they are then written to skipped_rows.jsonl)"
    )


def read_rows(path: Path, counts: Counter[str]) -> Iterator[Pair | Problem]:
    """Stream the rows of one file.

    Args:
        path: of the file.
        counts: gets the numbers of unusual encodings, by kind.

    Raises:
        UserError: the file as a whole is unusable.
    """
    columns, rows = open_rows(path)
    check_columns(path, columns)
    head = list(itertools.islice(rows, SNIFFED_ROWS))
    if not head:
        raise UserError(f"{path}: the table has a header but no rows")
    decode = choose_decoder([cells for _, cells in head if not isinstance(cells, str)])
    for number, cells in itertools.chain(head, rows):
        yield (
            Problem(path.name, number, None, cells)
            if isinstance(cells, str)
            else read_pair(path.name, number, cells, decode, counts)
        )


def check_columns(path: Path, columns: list[str]) -> None:
    """Check that names are unique, the required ones present, and the winner columns complete.

    Raises:
        UserError: they are not.
    """
    doubled = [name for name, count in Counter(columns).items() if count > 1]
    if doubled:
        raise UserError(f"{path}: column {', '.join(map(repr, doubled))} occurs more than once")
    missing = [name for name in REQUIRED if name not in columns]
    winners = [name for name in CLASSES if name in columns]
    if winners and len(winners) < len(CLASSES) and "winner" not in columns:
        missing += [name for name in CLASSES if name not in columns]
    if missing:
        raise UserError(f"{path}: missing column {', '.join(missing)}; the file has {', '.join(columns) or 'none'}")


def read_label(cells: Cells) -> int | None:
    """Read class 0, 1 or 2 from one-hot winner columns or a `winner` column; None where unlabelled.

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
    return next(label for label, value in enumerate(values) if value in ONE)


def choose_decoder(head: Iterable[Cells]) -> Decoder:
    """The JSON decoder if most text cells of a table's first rows look like arrays, else the one for plain text."""
    texts = [cells.get(name) for cells in head for name in TEXT_COLUMNS]
    arrays = sum(isinstance(c, str) and c.strip().startswith("[") and c.strip().endswith("]") for c in texts)
    return decode_json_cell if arrays * 2 > len(texts) else decode_plain_cell


def read_pair(file: str, number: int, cells: Cells, decode: Decoder, counts: Counter[str]) -> Pair | Problem:
    """Read one row.

    Args:
        file: name of the table, for messages.
        number: of the row, from 1.
        cells: raw values by column name.
        decode: for the text columns.
        counts: gets the numbers of unusual encodings, by kind.
    """
    if absent := [name for name in REQUIRED if name not in cells]:
        return Problem(file, number, _text(cells.get("id")), f"no {', '.join(absent)}", cells)
    row_id = "" if cells["id"] is None else str(cells["id"]).strip()
    if not row_id or LONE_SURROGATE.search(row_id):
        return Problem(file, number, None, "the id has bytes that are not UTF-8" if row_id else "no id", cells)
    try:
        prompt, response_a, response_b = _read_texts(cells, decode, counts)
        label = read_label(cells)
    except CellError as error:
        return Problem(file, number, row_id, str(error), cells)
    model_a, model_b, language = (_text(cells.get(column)) for column in ("model_a", "model_b", "language"))
    return Pair(row_id, prompt, response_a, response_b, label, model_a, model_b, language, file, number)


def _read_texts(cells: Cells, decode: Decoder, counts: Counter[str]) -> list[list[str]]:
    """The turns of prompt and answers, equally many each.

    Raises:
        CellError: a text that cannot be read, or unequal numbers of turns.
    """
    texts: list[list[str | None]] = []
    for name in TEXT_COLUMNS:
        raw = cells[name]
        try:
            if isinstance(raw, NotUTF8):
                raise CellError("bytes that are not UTF-8")
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


def _text(value: object) -> str | None:
    return replace_lone_surrogates(str(value)) if value not in (None, "") else None


def has_labels(path: Path) -> bool:
    """Whether the table has winner columns."""
    columns, _ = open_rows(path)
    return "winner" in columns or set(CLASSES) <= set(columns)


def read_labels(path: Path) -> dict[str, int]:
    """Read the class 0, 1 or 2 of each labelled id, from any table with `id` and the winner columns.

    Raises:
        UserError: no id or winner columns, or a row whose winner cannot be read.
    """
    columns, rows = open_rows(path)
    if len(set(columns)) < len(columns):
        raise UserError(f"{path}: a column occurs more than once ({', '.join(columns)})")
    if "id" not in columns or not has_labels(path):
        raise UserError(f"{path}: labels need the columns id and {', '.join(CLASSES)} (or winner)")
    labels: dict[str, int] = {}
    for number, cells in rows:
        try:
            if isinstance(cells, str):
                raise CellError(cells)
            label = read_label(cells)
        except CellError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        row_id = str(cells.get("id") or "").strip()
        if not row_id or row_id in labels:
            raise UserError(f"{path}, row {number}: " + (f"the id {row_id} occurs twice" if row_id else "no id"))
        if label is not None:
            labels[row_id] = label
    return labels
