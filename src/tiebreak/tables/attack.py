"""Copies of tables in which one answer of each row is repeated, for the report's repetition audit."""

import csv
import hashlib
import io
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.outputs import refuse_over
from tiebreak.storage import make_folder
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table


def doubled_side(row_id: str) -> int:
    """Choose the answer of a row that is repeated, 0 or 1: a fair coin that depends on the id alone."""
    return hashlib.blake2b(row_id.encode(), digest_size=1).digest()[0] & 1


def attack(files: list[Path], path: Path) -> int:
    """Write the attacked copy of one or more tables as CSV in Kaggle's encoding; return the number of rows.

    Each turn of the chosen answer is written twice. Ids, prompts and the other answers stay. There are no labels:
    nobody was asked about these answers.

    Args:
        files: tables, read as one.
        path: the copy, a .csv file.

    Raises:
        UserError: an unusable table, or an output that is no .csv.
    """
    if path.suffix != ".csv":
        raise UserError(f"{path}: an attacked table is written as .csv")
    refuse_over(path, files)
    pairs = read_table(files, keep_ids=True).pairs
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "prompt", "response_a", "response_b"])
    for pair in pairs:
        answers = doubled(pair)
        writer.writerow([pair.id, *(encode_json_cell(list(turns)) for turns in (pair.prompt, *answers))])
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())
    return len(pairs)


def doubled(pair: Pair) -> tuple[list[str], list[str]]:
    """Repeat one of the two answers turn by turn."""
    answers = [pair.response_a, pair.response_b]
    side = doubled_side(pair.id)
    answers[side] = [f"{turn}\n{turn}" if turn else turn for turn in answers[side]]
    return answers[0], answers[1]
