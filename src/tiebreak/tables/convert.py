"""Tables of any known layout, written as one Kaggle table."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.files import open_atomically
from tiebreak.labels import CLASSES
from tiebreak.outputs import refuse_over
from tiebreak.plurals import plural
from tiebreak.storage import make_folder
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.rows import Pair, Problem
from tiebreak.tables.table import OnBadRow, accept, describe_problems, read_rows

OTHERS = ("model_a", "model_b", "language")
HEADER = ("id", *OTHERS, "prompt", "response_a", "response_b", *CLASSES)

log = logging.getLogger(__name__)


def convert(files: Sequence[Path], out: Path, columns: Sequence[str] = (), on_bad_row: OnBadRow = "fail") -> int:
    """Write tables as one CSV in Kaggle's encoding; return the number of rows.

    An id that an earlier file has becomes FILE:ID. The rows stream through: memory does not grow with the tables.

    Args:
        files: the tables, in this order.
        out: the .csv file; a table that is there already is replaced when all is written.
        columns: NAME=COLUMN where a known name (`prompt`, `response_a`, `chosen`, ...) is COLUMN in the files.
        on_bad_row: `fail`, or `skip` to leave out rows that cannot be read.

    Raises:
        UserError: an unusable table or bad rows under `fail`; nothing is written then.
    """
    if out.suffix != ".csv":
        raise UserError(f"{out}: a converted table is written as .csv")
    renamed = parse_columns(columns)
    seen: dict[str, Path] = {}
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    refuse_over(out, files)
    make_folder(out.parent)
    with open_atomically(out) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        for path in files:
            for row in read_rows(path, counts, renamed=renamed):
                if isinstance(row, Pair):
                    row = accept(row, path, seen, counts, need_labels=False, keep_ids=False)
                if isinstance(row, Problem):
                    row.cells = {}
                    problems.append(row)
                    continue
                seen[row.id] = path
                writer.writerow(_cells(row))
        if problems and on_bad_row == "fail":
            raise UserError(describe_problems(problems))
        if not seen:
            raise UserError(f"{', '.join(map(str, files))}: no readable rows; tiebreak check says why")
        text.detach()
    if problems:
        log.info("%s left out, the first: %s", plural(len(problems), "bad row"), problems[0])
    return len(seen)


def write_pairs(out: Path, pairs: Iterable[Pair]) -> None:
    """Write rows as one CSV in Kaggle's encoding, whole or not at all."""
    with open_atomically(out) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(map(_cells, pairs))
        text.detach()


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """Known name -> the files' column, from NAME=COLUMN.

    Raises:
        UserError: another form, or a name twice.
    """
    renamed: dict[str, str] = {}
    for word in words:
        name, equals, column = word.partition("=")
        if not (name and equals and column):
            raise UserError(f"--columns {word}: write NAME=COLUMN, e.g. prompt=question")
        if name in renamed:
            raise UserError(f"--columns: {name} is given twice")
        renamed[name] = column
    return renamed


def _cells(pair: Pair) -> list[str]:
    one_hot = ["" if pair.label is None else str(int(pair.label == label)) for label in range(len(CLASSES))]
    texts = [encode_json_cell(list(turns)) for turns in (pair.prompt, pair.response_a, pair.response_b)]
    return [pair.id, *((getattr(pair, name) or "") for name in OTHERS), *texts, *one_hot]
