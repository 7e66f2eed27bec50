"""Preference tables: files of any known container and layout -> pairs, or labels alone."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from tiebreak.errors import UserError
from tiebreak.files import as_paths
from tiebreak.labels import CLASS_NAMES, CLASSES, NO_LABEL
from tiebreak.plurals import plural
from tiebreak.tables.cells import CellError
from tiebreak.tables.containers import SNIFFED_ROWS, Cells, NotUTF8
from tiebreak.tables.open_table import check_columns, open_table, refuse_without_labels
from tiebreak.tables.rows import (
    JSON_IN_PLAIN,
    UNREADABLE_LABELS,
    Pair,
    Problem,
    read_id,
    read_pair,
    recognise,
)
from tiebreak.tables.winner import ABSENT, has_winner, read_label

SHOWN_PROBLEMS, SHOWN_FILES = 10, 3
MANY_ROWS, MANY_SHARE = 10, 0.05
"""More rows than this, and a larger share, say something of the table and not of single rows."""

OnBadRow = Literal["fail", "skip", "keep"]

log = logging.getLogger(__name__)


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
        need_labels: a row without a label is a bad row, and a table without a label column is refused.
        keep_ids: an id that occurs in two files is an error. Otherwise (training) the second
            becomes `file:id`, since ids are only names there.

    Raises:
        UserError: an unusable file, or bad rows under `fail`.
    """
    table = Table()
    first_files: dict[str, Path] = {}
    files = as_paths(paths)
    for path in files:
        labels: Literal["strict", "lenient"] = "lenient" if on_bad_row == "keep" else "strict"
        for row in read_rows(path, table.counts, labels, need_labels=need_labels):
            if isinstance(row, Pair):
                row = accept(row, path, first_files, table.counts, need_labels=need_labels, keep_ids=keep_ids)
            if isinstance(row, Problem):
                table.problems.append(row)
                if on_bad_row != "keep":
                    continue
                row = _stand_in(row, first_files)
            first_files[row.id] = path
            table.pairs.append(row)
    if unread := table.counts[UNREADABLE_LABELS] * (on_bad_row == "keep"):
        log.info("note: %s cannot be read; predictions do not need them", plural(unread, "label"))
    if table.problems and on_bad_row == "fail":
        raise UserError(describe_problems(table.problems))
    if not table.pairs:
        first = f"; the first that is not: {table.problems[0]}" if table.problems else ""
        raise UserError(f"{', '.join(map(str, files))}: no readable rows{first}")
    return table


def accept(
    pair: Pair, path: Path, first_files: Mapping[str, Path], counts: Counter[str], *, need_labels: bool, keep_ids: bool
) -> Pair | Problem:
    """Check a pair against the rows before it; `first_files` holds the file of each id so far.

    In training an id that an earlier file has is renamed.
    """
    if need_labels and pair.label is None:
        return Problem(pair.file, pair.row, pair.id, ABSENT)
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
        earlier = first_files.get(problem.id or "")
        several = "" if earlier is None or earlier.name == problem.file else ", or predict the tables one by one"
        raise UserError(f"{problem}. A prediction needs a unique id in every row: correct the table{several}")
    return Pair(problem.id, [""], [""], [""], file=problem.file, row=problem.row, unreadable=problem.reason)


def describe_problems(problems: list[Problem]) -> str:
    """One message about bad rows: the first of them, whether they have one cause, and what to do."""
    shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])
    more = f"\n  ... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    one = "All for one reason. " if len(problems) > SHOWN_PROBLEMS and len(set(map(_cause, problems))) == 1 else ""
    return (
        f"{plural(len(problems), 'bad row')}:\n{shown}{more}\n{one}"
        "Correct the table, or leave such rows out with --on-bad-row=skip "
        "(training and reports write them to skipped_rows.jsonl)"
    )


def refuse_unreadable(problems: Sequence[Problem], rows: int) -> None:
    """Refuse to predict a table of which so many rows cannot be read that the fault is the table's.

    Args:
        problems: the unreadable rows.
        rows: number of all rows.

    Raises:
        UserError: with the commonest cause.
    """
    if not is_many(len(problems), rows):
        return
    cause, _ = Counter(map(_cause, problems)).most_common(1)[0]
    first = next(problem for problem in problems if _cause(problem) == cause)
    raise UserError(
        f"{len(problems):,} of {rows:,} rows cannot be read, and would all be answered with the class shares. The "
        f"commonest reason:\n  {first}\nCorrect the table, or predict all the same with --on-bad-row=keep"
    )


def _cause(problem: Problem) -> str:
    """A problem's reason without what differs from row to row."""
    return re.sub(r"'[^']*'|\d+", "", problem.reason)


