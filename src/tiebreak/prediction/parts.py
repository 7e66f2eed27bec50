"""Parts: the logits of some consecutive blocks, one checked file each; and the ids and keys of the rows."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.arrays import BadArrays, read_npz
from tiebreak.data.prediction_manifest import MOST_ROWS, Provenance, id_lines
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.files import open_atomically, sha256, write_atomically
from tiebreak.structured import parse_json

KEYS_FILE, IDS_FILE, OLD_IDS_FILE = "rows.npz", "ids.jsonl", "ids.txt"
MAX_PARTS = 4_096
"""Of one prediction: a folder of more files is slow on the file systems of clusters."""


class Failure(IntEnum):
    """Why a row has no logits, or those of one answer order only; parts hold these codes."""

    NONE = 0
    OUT_OF_MEMORY = 1
    NOT_FINITE = 2
    SWAPPED_OUT_OF_MEMORY = 3

    @property
    def reason(self) -> str:
        """The sentence for failed.csv."""
        return FAILURE_REASONS[self]

    @property
    def has_logits(self) -> bool:
        """Whether the row still has logits for the order A, B."""
        return self in (Failure.NONE, Failure.SWAPPED_OUT_OF_MEMORY)


FAILURE_REASONS = {
    Failure.NONE: "",
    Failure.OUT_OF_MEMORY: "out of memory, even alone",
    Failure.NOT_FINITE: "the model's logits are not finite",
    Failure.SWAPPED_OUT_OF_MEMORY: "out of memory in the order B, A: its order A, B counts alone",
}


def lacks_logits(failed: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the rows whose failure code (n,) leaves them without logits."""
    return np.isin(failed, [failure for failure in Failure if not failure.has_logits])


class BadPart(Exception):
    """A part that is damaged, or of another prediction."""


@dataclass(frozen=True)
class Part:
    """A model's logits of some rows.

    Attributes:
        rows: numbers of the rows (n,) in the table.
        logits: (n, 3) float32 in the order A, B; NaN for a row without any.
        swapped_logits: (n, 3) float32 in the order B, A; NaN for rows not seen in it; (0, 3) if none was to be.
        failed: (n,) int8, codes of `Failure`.
        tokens: (2,) tokens run in the order A, B and in B, A.
        seconds: (1,) that it took.
    """

    rows: np.ndarray
    logits: np.ndarray
    swapped_logits: np.ndarray
    failed: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray


