"""A prediction from models and a table to predictions.csv: blocks, parts, merge, scores."""

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiebreak.cluster.ranks import find_ranks, settle_process
from tiebreak.data.prediction_manifest import (
    MERGE_FILE,
    VERSION,
    AverageManifest,
    MergeManifest,
    PredictionManifest,
    read_merge_manifest,
    read_prediction_manifest,
    write_merge_manifest,
    write_prediction_manifest,
)
from tiebreak.data.predictions import FORMATS, read_predictions, round_probabilities
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import compare_with_baselines
from tiebreak.evaluation.inputs import hash_numbered
from tiebreak.files import TEMPORARY, as_paths, sha256, write_json
from tiebreak.labels import NO_LABEL
from tiebreak.leases import SUFFIX, folder_time, held
from tiebreak.outputs import refuse_foreign
from tiebreak.plurals import plural
from tiebreak.prediction.degenerate import Degenerate, degenerate_outputs
from tiebreak.prediction.finished import BadParts
from tiebreak.prediction.merge import MergedPrediction, merge
from tiebreak.prediction.queue import PartQueue, compute_parts
from tiebreak.prediction.request import (
    PredictionRequest,
    Runtime,
    describe,
    finished_in,
    open_models,
    refuse,
    refuse_to_replace,
)
from tiebreak.prediction.swap import SwapPolicy
from tiebreak.preflight.checks import check_prediction, enabled
from tiebreak.process import importing
from tiebreak.tables.table import OnBadRow, read_labels

if TYPE_CHECKING:
    from tiebreak.models.switching import LoadedModels
    from tiebreak.prediction.models import ModelPrediction

log = logging.getLogger(__name__)

MERGE_LEASE, METRICS_FILE = f"merge{SUFFIX}", "metrics.json"
POLL_S = 0.2


@dataclass(frozen=True)
class PredictionRun:
    """A finished prediction.

    Attributes:
        path: of the table, predictions.csv.
        rows: of it.
        failed: rows that have the class prior, or one answer order only; failed.csv beside the table names them.
        seconds: that the forward passes took, of all processes, models and orders.
        scores: log loss, accuracy and macro F1 of the model and its baselines, by name; None without labels, and on
            ranks other than the first.
    """

    path: Path
    rows: int
    failed: int
    seconds: float | None
    scores: dict[str, dict[str, float]] | None = field(default=None, repr=False)

    def read(self) -> tuple[list[str], np.ndarray]:
        """Read the table: ids (n) and probabilities (n, 3) of A, B and tie."""
        return read_predictions(self.path)


def predict(
    models: Path | str | Sequence[Path | str],
    data: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    fold: tuple[int, int] | None = None,
    swap: SwapPolicy | bool = False,
    degenerate: Degenerate | None = None,
    labels: Path | str | None = None,
    changes: Sequence[str] = (),
    on_bad_row: OnBadRow = "fail",
    runtime: Runtime = "torch",
) -> PredictionRun:
    """Predict a table with one model, or with the average of several, into a folder.

    The processes of whatever launcher share nothing but the folder: each takes the next part that nobody has finished
    or holds, and one of them merges when all are there. A prediction that was interrupted goes on.

    Args:
        models: model folders, or the run folders above them.
        data: tables to predict; the embedded sample if empty.
        out: the folder for predictions.csv and all that belongs to it.
        fold: (k, n) predicts only the rows that `train(fold=(k, n))` holds out.
        swap: whether, or which, rows are seen in the order B, A too and get the mean of both.
        degenerate: probabilities of rows whose answers are both empty or the same, or a labelled table to take them
            from; None leaves such rows to the model.
        labels: a labelled table to score against, or "auto" for the labels of `data`, if any.
        changes: settings of the model's recipe to change, each as `key.path=value`.
        on_bad_row: with `fold`, what to do with rows that cannot be read: `fail` or `skip`. Without, a few of them get
            the class prior; many are an error, unless it is `keep`.
        runtime: `onnx` runs folders of `tiebreak export` by onnxruntime.

    Raises:
        UserError: a table, model, setting or output folder that cannot be used.
    """
    ranks = find_ranks()
    # Read first, so that a mistake in the labels is reported now and not after hours.
    given = read_labels(Path(labels)) if labels not in (None, "auto") else None
    numbered = hash_numbered(Path(labels)) if labels and given else None
    swap = SwapPolicy(swap) if isinstance(swap, bool) else swap
    tables, out = as_paths(data), Path(out)
    refuse_foreign(out, "prediction.json")
    request = PredictionRequest(as_paths(models), tables, out, fold, swap, degenerate, changes, on_bad_row, runtime)
    if enabled():
        check_prediction(request.models, request.data, changes, ranks)
    opened = open_models(request)
    refuse_to_replace(request, opened)
    outputs = None if degenerate is None else degenerate_outputs(degenerate)
    # From here on torch is needed, which takes seconds to import.
    with importing():
        from tiebreak.models.switching import LoadedModels
        from tiebreak.prediction.models import prepare_models

    settle_process()
    predictions = prepare_models(request, opened, outputs, ranks)
    if numbered not in (None, predictions[0].manifest.table) and fold is None:
        raise UserError(
            f"{labels}: has no column id, so its ids are row numbers, which fit any table, and its rows are not those "
            "of the predicted table: give both tables ids"
        )
    loaded, keep = LoadedModels(ranks.device), ranks.first and labels is not None
    merged = run_prediction(request.out, predictions, loaded, swap, ranks.rank, keep)
    for note in merged.notes:
        log.info(note)
    scores = None
    if ranks.first and labels is not None:
        scores = score(predictions[0], merged, given)
        if scores is not None:
            write_json(request.out / METRICS_FILE, scores)
    return PredictionRun(merged.path, merged.rows, merged.failed, merged.seconds, scores)


