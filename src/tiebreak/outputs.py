"""Outputs that would replace what is not theirs: an input of the same command, or what another command left."""

from collections.abc import Iterable
from pathlib import Path

from tiebreak.errors import UserError

RECORDS = {
    "recipe.yaml": "a training run",
    "prediction.json": "a prediction",
    "pipeline.json": "a pipeline",
    "sweep.json": "a sweep",
    "tiebreak.json": "a model",
    "leaderboard.json": "a leaderboard",
    "index.html": "a report",
}
"""The file by which a folder is known, and what such a folder holds."""


def refuse_over(out: Path | str, inputs: Iterable[Path | str]) -> None:
    """Refuse an output that is one of the command's own inputs, by whatever name or link.

    Raises:
        UserError: naming both.
    """
    out = Path(out)
    for path in map(Path, inputs):
        if _same(out, path):
            raise UserError(f"--out {out}: that is {path}, which this command reads, and would be lost: choose another")


def refuse_foreign(folder: Path | str, *own: str) -> None:
    """Refuse a folder that holds what another command left, and would lose its records.

    Args:
        folder: to write to.
        own: keys of `RECORDS` that the command itself leaves.

    Raises:
        UserError: saying what the folder holds.
    """
    for name, kind in RECORDS.items():
        if name not in own and (Path(folder) / name).is_file():
            raise UserError(f"{folder} holds {kind} ({name}), whose files would be replaced: choose another --out")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False