def cut_into_parts(blocks: int, max_parts: int = MAX_PARTS) -> list[range]:
    """Return the consecutive blocks of each part: one, or as many as keep the parts within `max_parts`."""
    size = max(1, -(-blocks // max_parts))
    return [range(start, min(start + size, blocks)) for start in range(0, blocks, size)]


def part_path(folder: Path, index: int) -> Path:
    """Return the file of a part."""
    return folder / f"part-{index:07d}.npz"


def part_index(file_name: str) -> int | None:
    """Return the number of a part by its file's name; None for other files."""
    match = re.fullmatch(r"part-(\d{7})\.npz", file_name)
    return int(match[1]) if match else None


def write_part(folder: Path, index: int, part: Part, provenance: Provenance) -> None:
    """Write a part with its provenance, and a checksum over that and every array."""
    text = json.dumps({"part": index, **provenance.model_dump()}, sort_keys=True).encode()
    arrays = {name: getattr(part, name) for name in Part.__dataclass_fields__}
    checksum = np.frombuffer(_digest(text, arrays), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, seal=np.frombuffer(text, dtype=np.uint8), checksum=checksum)
    path = part_path(folder, index)
    if path.is_dir() and not path.is_symlink():  # nothing of ours, and in the way
        shutil.rmtree(path)
    write_atomically(path, buffer.getvalue())


def read_part(path: Path, provenance: Provenance, rows: int = MOST_ROWS) -> Part:
    """Read a part and check that it is whole and of this prediction.

    Args:
        path: of the part.
        provenance: of the prediction.
        rows: of its table.

    Raises:
        BadPart: it is not; says why.
    """
    try:
        arrays = read_npz(path, (*Part.__dataclass_fields__, "seal", "checksum"))
        text, checksum = arrays.pop("seal").tobytes(), arrays.pop("checksum").tobytes()
        if _digest(text, arrays) != checksum:
            raise BadPart("its checksum is wrong")
        stated = parse_json(text)
        _check_form(arrays, rows)
    except ValueError as error:
        raise BadPart(str(error)) from None
    if not isinstance(stated, dict) or "part" not in stated:
        raise BadPart("it does not say which part it is")
    for name, value in provenance.model_dump().items():
        if stated.get(name) != value:
            raise BadPart(f"of another {name}")
    if stated["part"] != part_index(path.name):
        raise BadPart(f"it is part {str(stated['part'])[:20]}")
    return Part(**arrays)


def _check_form(arrays: Mapping[str, np.ndarray], rows: int) -> None:
    """Check shapes, types and ranges of a part's arrays.

    Raises:
        ValueError: one that a prediction of so many rows cannot have.
    """
    count = len(arrays["rows"]) if arrays["rows"].ndim == 1 else -1
    forms: dict[str, tuple[str, list[tuple[int, ...]]]] = {
        "rows": ("iu", [(count,)]),
        "logits": ("f", [(count, 3)]),
        "swapped_logits": ("f", [(count, 3), (0, 3)]),
        "failed": ("iu", [(count,)]),
        "tokens": ("iu", [(2,)]),
        "seconds": ("f", [(1,)]),
    }
    for name, (kinds, shapes) in forms.items():
        if arrays[name].dtype.kind not in kinds or arrays[name].shape not in shapes:
            raise ValueError(f"{name}: {arrays[name].dtype} {arrays[name].shape}, which no part holds")
    if count and (arrays["rows"].min() < 0 or arrays["rows"].max() >= rows):
        raise ValueError(f"a row beyond the {rows:,} of the table")
    if len(np.unique(arrays["rows"])) < count:
        raise ValueError("a row twice")
    if not np.isin(arrays["failed"], list(Failure)).all():
        raise ValueError("a code of failure that does not exist")
    if arrays["tokens"].min() < 0 or not 0 <= arrays["seconds"][0] < np.inf:
        raise ValueError("counts below 0")


def _digest(text: bytes, arrays: Mapping[str, np.ndarray]) -> bytes:
    digest = hashlib.sha256(text)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def write_ids(folder: Path, tokens: Tokens) -> None:
    """Write the rows' ids, a line of JSON each."""
    with open_atomically(folder / IDS_FILE) as file:
        for ids in tokens.iter_ids():
            file.write(id_lines(ids))


def ids_path(folder: Path) -> Path:
    """Return the file of ids; predictions of earlier versions call it ids.txt."""
    return folder / (OLD_IDS_FILE if not (folder / IDS_FILE).is_file() else IDS_FILE)


def ids_are_whole(folder: Path, digest: str | None) -> bool:
    """Return whether the file of ids is there and, where its SHA-256 is known, has that."""
    path = ids_path(folder)
    return path.is_file() and digest in (None, sha256(path))


def iter_ids(folder: Path) -> Iterator[str]:
    """Yield the rows' ids in order.

    Raises:
        UserError: the file of ids is absent or damaged.
    """
    path = ids_path(folder)
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (FileNotFoundError, ValueError):
        raise UserError(f"{path}: absent or damaged; run the same prediction again") from None


RowKey = tuple[str, int, int, int]
"""What a row is known by: its id, its prompt's group, and the characters of its answers A and B."""


@dataclass(frozen=True)
class RowKeys:
    """What identifies rows beside their ids, and what the model was trained on.

    Attributes:
        groups: (n,) hashes of the rows' prompts.
        chars: (n, 2) characters of their answers.
        trained: prompt hashes that the model was trained on; None where there is no record.
    """

    groups: np.ndarray
    chars: np.ndarray
    trained: np.ndarray | None


def keys_of(ids: Sequence[str], groups: np.ndarray, chars: np.ndarray) -> list[RowKey]:
    """Return the key of every row, from its id, its prompt's group (n,) and its answers' characters (n, 2)."""
    return list(zip(ids, groups.tolist(), chars[:, 0].tolist(), chars[:, 1].tolist(), strict=True))


def row_keys_are_whole(folder: Path, keys: RowKeys) -> bool:
    """Return whether the file of keys is there and holds these."""
    try:
        stored = read_row_keys(folder)
    except UserError:
        return False
    given = [(stored.groups, keys.groups), (stored.chars, keys.chars), (stored.trained, keys.trained)]
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in given)  # type: ignore[arg-type]


def write_row_keys(folder: Path, keys: RowKeys) -> None:
    """Write the keys, by which rows are matched and recognised as out-of-fold or not."""
    trained: dict[str, Any] = {} if keys.trained is None else {"trained": keys.trained}
    with open_atomically(folder / KEYS_FILE) as file:
        np.savez(file, groups=keys.groups, chars=keys.chars, **trained)


def read_row_keys(folder: Path) -> RowKeys:
    """Read the keys.

    Raises:
        UserError: the file is absent, as in predictions of early versions, or damaged.
    """
    path = folder / KEYS_FILE
    if not path.is_file():
        raise UserError(f"{path}: absent, so the rows cannot be matched; predict again")
    try:
        stored = read_npz(path, ("groups", "chars"), ("trained",))
    except BadArrays as error:
        raise UserError(f"{path}: {error}; run the same prediction again") from None
    keys = RowKeys(stored["groups"], stored["chars"], stored.get("trained"))
    if keys.groups.ndim != 1 or keys.chars.shape[:1] != keys.groups.shape:
        raise UserError(f"{path}: not the keys of rows; run the same prediction again")
    return keys