def run_prediction(
    out: Path,
    predictions: Sequence["ModelPrediction"],
    loaded: "LoadedModels",
    swap: SwapPolicy,
    rank: int,
    keep_probabilities: bool,
) -> MergedPrediction:
    """Compute what is left to compute, until the table is merged by this process or another."""
    take_folder(out, predictions)
    queues = [prediction.queue(loaded, swap) for prediction in predictions]
    for queue in queues:
        queue.refresh()
    left, parts = sum(len(queue.parts) - len(queue.done) for queue in queues), sum(len(queue.parts) for queue in queues)
    rows, blocks = len(predictions[0].tokens), sum(len(prediction.blocks) for prediction in predictions)
    names = ", ".join(prediction.name for prediction in predictions)
    of = f" for {len(predictions)} models ({names})" if len(predictions) > 1 else ""
    done = finished_in(out) if not left else None
    already = "" if done is None else f"; {out / FORMATS['kaggle']} is done already: {describe(done)}"
    log.info(
        f"{plural(rows, 'row')} in {plural(blocks, 'block')}{of}, {left:,} of {plural(parts, 'part')} to do{already}"
    )
    before = stamp(out)
    while True:
        compute_parts(queues, rank + array_task())
        if (merged := merge_once(out, queues, predictions, before, keep_probabilities)) is not None:
            return merged


def array_task() -> int:
    """Return the number of this task in a Slurm array, so that the tasks begin with different models."""
    try:
        return int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    except ValueError:
        return 0


def take_folder(out: Path, predictions: Sequence["ModelPrediction"]) -> None:
    """Begin or go on in the output folder, and in those of several models.

    Raises:
        UserError: one of them holds another finished prediction.
    """
    first = predictions[0].manifest
    manifest: PredictionManifest | AverageManifest = first
    if len(predictions) > 1:
        models = {prediction.name: str(prediction.folder) for prediction in predictions}
        manifest = AverageManifest(
            version=VERSION,
            models=models,
            table=first.table,
            rows=first.rows,
            swap=first.swap,
            adaptive=first.adaptive,
        )
    for prediction in predictions:
        found = finished_in(prediction.out)
        if isinstance(found, PredictionManifest) and not same_prediction(found, prediction.manifest):
            refuse(prediction.out, found, "other rows, another model or other settings")
    if len(predictions) > 1 and isinstance(found := finished_in(out), AverageManifest) and found.table != first.table:
        refuse(out, found, "other rows")
    for prediction in predictions:
        prediction.open()
    if len(predictions) > 1:
        write_prediction_manifest(out, manifest)


def same_prediction(one: PredictionManifest, other: PredictionManifest) -> bool:
    """Whether both give the same predictions.csv."""
    outputs = [each.degenerate and each.degenerate.outputs for each in (one, other)]
    return one.identity == other.identity and outputs[0] == outputs[1]


