"""Join teachers' prediction folders to the training rows, refused where a teacher was trained on the rows.

A row is joined by its id, its normalised prompt and the lengths of its answers, so a prediction of another table
is never taken for it. A prediction is out-of-fold if the record that came with its model does not hold the row's
normalised prompt; folders' names and orders count for nothing.
"""

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.config import DistillSettings
from tiebreak.data.prediction_manifest import (
    BASELINE,
    BAYES,
    AverageManifest,
    PredictionManifest,
    read_prediction_manifest,
    split_teacher,
)
from tiebreak.data.split import Split
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import softmax
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.prediction.finished import read_finished
from tiebreak.prediction.parts import RowKey, keys_of, read_row_keys
from tiebreak.training.baseline_teacher import view_of_baseline
from tiebreak.training.targets import TeacherLogits, centred_log, make_targets

log = logging.getLogger(__name__)

BUILT_IN = (BAYES, BASELINE)
SHOWN_IDS = 10


@dataclass(frozen=True)
class Prediction:
    """A finished prediction: its manifest, its logits (orders, n, 3), and the rows' places by key."""

    folder: Path
    manifest: PredictionManifest
    places: dict[RowKey, int]
    logits: np.ndarray
    trained: np.ndarray | None


@dataclass(frozen=True)
class Teachers:
    """What a student learns from.

    Attributes:
        targets: logits (t, 2, rows of the table, 3), zero where a row is not trained on. weights: (t,).
        identity: for each its name and the folders of parts of its predictions; a resumed run must have the same.
        record: what metrics.json and environment.json say of them.
    """

    targets: np.ndarray
    weights: np.ndarray
    identity: list[list[str]]
    record: dict[str, Any]


@dataclass
class Findings:
    """What is wrong: `faults` always end the command, `leaks` unless they are allowed, counting `leaked` rows."""

    faults: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    leaked: dict[str, int] = field(default_factory=dict)


def find_teachers(words: Sequence[str], allow_in_sample: bool, split: Split, settings: DistillSettings) -> Teachers:
    """Read the named teachers and make targets for the training rows of their logits.

    Args:
        words: each `NAME=FOLDER,...`, `FOLDER,...`, `bayes` or `baseline`. Folders without a name become one teacher
            where their recipe is the same and their rows are not.
        allow_in_sample: accept teachers that were trained on these rows.
        split: of the run; its training rows are looked up.
        settings: the recipe's section `distill`.

    Raises:
        UserError: rows without a prediction or with two, or in-sample ones that are not allowed.
    """
    named = read_teachers(words)
    tokens, train = split.tokens, split.train
    findings = Findings()
    views = []
    for name, predictions in named.items():
        if predictions is None:
            views.append(view_of_bayes(tokens, train) if name == BAYES else view_of_baseline(split))
        else:
            views.append(view_of(name, predictions, tokens, train, findings))
    if findings.faults:
        raise UserError(
            "\n  ".join(
                [
                    "teacher predictions do not match the training rows; predict the table that is trained on:",
                    *findings.faults,
                ]
            )
        )
    if findings.leaks and not allow_in_sample:
        raise UserError(
            "\n  ".join(["not out-of-fold:", *findings.leaks])
            + "\nPredict each fold with the model that was not trained on it (train --fold K/N, then predict "
            "--fold K/N), or give --allow-in-sample, which every result will then mention"
        )
    for leak in findings.leaks:
        log.info(f"WARNING, allowed by --allow-in-sample: {leak}")

    made, records = make_targets(views, tokens.labels[train], settings)
    targets = np.zeros((len(views), 2, len(tokens), 3), dtype=np.float32)
    targets[:, :, train] = made
    seen = held_out_seen(split, named)
    for entry, view, predictions in zip(records, views, named.values(), strict=True):
        entry |= {"both_orders": bool(view.both.all()), "in_sample_rows": findings.leaked.get(view.name, 0)}
        entry["predictions"] = [describe(prediction) for prediction in predictions or []]
        loss = "" if entry["log_loss"] is None else f", log loss {entry['log_loss']:.4f}"
        heated = f", temperature {entry['temperature']:.3f}" if settings.calibrate else ""
        orders = "both orders" if entry["both_orders"] else "one order, its columns exchanged for the other"
        log.info(f"teacher {view.name}: {len(train):,} rows, {orders}{heated}{loss}, weight {entry['weight']:.3f}")
    if seen:
        log.info(
            f"note: the teachers were trained on the prompts of {seen:,} of the {len(split.held_out):,} held-out rows, "
            "so the validation score is optimistic; judge the student on a table no teacher was trained on"
        )
    identity = [[name, *(p.manifest.parts for p in predictions or [])] for name, predictions in named.items()]
    record = {"teachers": records, "in_sample_allowed": allow_in_sample, "in_sample": findings.leaks}
    record["held_out_rows_seen_by_teachers"] = seen
    return Teachers(targets, np.array([entry["weight"] for entry in records]), identity, record)


