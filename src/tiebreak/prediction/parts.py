"""Parts: the logits of one block of rows, one file each, whole or absent; and what is known of the rows."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.errors import UserError
from tiebreak.files import write_atomically

ROWS_FILE = "rows.npz"


@dataclass(frozen=True)
class Part:
    """Logits (n, 3) of rows (n,) of the table, in the order A, B and, if asked for, B, A (else empty)."""

    rows: np.ndarray
    logits: np.ndarray
    swapped_logits: np.ndarray


def part_path(folder: Path, block: int) -> Path:
    return folder / f"block-{block:07d}.npz"


def write_part(folder: Path, block: int, part: Part) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, rows=part.rows, logits=part.logits, swapped_logits=part.swapped_logits)
    write_atomically(part_path(folder, block), buffer.getvalue())


def read_part(path: Path) -> Part:
    with np.load(path) as stored:
        return Part(stored["rows"], stored["logits"], stored["swapped_logits"])


def write_rows(folder: Path, groups: np.ndarray, chars: np.ndarray, trained: np.ndarray | None) -> None:
    """Keep what tells whether a prediction is of a given row, and out-of-fold for it.

    Args:
        groups: (n,) of the rows' prompts. chars: (n, 2) characters of their answers.
        trained: prompt groups that the model was trained on; None without a record of them.
    """
    buffer = io.BytesIO()
    known: dict[str, Any] = {} if trained is None else {"trained": trained}
    np.savez(buffer, groups=groups, chars=chars, **known)
    write_atomically(folder / ROWS_FILE, buffer.getvalue())


def read_rows(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Groups (n,), characters (n, 2), and the prompt groups that the model was trained on, if known.

    Raises:
        UserError: a prediction of an earlier version.
    """
    path = folder / ROWS_FILE
    if not path.is_file():
        raise UserError(f"{path}: absent, so nothing is known of these rows; predict again")
    with np.load(path) as stored:
        return stored["groups"], stored["chars"], stored.get("trained")
