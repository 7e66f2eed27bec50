"""What a report is made from: labelled rows, and predictions of them."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.prediction_manifest import PredictionManifest, hash_ids, hash_rows, read_models_behind
from tiebreak.data.predictions import ORDERS, read_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.self_enhancement import family_of
from tiebreak.evaluation.split_tables import unseen_families
from tiebreak.evaluation.text_baselines import count_chars
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.edits import KINDS, REPEATED, parse_edited_id
from tiebreak.tables.open_table import open_table
from tiebreak.tables.rows import Pair, Problem
from tiebreak.tables.table import OnBadRow, Table, read_labels, read_table

ORDERS_TOLERANCE = 2e-8
"""The mean of the two orders' files equals predictions.csv but for the nine decimals they are written with."""


@dataclass
class Predictions:
    """One judge's predictions of the report's rows: probabilities (n, 3), orders (2, n, 3) or None, attacked or None.

    `attacked` (n, 3) are those of the attacked table, NaN where it lacks the row, and `edited` the same by the kind of
    edit.
    """

    name: str
    path: Path
    probabilities: np.ndarray
    orders: np.ndarray | None = None
    attacked: np.ndarray | None = None
    edited: dict[str, np.ndarray] = field(default_factory=dict)
    family: str | None = None


@dataclass
class LabelledRows:
    """The labelled rows that every judge predicts, in the labels table's order.

    Attributes:
        ids: n. labels: (n,). groups: (n,), equal for equal prompts. pairs: n, or None without texts.
        problems: rows of the labels table that were left out. notes: what was lacking.
    """

    ids: list[str]
    labels: np.ndarray
    groups: np.ndarray
    pairs: list[Pair] | None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unseen: frozenset[str] = frozenset()
    """Model families that were held out of training, if the table is of such a split."""
    numbered: str | None = None
    """Where the rows' numbers are their ids: the hash of the table, as predictions of it keep it."""

    @property
    def chars(self) -> np.ndarray:
        """Characters of the two answers (n, 2)."""
        assert self.pairs is not None
        return count_chars(self.pairs)


def read_labelled(path: Path, on_bad_row: OnBadRow = "fail") -> LabelledRows:
    """The labelled rows of a table, with texts where it has them.

    Raises:
        UserError: an unusable table, bad rows under `fail`, or no label at all.
    """
    opened, notes = open_table(path, Counter()), []
    if opened.layout is not None:
        table = read_table([path], on_bad_row)
        labelled = [pair for pair in table.pairs if pair.label is not None]
        if table.problems:
            notes.append(f"{len(table.problems):,} rows of {path.name} could not be read and are left out")
        if len(labelled) < len(table.pairs):
            notes.append(f"{len(table.pairs) - len(labelled):,} rows of {path.name} have no label")
        seen: dict[str, int] = {}
        groups = np.array([seen.setdefault(normalise_prompt(pair.prompt), len(seen)) for pair in labelled])
        labels = np.array([pair.label for pair in labelled], dtype=np.int64)
        ids, unseen = [pair.id for pair in labelled], unseen_families(path)
        numbered = hash_rows_of(table) if opened.numbered and not table.problems else None
        rows = LabelledRows(ids, labels, groups, labelled, table.problems, notes, unseen, numbered)
    else:
        known = read_labels(path)
        notes.append(
            f"{path.name} has no texts: no length or TF-IDF baseline, no slices, no verbosity audit, no examples; "
            "and each row counts as a prompt of its own"
        )
        rows = LabelledRows(
            list(known), np.array(list(known.values()), dtype=np.int64), np.arange(len(known)), None, [], notes
        )
    if not rows.ids:
        raise UserError(f"{path}: no labelled rows; the winner columns are absent or empty: give a table with winners")
    return rows


def hash_numbered(path: Path) -> str | None:
    """The hash that a prediction of a table without ids keeps; None for one with ids, or with rows left out."""
    if not open_table(path, Counter()).numbered:
        return None
    table = read_table([path], "skip")
    return None if table.problems else hash_rows_of(table)