def read_teachers(words: Sequence[str]) -> dict[str, list[Prediction] | None]:
    """Read the named teachers and their predictions, in the order given; None stands for those that need no folder.

    Raises:
        UserError: a folder without a finished prediction, or the same prediction or name twice.
    """
    named: dict[str, list[Prediction] | None] = {}
    loose: list[str] = []
    for word in words:
        given, folders = split_teacher(word)
        if word in BUILT_IN:
            name, predictions = word, None
        else:
            predictions = [read_prediction(Path(folder)) for folder in folders]
            name = given if given is not None else name_of(Path(folders[0]), named) if folders else ""
        if not name or predictions == []:
            raise UserError(f"--teachers {word}: write it as FOLDER, NAME=FOLDER,FOLDER, {BAYES} or {BASELINE}")
        if name in named:
            raise UserError(f"--teachers: {name} is named twice; list all folders of a teacher as {name}=FOLDER,FOLDER")
        same = (named[other] for other in loose if belongs(predictions, named[other]))
        if given is None and predictions and (others := next(same, None)):
            others += predictions
            continue
        named[name] = predictions
        if given is None and predictions is not None:
            loose.append(name)
    first: dict[str, Path] = {}
    for prediction in (p for predictions in named.values() for p in predictions or []):
        parts = prediction.manifest.parts
        if parts in first:
            raise UserError(f"--teachers: {prediction.folder} and {first[parts]} are the same prediction; give it once")
        first[parts] = prediction.folder
    return named


def name_of(folder: Path, taken: Container[str]) -> str:
    """Return a folder's name, with as much of the path above as makes it a new one."""
    parts = [part for part in folder.parts if part not in ("/", ".", "..")] or [BAYES]
    names = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    return next((name for name in names if name not in taken and name not in BUILT_IN), str(folder))


def belongs(predictions: list[Prediction] | None, others: list[Prediction] | None) -> bool:
    """Whether these are more rows of the same teacher: one recipe, no row in common."""
    if predictions is None or others is None:
        return False
    same = len({prediction.manifest.recipe_hash for prediction in [*predictions, *others]}) == 1
    return same and all(one.places.keys().isdisjoint(other.places) for one in predictions for other in others)


def read_prediction(folder: Path) -> Prediction:
    """Read the finished prediction in a folder (or of the predictions.csv in it), or the average of several models.

    Raises:
        UserError: none there, not finished, or of an earlier version.
    """
    folder = folder.parent if folder.name == "predictions.csv" else folder
    described = read_prediction_manifest(folder)
    if isinstance(described, AverageManifest):
        return average_of(folder, [read_prediction(folder / name) for name in described.models])
    finished = read_finished(folder)
    keys = read_row_keys(folder / finished.manifest.parts)
    if keys.chars.shape != (finished.manifest.rows, 2):
        raise UserError(f"{folder}: its rows.npz is not of its {finished.manifest.rows:,} rows; predict again")
    without = set(np.flatnonzero(finished.without_logits).tolist())
    every = enumerate(keys_of(list(finished.ids()), keys.groups, keys.chars))
    places = {key: row for row, key in every if row not in without}
    return Prediction(folder, finished.manifest, places, finished.logits.values, keys.trained)


def average_of(folder: Path, models: list[Prediction]) -> Prediction:
    """Take several models' predictions of the same rows as one: logits of the mean of the probabilities by those models
    that did not see a row's prompt. Where all of them did, the average did."""
    manifest = models[0].manifest.model_copy(update={"parts": " ".join(model.manifest.parts for model in models)})
    places = {key: row for key, row in models[0].places.items() if all(key in model.places for model in models)}
    groups = np.zeros(models[0].logits.shape[1], dtype=np.int64)
    groups[list(places.values())] = [key[1] for key in places]
    trained = [model.trained for model in models]
    unseen = np.array([np.ones(len(groups)) if seen is None else ~np.isin(groups, seen) for seen in trained])
    shares = np.where(unseen.any(0), unseen, 1.0)
    shares /= shares.sum(0)
    orders = np.stack([np.stack([softmax(order) for order in model.logits]) for model in models])  # (k, orders, n, 3)
    mean = (shares[:, None, :, None] * orders).sum(0)
    known = [seen for seen in trained if seen is not None]
    seen_by_all = reduce(np.intersect1d, known) if len(known) == len(models) else None
    return Prediction(folder, manifest, places, np.stack([centred_log(order) for order in mean]), seen_by_all)


