"""Copies of tables in which one answer of each row is edited, for the report's audits of repetition and of edits."""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from tiebreak.errors import UserError, did_you_mean
from tiebreak.files import write_atomically
from tiebreak.outputs import refuse_over
from tiebreak.storage import make_folder
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.edits import EDITS, KINDS, REPEATED, edited_id
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table


def doubled_side(row_id: str) -> int:
    """Choose the answer of a row that is edited, 0 or 1: a fair coin that depends on the id alone."""
    return hashlib.blake2b(row_id.encode(), digest_size=1).digest()[0] & 1


def attack(files: list[Path], path: Path, kinds: Sequence[str] = (), rows: int | None = None) -> int:
    """Write the attacked copy of one or more tables as CSV in Kaggle's encoding; return the number of rows.

    Without `kinds` each turn of the chosen answer is written twice, and ids stay. With them the table has, for each
    kind of edit, the rows that it changes, under ids `KIND:ID`. Prompts and the other answers stay. There are no
    labels: nobody was asked about these answers.

    Args:
        files: tables, read as one.
        path: the copy, a .csv file.
        kinds: edits of `tiebreak.tables.edits`, or `all`.
        rows: most rows of each kind, drawn by their ids; None means all.

    Raises:
        UserError: an unusable table, an unknown kind, or an output that is no .csv.
    """
    if path.suffix != ".csv":
        raise UserError(f"{path}: an attacked table is written as .csv")
    if rows is not None and not kinds:
        raise UserError("--rows is how many rows each kind of edit gets: give --kinds too, or `--kinds all`")
    wanted = check_kinds(kinds)
    refuse_over(path, files)
    pairs = read_table(files, keep_ids=True).pairs
    buffer, count = io.StringIO(), 0
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "prompt", "response_a", "response_b"])
    for row_id, pair, answers in _edited(pairs, wanted, rows) if wanted else ((p.id, p, doubled(p)) for p in pairs):
        writer.writerow([row_id, *(encode_json_cell(list(turns)) for turns in (pair.prompt, *answers))])
        count += 1
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())
    return count


def check_kinds(kinds: Sequence[str]) -> list[str]:
    """The kinds of edits, each once, in their own order; `all` means all of them.

    Raises:
        UserError: an unknown one.
    """
    for kind in kinds:
        if kind not in (*KINDS, "all"):
            known = [*KINDS, "all"]
            hint = did_you_mean(kind, known) or f"name some of {', '.join(known)}"
            raise UserError(f"--kinds: there is no edit called {kind!r}; {hint}")
    return [kind for kind in KINDS if kind in kinds or "all" in kinds]


def _edited(
    pairs: Sequence[Pair], kinds: Sequence[str], rows: int | None
) -> Iterator[tuple[str, Pair, tuple[list[str], list[str]]]]:
    """For each kind the rows that it changes, with their new ids and answers."""
    drawn = sorted(pairs, key=lambda pair: hashlib.blake2b(pair.id.encode(), digest_size=8).digest())
    for kind in kinds:
        left = len(pairs) if rows is None else rows
        for pair in pairs if rows is None else drawn:
            answers = edited(pair, kind)
            if left and answers != (pair.response_a, pair.response_b):
                left -= 1
                yield edited_id(kind, pair.id), pair, answers


def edited(pair: Pair, kind: str) -> tuple[list[str], list[str]]:
    """Edit one of the two answers."""
    if kind == REPEATED:
        return doubled(pair)
    answers = [pair.response_a, pair.response_b]
    side = doubled_side(pair.id)
    answers[side] = EDITS[kind](answers[side])
    return answers[0], answers[1]


def doubled(pair: Pair) -> tuple[list[str], list[str]]:
    """Repeat one of the two answers turn by turn."""
    answers = [pair.response_a, pair.response_b]
    side = doubled_side(pair.id)
    answers[side] = [f"{turn}\n{turn}" if turn else turn for turn in answers[side]]
    return answers[0], answers[1]