def hash_rows_of(table: Table) -> str:
    """The hash that a prediction of these rows keeps."""
    groups = np.array([prompt_group(pair.prompt) for pair in table.pairs], dtype=np.int64)
    return hash_rows(hash_ids([[pair.id for pair in table.pairs]]), groups, count_chars(table.pairs))


def refuse_another_table(path: Path, rows: LabelledRows) -> None:
    """Row numbers fit every table: where they are the ids, a prediction must be of these very rows.

    Raises:
        UserError: it is of others.
    """
    if rows.numbered is None:
        return
    behind = read_models_behind(path.parent) if path.name == "predictions.csv" else []
    if not behind:
        rows.notes.append(f"{path} does not say which rows it is of, and ids are row numbers: make sure that they fit")
    elif any(model.table != rows.numbered for model in behind if model.fold is None):
        raise UserError(
            f"{path}: a prediction of other rows than the labelled table's. That has no column id, so its ids are row "
            "numbers, which fit any table: predict that very table, or give both tables ids"
        )


def read_judges(
    given: list[str], attacked: list[str], family: str | None, rows: LabelledRows
) -> tuple[list[Predictions], LabelledRows]:
    """Read the judges of the command line, and keep the rows that all of them predict.

    Args:
        given: `PATH` or `NAME=PATH`, a predictions.csv or a folder with one.
        attacked: predictions of the attacked table, one for each of `given` in the same order, or none.
        family: of the judges' bases; None guesses it from their recipes.
        rows: labelled.

    Raises:
        UserError: a file that cannot be read, or that shares no id with the labels.
    """
    if attacked and len(attacked) != len(given):
        raise UserError(f"--attacked names {len(attacked)} files for {len(given)} predictions: give one for each")
    files = [split_name(text) for text in given]
    read = [read_predictions(path) for _, path in files]
    common = set(rows.ids)
    for (_, path), (ids, _) in zip(files, read, strict=True):
        refuse_another_table(path, rows)
        shared = common & set(ids)
        if not shared:
            raise UserError(f"{path}: none of its ids is labelled; is it a prediction of another table?")
        if len(shared) < len(rows.ids):
            rows.notes.append(f"{path} lacks {len(rows.ids) - len(shared):,} labelled ids; no judge is scored on them")
        common = shared
    if len(common) < len(rows.ids):
        rows = _keep(rows, [i for i, row_id in enumerate(rows.ids) if row_id in common])
    judges = []
    for i, ((_, path), (ids, probabilities), name) in enumerate(zip(files, read, name_files(files), strict=True)):
        judge = Predictions(name, path, _aligned(rows.ids, ids, probabilities))
        judge.orders = _read_orders(path, rows, judge.probabilities)
        models = read_models_behind(path.parent) if path.name == "predictions.csv" else []
        judge.family = family or _guess_family(models)
        for leak in dict.fromkeys(leak for model in models for leak in model.in_sample):
            rows.notes.append(f"{name} is in-sample, by --allow-in-sample: {leak}")
        if attacked:
            _read_attacked(judge, split_name(attacked[i])[1], rows.ids)
        judges.append(judge)
    return judges, rows


def _read_attacked(judge: Predictions, path: Path, row_ids: list[str]) -> None:
    """Note what a judge says of an attacked table: with the rows' own ids, or with those of edited copies."""
    ids, probabilities = read_predictions(path)
    known, kinds = set(row_ids), [parse_edited_id(name) for name in ids]
    if known.isdisjoint(ids) and any(kind and kind[1] in known for kind in kinds):
        for wanted in KINDS:
            chosen = [k for k, kind in enumerate(kinds) if kind and kind[0] == wanted]
            judge.edited[wanted] = _aligned(row_ids, [ids[k].partition(":")[2] for k in chosen], probabilities[chosen])
        judge.attacked = judge.edited.pop(REPEATED)
        if np.isnan(judge.attacked).all():
            judge.attacked = None
        return
    judge.attacked = _aligned(row_ids, ids, probabilities)
    if np.isnan(judge.attacked).all():
        raise UserError(f"{path}: none of its ids is labelled; attack and predict the same table")


