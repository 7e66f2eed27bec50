"""Ensembles: several predictions of the same rows into one, aligned by id."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tiebreak.data.prediction_manifest import (
    PREDICTION_FILE,
    AverageManifest,
    read_prediction_manifest,
)
from tiebreak.data.predictions import TableFormat, in_chunks, read_predictions, write_table
from tiebreak.errors import UserError
from tiebreak.evaluation.blend import (
    Blend,
    Calibrator,
    Space,
    Trial,
    cut_folds,
    equal_weights,
    fit_calibration,
    fit_weights,
    gain,
    try_blend,
)
from tiebreak.evaluation.inputs import LabelledRows, name_files, read_labelled, refuse_another_table, split_name
from tiebreak.evaluation.metrics import log_loss
from tiebreak.files import sha256
from tiebreak.manifests import Manifest, Section, write_manifest
from tiebreak.outputs import refuse_over
from tiebreak.plurals import plural
from tiebreak.prediction.parts import RowKey, iter_ids, keys_of, read_row_keys
from tiebreak.storage import make_folder
from tiebreak.tables.table import OnBadRow
from tiebreak.terminal import one_line

log = logging.getLogger(__name__)

MAX_SHOWN_IDS = 5
SUFFIXES: dict[TableFormat, str] = {"kaggle": ".csv", "wsdm": ".csv", "parquet": ".parquet"}


class CalibrationRecord(Section):
    """The blend's logits are multiplied by `scale`, and `shift` is added, for A, B and tie."""

    scale: list[float]
    shift: list[float]


class EnsembleManifest(Manifest):
    """`F.json` beside an ensemble's table F: how it was made."""

    space: Space
    """What was averaged."""
    rows: int
    fitted_rows: int | None = None
    """Labelled rows that weights were fitted on."""
    cross_fitted_log_loss: dict[str, float] | None = None
    """Log loss of each way to blend, on rows that it was not fitted on."""
    used: str | None = None
    """The way to blend that was used."""
    files: dict[str, str]
    """The predictions, by name."""
    hashes: dict[str, str] | None = None
    """SHA-256 of each of them; earlier versions kept none."""
    weights: dict[str, float]
    """By name; they sum to one."""
    calibration: CalibrationRecord | None = None


@dataclass(frozen=True)
class Ensemble:
    """A blend of predictions.

    Attributes:
        path: of the table. record: how it was made, also in `record_path`.
        ids: of its rows, in the first prediction's order.
        probabilities: (n, 3) float64 of A, B and tie, before rounding.
    """

    path: Path
    record_path: Path
    record: EnsembleManifest
    ids: list[str]
    probabilities: np.ndarray


@dataclass(frozen=True)
class FittedBlend:
    """The blend chosen on labelled rows, and the scores by which it was."""

    blend: Blend
    rows: int
    scores: dict[str, float]
    used: str


def ensemble(
    predictions: Sequence[Path | str],
    out: Path | str,
    *,
    weights: Sequence[float] | None = None,
    fit: Path | str | None = None,
    calibrate: Calibrator | None = None,
    space: Space = "probabilities",
    format: TableFormat = "kaggle",
    on_bad_row: OnBadRow = "fail",
) -> Ensemble:
    """Average predictions of the same rows, aligned by id, into one table.

    Args:
        predictions: at least two, each a predictions.csv or .parquet, a folder with one, or `NAME=PATH`.
        out: the table to write, or a folder for it.
        weights: of each prediction, at least 0; equal if not given.
        fit: a labelled table to fit the weights on; they are used only where that gains on rows not fitted on.
        calibrate: also fit the scale (and for `vector` a shift of each class) of the blend's logits; needs `fit`.
        space: what to average.
        format: of the table.
        on_bad_row: what to do with rows of `fit` that cannot be read: `fail` or `skip`.

    Raises:
        UserError: files of different ids, arguments that do not go together, or labels that fit none of the rows.
    """
    if weights and fit:
        raise UserError("--weights and --fit exclude each other: weights are either given or fitted")
    if calibrate and not fit:
        raise UserError("--calibrate needs labelled rows: name a table with --fit")
    files = [split_name(str(text)) for text in predictions]
    names = name_files(files)
    paths = [path for _, path in files]
    ids, judges = align(paths)
    refuse_other_rows(paths)
    path = out_file(Path(out), format)
    record_path = path.with_name(f"{path.name}.json")
    for written in (path, record_path):
        refuse_over(written, [*(file for _, file in files), *([fit] if fit else [])])
    if fit:
        fitted = choose_blend(names, ids, judges, read_fitting(Path(fit), ids, paths, on_bad_row), calibrate, space)
        blend = fitted.blend
    else:
        fitted, blend = None, Blend(given_weights(weights, len(names)), space)
        log.info(f"{'equal' if not weights else 'given'} weights: {_describe(names, blend.weights)}")
    probabilities = blend.of(judges)
    write_table(path, in_chunks(ids, probabilities), format)
    record = EnsembleManifest(
        space=space,
        rows=len(ids),
        fitted_rows=fitted.rows if fitted else None,
        cross_fitted_log_loss=fitted.scores if fitted else None,
        used=fitted.used if fitted else None,
        files={name: str(file) for name, (_, file) in zip(names, files, strict=True)},
        hashes={name: sha256(file) for name, (_, file) in zip(names, files, strict=True)},
        weights=dict(zip(names, blend.weights.tolist(), strict=True)),
    )
    if blend.scale is not None and blend.shift is not None:
        record.calibration = CalibrationRecord(scale=blend.scale.tolist(), shift=blend.shift.tolist())
    write_manifest(record_path, record)
    return Ensemble(path, record_path, record, ids, probabilities)


