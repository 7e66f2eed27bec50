"""Parts: the logits of one block of rows, one file each, whole or absent."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.files import write_atomically


@dataclass(frozen=True)
class Part:
    """Logits (n, 3) of rows (n,) of the table, in the order A, B and, if asked for, B, A (else empty)."""

    rows: np.ndarray
    logits: np.ndarray
    swapped_logits: np.ndarray


def part_path(folder: Path, block: int) -> Path:
    return folder / f"block-{block:07d}.npz"


def write_part(folder: Path, block: int, part: Part) -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, rows=part.rows, logits=part.logits, swapped_logits=part.swapped_logits)
    write_atomically(part_path(folder, block), buffer.getvalue())


def read_part(path: Path) -> Part:
    with np.load(path) as stored:
        return Part(stored["rows"], stored["logits"], stored["swapped_logits"])