def _keep(rows: LabelledRows, chosen: list[int]) -> LabelledRows:
    pairs = None if rows.pairs is None else [rows.pairs[i] for i in chosen]
    ids = [rows.ids[i] for i in chosen]
    labels, groups = rows.labels[chosen], rows.groups[chosen]
    return LabelledRows(ids, labels, groups, pairs, rows.problems, rows.notes, rows.unseen, rows.numbered)


def _aligned(row_ids: list[str], ids: list[str], probabilities: np.ndarray) -> np.ndarray:
    """Look up the probabilities (n, 3) of `row_ids` among those of `ids`, NaN where there is none."""
    place = {row_id: i for i, row_id in enumerate(ids)}
    padded = np.concatenate([probabilities, np.full((1, 3), np.nan)])
    return padded[[place.get(row_id, -1) for row_id in row_ids]]


def _read_orders(path: Path, rows: LabelledRows, probabilities: np.ndarray) -> np.ndarray | None:
    files = [path.parent / name for name in ORDERS]
    if path.name != "predictions.csv" or not all(file.is_file() for file in files):
        return None
    orders = np.stack([_aligned(rows.ids, *read_predictions(file)) for file in files])
    if not np.allclose(orders.mean(0), probabilities, rtol=0, atol=ORDERS_TOLERANCE):
        rows.notes.append(f"{files[0]} and {files[1].name} are not of the same prediction as {path}: left out")
        return None
    return orders


LONGEST_NAME = 200


def split_name(text: str) -> tuple[str | None, Path]:
    """`PATH` or `NAME=PATH`; names and paths may hold equals signs, so the first path that exists is meant."""
    places = [place for place, character in enumerate(text) if character == "="]
    splits = [(None, Path(text)), *((text[:place], Path(text[place + 1 :])) for place in places if place)]
    if "\0" in text:
        raise UserError(f"{text!r}: no path has a null character")
    name, path = next((split for split in splits if split[1].exists()), splits[0])
    if name is not None and (not name.isprintable() or len(name) > LONGEST_NAME):
        raise UserError(f"{name[:LONGEST_NAME]!r}: a judge's name is of 1 to {LONGEST_NAME} printable characters")
    if path.is_dir():
        path /= "predictions.csv"
        if not path.is_file():
            raise UserError(f"{path.parent}: no predictions.csv in it; predict, or merge its parts")
    return name, path


def name_files(files: list[tuple[str | None, Path]]) -> list[str]:
    """Short names that tell the files apart: given ones, otherwise folder or file names, with parents where needed."""
    names = []
    for given, path in files:
        plain = path.parent if path.name == "predictions.csv" and path.parent.name else path.with_suffix("")
        names.append([given] if given else list(plain.resolve().parts[::-1]))
    taken = [parts[0] for parts in names]
    for depth in (2, 3):
        doubled = {name for name, count in Counter(taken).items() if count > 1}
        taken = [
            "/".join(parts[:depth][::-1]) if name in doubled and len(parts) > 1 else name
            for name, parts in zip(taken, names, strict=True)
        ]
    count: Counter[str] = Counter()
    for i, name in enumerate(taken):
        count[name] += 1
        if count[name] > 1:
            taken[i] = f"{name} ({count[name]})"
    return taken


def _guess_family(models: list[PredictionManifest]) -> str | None:
    """The family of the models behind a prediction, by their recipes' bases, if it is one."""
    bases = [Path(model.base.removeprefix("demo-")).name for model in models if model.base is not None]
    families = {family_of(base) for base in bases}
    return families.pop() if len(families) == 1 else None
