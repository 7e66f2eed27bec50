"""Check whether the tables can be read, and say which they are."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.files import sha256
from tiebreak.plurals import plural
from tiebreak.preflight.findings import FAIL, NOTE, OK, Finding
from tiebreak.tables.rows import Pair, Problem
from tiebreak.tables.table import read_rows
from tiebreak.tables.winner import ABSENT

READ_S = 3.0
"""Reading stops after this, all files together; the run itself reads every row."""


def check_tables(files: Sequence[Path], on_bad_row: str, need_labels: bool = True) -> Finding:
    """Read the tables' first rows and their hashes.

    Raises:
        UserError: a file as a whole is unusable.
    """
    if not files:
        return Finding("data", "the embedded sample")
    deadline = time.monotonic() + READ_S
    sentences, problems = [], []
    for path in files:
        rows, whole = 0, True
        for item in read_rows(path, Counter(), need_labels=need_labels):
            rows += 1
            if need_labels and isinstance(item, Pair) and item.label is None:
                item = Problem(item.file, item.row, item.id, ABSENT)
            if isinstance(item, Problem):
                problems.append(item)
            if time.monotonic() > deadline:
                whole = False
                break
        if not rows:
            raise UserError(f"{path}: no readable rows")
        sentences.append(f"{path}: {'' if whole else 'first '}{plural(rows, 'row')} read, sha256 {sha256(path)[:12]}")
    text = "; ".join(sentences)
    if problems:
        text += f"; {plural(len(problems), 'bad row')}, the first: {problems[0]}"
        return Finding("data", text, FAIL if on_bad_row == "fail" else NOTE)
    return Finding("data", text, OK)