def align(paths: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """Return the first file's ids (n), and every file's probabilities (k, n, 3) in that order.

    Raises:
        UserError: one file, or unequal sets of ids; shows the difference.
    """
    if len(paths) < 2:
        raise UserError(f"give at least two predictions (got {len(paths)})")
    ids, first = read_predictions(paths[0])
    judges = [first]
    for path in paths[1:]:
        other, probabilities = read_predictions(path)
        place = {row_id: i for i, row_id in enumerate(other)}
        here = set(ids)
        missing, extra = [i for i in ids if i not in place], [i for i in other if i not in here]
        if missing or extra:
            lines = [f"{path} and {paths[0]} are not predictions of the same rows; predict one table with each:"]
            for absent, where in ((missing, path), (extra, paths[0])):
                if absent:
                    shown = ", ".join(map(one_line, absent[:MAX_SHOWN_IDS]))
                    more = ", ..." if len(absent) > MAX_SHOWN_IDS else ""
                    lines.append(f"{plural(len(absent), 'id')} not in {where}: {shown}{more}")
            raise UserError("\n  ".join(lines))
        judges.append(probabilities[[place[row_id] for row_id in ids]])
    return ids, np.stack(judges)


def refuse_other_rows(paths: Sequence[Path]) -> None:
    """Row numbers fit every table, so predictions that keep their rows' keys must agree on those of equal ids.

    Raises:
        UserError: some were made from other rows.
    """
    known = [(path, *found) for path in paths if (found := rows_behind(path)) is not None]
    if len({table for _, _, table in known}) < 2:
        return
    first: dict[str, RowKey] = {}
    for path, parts, _ in known:
        stored = read_row_keys(parts)
        keys = keys_of(list(iter_ids(parts)), stored.groups, stored.chars)
        other = [key[0] for key in keys if first.setdefault(key[0], key) != key]
        if other:
            raise UserError(
                f"{path} and {known[0][0]} are not predictions of the same rows: {plural(len(other), 'id')} (such as "
                f"{one_line(other[0])}) stand for other prompts or answers; predict one table with each"
            )


def rows_behind(path: Path) -> tuple[Path, str] | None:
    """The folder of parts behind a table of predictions, and the hash of its rows; None where nothing says."""
    folder = path.parent
    try:
        manifest = read_prediction_manifest(folder)
        if isinstance(manifest, AverageManifest):
            folder /= next(iter(manifest.models))
            manifest = read_prediction_manifest(folder)
    except (UserError, OSError):
        return None
    if path.stem != "predictions" or isinstance(manifest, AverageManifest):
        return None
    return folder / manifest.parts, manifest.table


def read_fitting(fit: Path, ids: list[str], paths: Sequence[Path], on_bad_row: OnBadRow) -> LabelledRows:
    """Read the labelled rows that weights are fitted on.

    Raises:
        UserError: an unusable table, none of the predicted `ids`, or predictions of other rows than its.
    """
    rows = read_labelled(fit, on_bad_row)
    if set(rows.ids).isdisjoint(ids):
        raise UserError(f"--fit {fit}: none of its ids is in the predictions: give labels of the predicted table")
    before = len(rows.notes)
    for path in paths:
        refuse_another_table(path, rows)
    for note in rows.notes[before:]:
        log.info(f"note: {note}")
    return rows


def given_weights(weights: Sequence[float] | None, count: int) -> np.ndarray:
    """Return the weights (k,), scaled to sum to one; equal ones if none are given."""
    if not weights:
        return equal_weights(count)
    scaled = np.array(weights, dtype=np.float64)
    if len(scaled) != count or not np.isfinite(scaled).all() or (scaled < 0).any() or scaled.sum() == 0:
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise UserError(f"--weights {shown}: give {count} numbers of at least 0, one for each prediction, not all 0")
    return np.asarray(scaled / scaled.sum())


def choose_blend(
    names: Sequence[str],
    ids: list[str],
    judges: np.ndarray,
    rows: LabelledRows,
    calibrate: Calibrator | None,
    space: Space,
) -> FittedBlend:
    """Choose equal or fitted weights, calibrated or not: what is fitted must gain on rows that it was not fitted on.

    Args:
        names: of the predictions.
        ids: of their rows.
        judges: their probabilities (k, n, 3).
        rows: labelled, some of them predicted.
        calibrate: as `ensemble`, like the rest.
        space: in which judges are averaged.
    """
    place = {row_id: i for i, row_id in enumerate(ids)}
    known = [i for i, row_id in enumerate(rows.ids) if row_id in place]
    some = judges[:, [place[rows.ids[i]] for i in known]]
    labels, groups = rows.labels[known], rows.groups[known]
    folds = cut_folds(labels, groups)
    together = "prompts kept whole" if rows.pairs is not None else "each row a prompt of its own, as there are no texts"
    log.info(f"{plural(len(known), 'labelled row')}, cross-fitted in {len(np.unique(folds))} folds ({together}):")
    for name, judge in zip(names, some, strict=True):
        log.info(f"  {log_loss(judge, labels):.5f}  {name} alone")
    attempt = partial(try_blend, judges=some, labels=labels, folds=folds)
    trials = [attempt("equal weights", lambda p, y: Blend(equal_weights(len(p)), space))]
    trials.append(attempt("fitted weights", lambda p, y: Blend(fit_weights(p, y, space), space)))
    log.info(f"  {trials[0].losses.mean():.5f}  equal weights")
    chosen = _better(trials[0], trials[1], groups)
    if calibrate:
        trials.append(attempt(f"{chosen.name}, {calibrate}", calibrated(chosen, calibrate)))
        chosen = _better(chosen, trials[-1], groups)
    blend = chosen.fit(some, labels)
    log.info(f"used: {chosen.name}, fitted on all labelled rows: {_describe(names, blend.weights)}")
    scores = {trial.name: float(trial.losses.mean()) for trial in trials}
    return FittedBlend(blend, len(known), scores, chosen.name)


def calibrated(trial: Trial, kind: Calibrator) -> Callable[[np.ndarray, np.ndarray], Blend]:
    """Return the same way to blend, its logits then calibrated on the same rows."""

    def fit(judges: np.ndarray, labels: np.ndarray) -> Blend:
        blend = trial.fit(judges, labels)
        scale, shift = fit_calibration(blend.of(judges), labels, kind)
        return Blend(blend.weights, blend.space, scale, shift)

    return fit


def _better(simple: Trial, fitted: Trial, groups: np.ndarray) -> Trial:
    """Return the fitted one where it gains more than a standard error on rows that it was not fitted on."""
    mean, error = gain(simple, fitted, groups)
    take = mean > error
    verdict = "better" if take else "not better by more than its standard error, so not used"
    log.info(f"  {fitted.losses.mean():.5f}  {fitted.name}: {mean:+.5f} +- {error:.5f}, {verdict}")
    return fitted if take else simple


def out_file(out: Path, format: TableFormat) -> Path:
    """Return the file to write: as named, or in the folder named, which is made.

    Raises:
        UserError: a suffix that is not the format's, or the folder of a prediction.
    """
    if out.suffix == "":
        if (out / PREDICTION_FILE).is_file():
            raise UserError(f"--out {out}: that is a prediction's own folder; choose another")
        make_folder(out)
        return out / f"predictions{SUFFIXES[format]}"
    if out.suffix != SUFFIXES[format]:
        raise UserError(f"--out {out}: a file of --format {format} ends in {SUFFIXES[format]}")
    make_folder(out.parent)
    return out


def _describe(names: Sequence[str], weights: np.ndarray) -> str:
    return ", ".join(f"{name} {weight:.3f}" for name, weight in zip(names, weights, strict=True))
