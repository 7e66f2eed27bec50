"""`tiebreak ensemble`: several predictions of the same rows -> one, aligned by id."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.data.predictions import in_chunks, read_predictions, write_table
from tiebreak.errors import UserError
from tiebreak.evaluation.blend import (
    CALIBRATIONS,
    Blend,
    Trial,
    cut_folds,
    equal_weights,
    fit_calibration,
    fit_weights,
    gain,
    try_blend,
)
from tiebreak.evaluation.inputs import name_files, read_rows, split_name
from tiebreak.evaluation.metrics import log_loss
from tiebreak.files import write_json
from tiebreak.prediction.merge import PLAN

SHOWN_IDS = 5
SUFFIXES = {"kaggle": ".csv", "wsdm": ".csv", "parquet": ".parquet"}

Say = Callable[[str], None]


def ensemble(options: argparse.Namespace, say: Say = print) -> int:
    """Average predictions as the command line says; returns the exit code.

    Raises:
        UserError: files of different ids, options that do not go together, or labels that fit none of the rows.
    """
    if options.weights and options.fit:
        raise UserError("--weights are given and --fit finds them: give one of the two")
    if options.calibrate and not options.fit:
        raise UserError("--calibrate needs labelled rows: name a table with --fit")
    files = [split_name(text) for text in options.predictions]
    names = name_files(files)
    ids, judges = align([path for _, path in files])
    record: dict[str, Any] = {"space": options.space, "rows": len(ids)}
    if options.fit:
        blend, scores = choose_blend(names, ids, judges, options, say)
        record |= scores
    else:
        blend = Blend(given_weights(options.weights, len(names)), options.space)
        say(f"{'equal' if not options.weights else 'given'} weights: {_shown(names, blend.weights)}")
    out = out_file(Path(options.out), options.format)
    if out.exists() and any(out.samefile(path) for _, path in files):
        raise UserError(f"--out {out}: that is one of the predictions; choose another file")
    write_table(out, in_chunks(ids, blend.of(judges)), options.format)
    record["files"] = {name: str(path) for name, (_, path) in zip(names, files, strict=True)}
    record["weights"] = dict(zip(names, blend.weights.tolist(), strict=True))
    if blend.scale is not None and blend.shift is not None:
        record["calibration"] = {"scale": blend.scale.tolist(), "shift": blend.shift.tolist()}
    told = out.with_name(f"{out.name}.json")
    write_json(told, record)
    say(f"{out}: {len(ids):,} rows; how it was made: {told}")
    return 0


def align(paths: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """The first file's ids (n), and every file's probabilities (k, n, 3) in that order.

    Raises:
        UserError: one file, or unequal sets of ids; shows the difference.
    """
    if len(paths) < 2:
        raise UserError("an ensemble is of two predictions or more")
    ids, first = read_predictions(paths[0])
    judges = [first]
    for path in paths[1:]:
        other, probabilities = read_predictions(path)
        place = {name: k for k, name in enumerate(other)}
        here = set(ids)
        lacking, extra = [name for name in ids if name not in place], [name for name in other if name not in here]
        if lacking or extra:
            lines = [f"{path} and {paths[0]} are not predictions of the same rows:"]
            for absent, where in ((lacking, path), (extra, paths[0])):
                if absent:
                    more = ", ..." if len(absent) > SHOWN_IDS else ""
                    lines.append(f"{len(absent):,} ids are not in {where}: {', '.join(absent[:SHOWN_IDS])}{more}")
            raise UserError("\n  ".join(lines))
        judges.append(probabilities[[place[name] for name in ids]])
    return ids, np.stack(judges)


def given_weights(weights: Sequence[float] | None, count: int) -> np.ndarray:
    """The weights (k,) of the command line, scaled to sum to one; equal ones if there are none."""
    if not weights:
        return equal_weights(count)
    found = np.array(weights, dtype=np.float64)
    if len(found) != count or not np.isfinite(found).all() or (found < 0).any() or found.sum() == 0:
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise UserError(f"--weights {shown}: give {count} numbers of at least 0, one for each prediction, not all 0")
    return found / found.sum()


def choose_blend(
    names: Sequence[str], ids: list[str], judges: np.ndarray, options: argparse.Namespace, say: Say
) -> tuple[Blend, dict[str, Any]]:
    """Equal or fitted weights, calibrated or not: the more is fitted, the more it must gain on rows not fitted on."""
    rows = read_rows(Path(options.fit), options.on_bad_row)
    place = {name: k for k, name in enumerate(ids)}
    known = [k for k, name in enumerate(rows.ids) if name in place]
    if not known:
        raise UserError(f"--fit {options.fit}: none of its ids is in the predictions")
    some = judges[:, [place[rows.ids[k]] for k in known]]
    labels, groups = rows.labels[known], rows.groups[known]
    folds = cut_folds(labels, groups)
    together = "prompts kept whole" if rows.pairs is not None else "each row a prompt of its own, as there are no texts"
    say(f"{len(known):,} labelled rows, cross-fitted in {len(np.unique(folds))} folds ({together}):")
    for name, judge in zip(names, some, strict=True):
        say(f"  {log_loss(judge, labels):.5f}  {name} alone")
    space = options.space
    attempt = partial(try_blend, judges=some, labels=labels, folds=folds)
    trials = [attempt("equal weights", lambda p, y: Blend(equal_weights(len(p)), space))]
    trials.append(attempt("fitted weights", lambda p, y: Blend(fit_weights(p, y, space), space)))
    say(f"  {trials[0].losses.mean():.5f}  equal weights")
    chosen = _better(trials[0], trials[1], groups, say)
    if options.calibrate:
        trials.append(attempt(f"{chosen.name}, {options.calibrate}", calibrated(chosen, options.calibrate)))
        chosen = _better(chosen, trials[-1], groups, say)
    blend = chosen.fit(some, labels)
    say(f"used: {chosen.name}, fitted on all labelled rows: {_shown(names, blend.weights)}")
    scores = {trial.name: float(trial.losses.mean()) for trial in trials}
    return blend, {"fitted_rows": len(known), "cross_fitted_log_loss": scores, "used": chosen.name}


def calibrated(trial: Trial, kind: str) -> Callable[[np.ndarray, np.ndarray], Blend]:
    """The same way to blend, its logits then calibrated on the same rows."""
    assert kind in CALIBRATIONS

    def fit(judges: np.ndarray, labels: np.ndarray) -> Blend:
        blend = trial.fit(judges, labels)
        scale, shift = fit_calibration(blend.of(judges), labels, kind)
        return Blend(blend.weights, blend.space, scale, shift)

    return fit


def _better(simple: Trial, fitted: Trial, groups: np.ndarray, say: Say) -> Trial:
    """The fitted one where it gains more than a standard error on rows that it was not fitted on."""
    mean, error = gain(simple, fitted, groups)
    take = mean > error
    verdict = "better" if take else "not better by more than its standard error, so not used"
    say(f"  {fitted.losses.mean():.5f}  {fitted.name}: {mean:+.5f} +- {error:.5f}, {verdict}")
    return fitted if take else simple


def out_file(out: Path, form: str) -> Path:
    """The file to write: as named, or in the folder named.

    Raises:
        UserError: a suffix that is not the format's.
    """
    if out.suffix == "":
        if (out / PLAN).is_file():
            raise UserError(f"--out {out}: that is a prediction's own folder; choose another")
        out.mkdir(parents=True, exist_ok=True)
        return out / f"predictions{SUFFIXES[form]}"
    if out.suffix != SUFFIXES[form]:
        raise UserError(f"--out {out}: a file of --format {form} ends in {SUFFIXES[form]}")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _shown(names: Sequence[str], weights: np.ndarray) -> str:
    return ", ".join(f"{name} {weight:.3f}" for name, weight in zip(names, weights, strict=True))
