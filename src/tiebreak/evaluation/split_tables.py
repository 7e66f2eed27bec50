"""A split by models or time as tables: what to train on, what to be judged by, and `split.json` beside them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.errors import UserError
from tiebreak.evaluation.holdout import SplitBy, hold_out
from tiebreak.files import new_folder, sha256
from tiebreak.manifests import Manifest, read_manifest, write_manifest
from tiebreak.plurals import plural
from tiebreak.tables.convert import write_pairs
from tiebreak.tables.table import OnBadRow, read_table

SPLIT_FILE = "split.json"


class SplitManifest(Manifest):
    """What `split.json` says of the tables beside it."""

    by: str
    """`models` or `time`."""
    fold: str
    """K/N."""
    families: list[str]
    """Model families of which no row is trained on; both answers of a held-out row are of them."""
    rows: dict[str, int]
    """Of each table."""
    source: str
    """Hash of the tables that were split, and of how."""

    def __str__(self) -> str:
        of = f": {', '.join(self.families)}" if self.families else ""
        counts = ", ".join(f"{name} {count:,}" for name, count in self.rows.items() if count)
        return f"split by {self.by}, {self.fold}{of}\n{plural(sum(self.rows.values()), 'row')}: {counts}"


@dataclass(frozen=True)
class SplitTables:
    """The tables of a split, as CSV.

    Attributes:
        train: to learn from. held_out: to be judged by.
        control: as large as `train`, to learn from instead; None for a split by time.
        test: `held_out`, and behind it rows of seen families.
        manifest: of them.
    """

    train: Path
    held_out: Path
    control: Path | None
    test: Path
    manifest: SplitManifest


def split_tables(
    files: Sequence[Path],
    folder: Path,
    by: SplitBy,
    fold: tuple[int, int],
    seed: int = 0,
    on_bad_row: OnBadRow = "fail",
) -> SplitTables:
    """Write the tables of a split into a folder, unless they are there.

    Args:
        files: labelled tables, read as one; for `time`, in the order of time.
        folder: to write.
        by: as in `tiebreak.evaluation.holdout.hold_out`, and so are `fold` and `seed`.
        fold: (k, n).
        seed: of the draws.
        on_bad_row: `fail` or `skip`.

    Raises:
        UserError: tables that cannot be split so.
    """
    source, path = split_key(files, by, fold, seed, on_bad_row), folder / SPLIT_FILE
    if path.is_file() and (found := read_manifest(path, SplitManifest)).source != source:
        raise UserError(f"{folder} holds another split (by {found.by}, {found.fold}): choose another --out")
    if not path.is_file():
        pairs = read_table(files, on_bad_row, need_labels=True).pairs
        split = hold_out(pairs, by, fold, seed)
        tables = {"train": split.train, "held_out": split.held_out, "control": split.control, "seen": split.seen}
        manifest = SplitManifest(
            by=by,
            fold=f"{fold[0]}/{fold[1]}",
            families=list(split.families),
            rows={name: len(rows) for name, rows in tables.items()},
            source=source,
        )
        with new_folder(folder, existing="keep") as made:
            tables["test"] = np.concatenate([split.held_out, split.seen])
            for name, rows in tables.items():
                if len(rows) and name != "seen":
                    write_pairs(made / f"{name}.csv", [pairs[row] for row in rows])
            write_manifest(made / SPLIT_FILE, manifest)
    manifest = read_manifest(path, SplitManifest)
    control = folder / "control.csv" if manifest.rows["control"] else None
    return SplitTables(folder / "train.csv", folder / "held_out.csv", control, folder / "test.csv", manifest)


def split_key(files: Sequence[Path], by: str, fold: tuple[int, int], seed: int, on_bad_row: str) -> str:
    """A hash of the contents of tables, and of how they are split."""
    words = [by, *map(str, fold), str(seed), on_bad_row, *(sha256(path) for path in files)]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def default_fold(by: SplitBy) -> tuple[int, int]:
    """The fold of a split that names none: a fifth of the families, or the last tenth of the rows."""
    return (0, 5) if by == "models" else (9, 10)


def unseen_families(table: Path) -> frozenset[str]:
    """The model families held out of training, if a table lies in the folder of a split; else none."""
    path = table.parent / SPLIT_FILE
    return frozenset(read_manifest(path, SplitManifest).families) if path.is_file() else frozenset()
