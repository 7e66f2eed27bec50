"""Parts: the logits of some consecutive blocks, one sealed file each; and what is known of the rows."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.files import open_atomically, write_atomically

ROWS_FILE, IDS_FILE = "rows.npz", "ids.txt"
MOST_PARTS = 4_096
"""Of one prediction: a folder of more files is slow on the file systems of clusters."""
FAILURES = (
    "",
    "out of memory, even alone",
    "the model's logits are not finite",
    "out of memory in the order B, A: its order A, B counts alone",
)
"""Why a row has no logits, by its code in a part; the last has some."""
LAST_HAS_SOME = 3


class BadPart(Exception):
    """A part that is not whole, or of another prediction."""


@dataclass(frozen=True)
class Part:
    """What a model said of some rows.

    Attributes:
        rows: (n,) of the table. logits: (n, 3) in the order A, B. swapped_logits: (n, 3) in the order B, A, NaN for
            rows not seen in it; (0, 3) if none was to be. failed: (n,) int8, codes of FAILURES.
        tokens: (2,) tokens that were run in either order. seconds: (1,) that it took.
    """

    rows: np.ndarray
    logits: np.ndarray
    swapped_logits: np.ndarray
    failed: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray


def cut_into_parts(blocks: int, most: int = MOST_PARTS) -> list[range]:
    """Consecutive blocks for each part: one, or as many as make at most so many parts."""
    size = max(1, -(-blocks // most))
    return [range(start, min(start + size, blocks)) for start in range(0, blocks, size)]


def part_path(folder: Path, index: int) -> Path:
    return folder / f"part-{index:07d}.npz"


def part_index(name: str) -> int | None:
    """The number of a part by its file's name; None for other files."""
    found = re.fullmatch(r"part-(\d{7})\.npz", name)
    return int(found[1]) if found else None


def write_part(folder: Path, index: int, part: Part, seal: Mapping[str, str]) -> None:
    """Write a part under its seal: what it belongs to, and a checksum over that and every array."""
    text = json.dumps({"part": index, **seal}, sort_keys=True).encode()
    arrays = {name: getattr(part, name) for name in Part.__dataclass_fields__}
    checksum = np.frombuffer(_digest(text, arrays), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, seal=np.frombuffer(text, dtype=np.uint8), checksum=checksum)
    write_atomically(part_path(folder, index), buffer.getvalue())


def read_part(path: Path, seal: Mapping[str, str]) -> Part:
    """A part, whole and of this prediction.

    Raises:
        BadPart: it is not; says what it is.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in Part.__dataclass_fields__}
            text, checksum = stored["seal"].tobytes(), stored["checksum"].tobytes()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BadPart(f"not whole ({type(error).__name__})") from None
    if _digest(text, arrays) != checksum:
        raise BadPart("its checksum is wrong")
    found = json.loads(text)
    for name in seal:
        if found.get(name) != seal[name]:
            raise BadPart(f"of another {name}")
    if found["part"] != part_index(path.name):
        raise BadPart(f"it is part {found['part']}")
    return Part(**arrays)


def _digest(text: bytes, arrays: Mapping[str, np.ndarray]) -> bytes:
    digest = hashlib.sha256(text)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def digest_ids(tokens: Tokens) -> str:
    """A hash of the rows' ids in order."""
    digest = hashlib.sha256()
    for names in tokens.iter_ids():
        digest.update("".join(json.dumps(name) + "\n" for name in names).encode())
    return digest.hexdigest()


def write_ids(folder: Path, tokens: Tokens) -> None:
    """Keep the ids, a line of JSON each: what `digest_ids` is the hash of."""
    with open_atomically(folder / IDS_FILE) as file:
        for names in tokens.iter_ids():
            file.write("".join(json.dumps(name) + "\n" for name in names).encode())


def iter_ids(folder: Path) -> Iterator[str]:
    """The rows' ids in order.

    Raises:
        UserError: they are not there, or no ids.
    """
    try:
        with open(folder / IDS_FILE, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (FileNotFoundError, ValueError):
        raise UserError(f"{folder / IDS_FILE}: absent or damaged; run the same prediction again") from None


def write_rows(folder: Path, groups: np.ndarray, chars: np.ndarray, trained: np.ndarray | None) -> None:
    """Keep what tells whether a prediction is of a given row, and out-of-fold for it.

    Args:
        groups: (n,) of the rows' prompts. chars: (n, 2) characters of their answers.
        trained: prompt groups that the model was trained on; None without a record of them.
    """
    known: dict[str, Any] = {} if trained is None else {"trained": trained}
    with open_atomically(folder / ROWS_FILE) as file:
        np.savez(file, groups=groups, chars=chars, **known)


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