def view_of(
    name: str, predictions: list[Prediction], tokens: Tokens, train: np.ndarray, findings: Findings
) -> TeacherLogits:
    """Look up one teacher's logits of the training rows; what is wrong with them goes to `findings`."""
    count = len(train)
    keys = keys_of([tokens.ids[row] for row in train], tokens.groups[train], tokens.chars[train])
    ab, ba = np.zeros((count, 3), dtype=np.float32), np.zeros((count, 3), dtype=np.float32)
    predicted, both = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    leaked_rows = 0
    for prediction in predictions:
        places = np.array([prediction.places.get(key, -1) for key in keys])
        here = np.flatnonzero(places >= 0)
        predicted[here] += 1
        ab[here] = prediction.logits[0, places[here]]
        if len(prediction.logits) == 2:
            twice = here[np.isfinite(prediction.logits[1, places[here]]).all(1)]
            ba[twice], both[twice] = prediction.logits[1, places[twice]], True
        if prediction.trained is None:
            leaked, why = here, "has no record of what it was trained on (train and predict again)"
        else:
            leaked = here[np.isin(tokens.groups[train[here]], prediction.trained)]
            why = "was trained on their prompts"
        if len(leaked):
            shown = shown_ids([keys[row][0] for row in leaked])
            findings.leaks.append(
                f"teacher {name}: the model of {prediction.folder} {why}: {len(leaked):,} of its {len(here):,} rows "
                f"({shown})"
            )
            leaked_rows += len(leaked)
    if leaked_rows:
        findings.leaked[name] = leaked_rows
    if missing := np.flatnonzero(predicted == 0).tolist():
        ids = {key[0] for prediction in predictions for key in prediction.places}
        changed = sum(keys[row][0] in ids for row in missing)
        other = f"; {changed:,} of them are there with another prompt or other answers" if changed else ""
        findings.faults.append(
            f"teacher {name}: no prediction for {len(missing):,} of {count:,} rows "
            f"({shown_ids([keys[row][0] for row in missing])}){other}"
        )
    if doubled := np.flatnonzero(predicted > 1).tolist():
        findings.faults.append(
            f"teacher {name}: {len(doubled):,} rows are predicted more than once "
            f"({shown_ids([keys[row][0] for row in doubled])}); give each model a teacher's name of its own"
        )
    return TeacherLogits(name, ab, ba, both)


def view_of_bayes(tokens: Tokens, train: np.ndarray) -> TeacherLogits:
    """Take the sample's own law as a teacher: nothing can be learnt beyond it."""
    if tokens.bayes is None or np.isnan(tokens.bayes[train]).any():
        raise UserError(
            f"--teachers {BAYES}: the law is known for the embedded sample's rows only; give folders of predictions"
        )
    logits = centred_log(tokens.bayes[train])
    return TeacherLogits(BAYES, logits, logits[:, SWAPPED_CLASS], np.zeros(len(train), dtype=bool), exact=True)


def held_out_seen(split: Split, named: dict[str, list[Prediction] | None]) -> int:
    """Count the held-out rows on whose prompts any teacher was trained."""
    seen = np.zeros(len(split.held_out), dtype=bool)
    for prediction in (p for predictions in named.values() for p in predictions or []):
        if prediction.trained is not None:
            seen |= np.isin(split.valid.groups[split.held_out], prediction.trained)
    return int(seen.sum())


def describe(prediction: Prediction) -> dict[str, Any]:
    """Say where a prediction came from: folder, fold, model and how it cut long rows."""
    names = {"fold", "model", "fingerprint", "recipe", "truncation", "rows"}
    return {"folder": str(prediction.folder)} | prediction.manifest.model_dump(include=names)


def shown_ids(ids: Sequence[str]) -> str:
    """List the first ids for a message."""
    more = ", ..." if len(ids) > SHOWN_IDS else ""
    return f"ids {', '.join(ids[:SHOWN_IDS])}{more}"