def stamp(out: Path) -> bytes | None:
    """Return what the last merge left in the folder, as it stands; None before the first."""
    try:
        return (out / MERGE_FILE).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None


def merge_once(
    out: Path,
    queues: Sequence[PartQueue],
    predictions: Sequence["ModelPrediction"],
    before: bytes | None,
    keep_probabilities: bool = False,
) -> MergedPrediction | None:
    """Merge, or wait until another process has; return None if there are parts to compute again.

    Args:
        out: the output folder.
        queues: the parts of each model.
        predictions: the models.
        before: the `stamp` of an earlier merge; another one means that the merge is done.
        keep_probabilities: return them too, if this process merges.

    Raises:
        UserError: another prediction has taken the folder meanwhile.
    """
    lease_s = queues[0].lease_s
    while stamp(out) == before:
        with held(out / MERGE_LEASE, lease_s) as mine:
            if mine and stamp(out) == before:
                return _merge_here(out, predictions, lease_s, keep_probabilities)
        for queue in queues:
            queue.refresh()
        if not all(queue.finished for queue in queues):
            return None
        time.sleep(POLL_S)
    done = read_merge_manifest(out)
    return MergedPrediction(out / done.file, done.rows, None, done.seconds or 0.0, done.failed, done.notes)


def _merge_here(
    out: Path, predictions: Sequence["ModelPrediction"], lease_s: float, keep_probabilities: bool
) -> MergedPrediction | None:
    """Merge in this process, which holds the lease; bad parts are removed, to be computed again."""
    manifest = read_prediction_manifest(out)
    ours: object = predictions[0].manifest.identity
    if isinstance(manifest, AverageManifest):
        ours = {prediction.name: str(prediction.folder) for prediction in predictions}
    if manifest.identity != ours:
        raise UserError(f"{out}: another predict command is writing here; give one of them a different --out")
    for prediction in predictions:
        prediction.open()
    try:
        merged = merge(out, keep_probabilities=keep_probabilities)
    except BadParts as bad:
        for path, reason in bad.reasons.items():
            log.warning(f"{path}: {reason}; computed again")
            path.unlink(missing_ok=True)
        return None
    for prediction in predictions:
        clean_up(prediction.parts, lease_s)
    done = MergeManifest(
        version=VERSION,
        rows=merged.rows,
        file=merged.path.name,
        sha256=sha256(merged.path),
        token=secrets.token_hex(8),
        seconds=merged.seconds,
        failed=merged.failed,
        notes=merged.notes,
    )
    write_merge_manifest(out, done)
    return merged


def clean_up(parts: Path, lease_s: float) -> None:
    """Remove what killed processes left, once all is merged."""
    now = folder_time(parts)
    for path in [*parts.glob(f"*{SUFFIX}"), *parts.glob(f"{TEMPORARY}*")]:
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == SUFFIX or abs(now - path.stat().st_mtime) > lease_s:
                path.unlink()


def score(
    prediction: "ModelPrediction", merged: MergedPrediction, given: dict[str, int] | None
) -> dict[str, dict[str, float]] | None:
    """Score the table, as rounded for it, against labels by id, or those of the data itself.

    Returns:
        The scores by name; None if the data has no labels.

    Raises:
        UserError: none of the labels is of these rows.
    """
    tokens = prediction.tokens
    labels = given
    if labels is None:
        known = zip(tokens.ids, tokens.labels, strict=True)
        labels = {row_id: int(label) for row_id, label in known if label != NO_LABEL}
    rows = [row for row, row_id in enumerate(tokens.ids) if row_id in labels]
    if not rows and given is None:
        log.info("no labels in the data: nothing to score")
        return None
    if not rows:
        raise UserError("--labels: none of its ids is in the predictions: give labels of the predicted table")
    if merged.probabilities is not None:
        probabilities = round_probabilities(merged.probabilities[rows])
    else:
        probabilities = read_predictions(merged.path)[1][rows]  # another process merged
    truth = np.array([labels[tokens.ids[row]] for row in rows])
    bayes = None if tokens.bayes is None else tokens.bayes[rows]
    return compare_with_baselines(probabilities, truth, tokens.chars[rows], prediction.baselines, bayes)
