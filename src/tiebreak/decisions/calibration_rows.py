"""Labelled rows with a judge's predictions of them, which must not be rows that the judge was trained on."""

from pathlib import Path

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.prediction_manifest import PredictionManifest, read_prediction_manifest
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.inputs import LabelledRows, refuse_another_table, split_name
from tiebreak.plurals import plural

PathLike = str | Path


def read_judge(given: PathLike) -> tuple[Path, list[str], np.ndarray]:
    """The file, the ids (n) and the probabilities (n, 3) of a predictions.csv or of a folder with one."""
    _, path = split_name(str(given))
    return path, *read_predictions(path)


def find_rows(
    rows: LabelledRows, path: Path, ids: list[str], probabilities: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Probabilities (n, 3) of the labelled rows, NaN where there are none, and what is to be said of it.

    Raises:
        UserError: no labelled row is predicted, or the judge was trained on the prompt of one.
    """
    refuse_another_table(path, rows)
    place = {row_id: i for i, row_id in enumerate(ids)}
    at = np.array([place.get(row_id, -1) for row_id in rows.ids])
    if not (at >= 0).any():
        raise UserError(
            f"{path}: none of its ids is labelled; give the predictions of the labelled table too: "
            "--calibrate LABELLED PRED_OF_LABELLED"
        )
    trained, unrecorded = trained_prompts(path)
    if trained is not None and rows.pairs is not None:
        seen = np.isin([prompt_group(pair.prompt) for pair in rows.pairs], trained) & (at >= 0)
        if seen.any():
            raise UserError(
                f"{path}: its model was trained on the prompts of {int(seen.sum()):,} labelled rows (id "
                f"{rows.ids[int(seen.argmax())]} is one), so how often it is right on them says nothing of other rows; "
                "calibrate on rows that it has not seen"
            )
    notes = [say_unrecorded(unrecorded) + ": make sure that the labelled ones are not among them"] if unrecorded else []
    if lacking := int((at < 0).sum()):
        notes.append(f"{path} lacks {plural(lacking, 'labelled id')}: left out")
    return np.where((at >= 0)[:, None], probabilities[at], np.nan), notes


def trained_prompts(path: Path) -> tuple[np.ndarray | None, list[Path]]:
    """What the models behind a file of predictions were trained on.

    Returns:
        Groups of the prompts, None where no record is there; and the predictions of which none is.
    """
    if path.name != "predictions.csv":
        return None, [path]
    return _trained_prompts(path.parent)


def say_unrecorded(predictions: list[Path]) -> str:
    """A sentence about predictions of models whose training prompts are not known."""
    more = f" and {len(predictions) - 1:,} more" if len(predictions) > 1 else ""
    return f"no record of the prompts that the judge of {predictions[0]}{more} was trained on"


def _trained_prompts(folder: Path) -> tuple[np.ndarray | None, list[Path]]:
    from tiebreak.prediction.parts import KEYS_FILE, read_row_keys

    try:
        manifest = read_prediction_manifest(folder)
    except (UserError, OSError):
        return None, [folder]
    if isinstance(manifest, PredictionManifest):
        parts = folder / manifest.parts
        trained = read_row_keys(parts).trained if (parts / KEYS_FILE).is_file() else None
        return trained, [folder] if trained is None else []
    found = [_trained_prompts(folder / name) for name in manifest.models]
    known = [groups for groups, _ in found if groups is not None]
    return np.unique(np.concatenate(known)) if known else None, [path for _, without in found for path in without]