def read_rows(
    path: Path,
    counts: Counter[str],
    labels: Literal["strict", "lenient"] = "strict",
    renamed: Mapping[str, str] | None = None,
    need_labels: bool = False,
) -> Iterator[Pair | Problem]:
    """Stream the rows of one table.

    Args:
        path: of the file or folder.
        counts: gets the numbers of unusual encodings, by kind.
        labels: `strict`: a row whose label cannot be read is bad; `lenient`: it has none.
        renamed: as in `open_table`.
        need_labels: refuse, at its end, a table that has no label column.

    Raises:
        UserError: the table as a whole is unusable.
    """
    table = open_table(path, counts, renamed)
    check_columns(table)
    if table.description:
        log.info("%s: %s", path, table.description)
    head = list(itertools.islice(table.rows, SNIFFED_ROWS))
    if not head:
        raise UserError(f"{path}: the table has a header but no rows; is it cut short?")
    good = [cells for _, cells in head if not isinstance(cells, str)]
    _check_encoding(path, good)
    try:
        forms = recognise(good, labels)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    found: Counter[str] = Counter()
    count, labelled = 0, table.labelled
    for count, (number, cells) in enumerate(itertools.chain(head, table.rows), 1):  # noqa: B007
        if isinstance(cells, str):
            yield Problem(path.name, number, str(number) if table.numbered else None, cells)
            continue
        labelled = labelled or has_winner(cells)  # rows of JSON may have columns that the first ones lack
        yield read_pair(path.name, number, cells, forms, found)
    if need_labels and not labelled:
        refuse_without_labels(table)
    counts.update(+found)
    if forms.float_ids:
        counts["ids like 7.0 read as 7"] += count
    for name, cells_of_json in found.items():
        if name.startswith(JSON_IN_PLAIN) and is_many(cells_of_json, count):
            column = name.removeprefix(JSON_IN_PLAIN)
            raise UserError(
                f"{path}: column {column} mixes two forms: {cells_of_json:,} of {count:,} cells are JSON arrays of "
                "turns, the others plain text; write all of them in one form"
            )


def is_many(rows: int, of: int) -> bool:
    """Whether so many rows are at fault that the fault is the table's: all, or more than a few and a small share."""
    return rows == of > 0 or (rows > MANY_ROWS and rows > MANY_SHARE * of)


def _check_encoding(path: Path, rows: Sequence[Cells]) -> None:
    """Refuse a table most of whose rows hold bytes that are not UTF-8."""
    odd = [cell for cells in rows for cell in cells.values() if isinstance(cell, NotUTF8)]
    if sum(any(isinstance(cell, NotUTF8) for cell in cells.values()) for cells in rows) * 2 <= len(rows) or not odd:
        return
    raw = odd[0].encode("utf-8", "surrogateescape")
    # Western texts in cp1252 have few bytes above 0x7F among letters; other encodings have little else.
    high = sum(byte > 0x7F for byte in raw)
    guess = "Windows-1252 (cp1252), as Excel writes it" if high * 4 < len(raw) else "another encoding"
    raise UserError(
        f"{path}: most rows hold bytes that are not UTF-8; the file looks like {guess}. Save it as UTF-8, e.g. "
        f"iconv -f cp1252 -t utf-8 {path.name} > utf8-{path.name}"
    )


def has_labels(path: Path) -> bool:
    """Whether the table can have labels: its layout has them, or it has winner columns."""
    return open_table(path, Counter()).labelled


def read_labels(path: Path) -> dict[str, int]:
    """Read the class 0, 1 or 2 of each labelled id, from a table of any layout, or one of ids and winners alone.

    Raises:
        UserError: no id or winner columns, or a row whose winner cannot be read.
    """
    table = open_table(path, Counter())
    layout, columns = table.layout, table.columns
    if (layout is None and "id" not in columns) or not ((layout and layout.read) or has_winner(columns)):
        raise UserError(f"{path}: labels need the columns id and {', '.join(CLASSES)} (or winner)")
    head = list(itertools.islice(table.rows, SNIFFED_ROWS))
    forms = recognise([cells for _, cells in head if not isinstance(cells, str)])
    labels: dict[str, int] = {}
    for number, cells in itertools.chain(head, table.rows):
        try:
            if isinstance(cells, str):
                raise CellError(cells)
            row_id, label = read_id(cells.get("id"), forms.float_ids), read_label(cells)
            if row_id in labels:
                raise CellError(f"the id {row_id} occurs twice")
        except CellError as error:
            raise UserError(f"{path}, row {number}: {error}; correct the table") from None
        if label is not None:
            labels[row_id] = label
    return labels
