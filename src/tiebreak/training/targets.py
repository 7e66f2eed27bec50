"""Teachers' logits of the training rows -> what the student learns from: calibrated, symmetrised, weighed."""

from dataclasses import dataclass

import numpy as np

from tiebreak.config import DistillSettings
from tiebreak.errors import UserError
from tiebreak.evaluation import metrics
from tiebreak.evaluation.metrics import log_loss, softmax
from tiebreak.labels import NO_LABEL, SWAPPED_CLASS


@dataclass(frozen=True)
class TeacherLogits:
    """One teacher's logits (n, 3) of the training rows seen as A, B, and as B, A where `both` (n,) says so.

    `exact`: the probabilities are known to be right, so there is nothing to calibrate.
    """

    name: str
    ab: np.ndarray
    ba: np.ndarray
    both: np.ndarray
    exact: bool = False


def make_targets(
    views: list[TeacherLogits], labels: np.ndarray, settings: DistillSettings
) -> tuple[np.ndarray, list[dict]]:
    """What each teacher teaches, and what is to be said of each.

    Args:
        labels: (n,), -1 where there is none.

    Returns:
        Logits (t, 2, n, 3) float32 for the orders A, B and B, A, where without the teacher's own the columns of A, B
        change places; and per teacher its temperature, its log loss on the labelled rows, and its weight.

    Raises:
        UserError: averaging over orders that were not predicted, weights that are not one for each teacher, or a
            setting that needs labels without any.
    """
    known = labels != NO_LABEL
    if not known.any() and (settings.calibrate or settings.teacher_weights == "log-loss"):
        raise UserError("distill.calibrate and distill.teacher_weights=log-loss need labelled rows: there are none")
    targets = np.empty((len(views), 2, len(labels), 3), dtype=np.float32)
    entries: list[dict] = []
    for k, view in enumerate(views):
        temperature = best_temperature(view, labels) if settings.calibrate and not view.exact else 1.0
        ab = view.ab / temperature
        ba = np.where(view.both[:, None], view.ba / temperature, ab[:, SWAPPED_CLASS])
        if settings.symmetrise and not view.exact:
            if absent := int((~view.both).sum()):
                raise UserError(
                    f"distill.symmetrise: teacher {view.name} has {absent:,} rows in one answer order only: "
                    "predict them with --swap"
                )
            ab = centred_log((softmax(ab) + softmax(ba)[:, SWAPPED_CLASS]) / 2)
            ba = ab[:, SWAPPED_CLASS]
        targets[k, 0], targets[k, 1] = ab, ba
        loss = log_loss(softmax(ab[known]), labels[known]) if known.any() else None
        entries.append({"name": view.name, "temperature": temperature, "log_loss": loss})
    for entry, weight in zip(entries, weigh(entries, labels[known], settings.teacher_weights), strict=True):
        entry["weight"] = weight
    return targets, entries


def best_temperature(view: TeacherLogits, labels: np.ndarray) -> float:
    """What the logits of both orders must be divided by for the least log loss (Guo et al. 2017, ICML)."""
    one, other = labels != NO_LABEL, (labels != NO_LABEL) & view.both
    logits = np.concatenate([view.ab[one], view.ba[other]]).astype(np.float64)
    truth = np.concatenate([labels[one], SWAPPED_CLASS[labels[other]]])
    return metrics.best_temperature(logits, truth)


def weigh(entries: list[dict], labels: np.ndarray, how: str | list[float]) -> list[float]:
    """Each teacher's weight: one, as given, or its gain in log loss over the class prior, with a mean of one.

    A teacher no better than the prior gets nothing; if none is better, all are equal.
    """
    if isinstance(how, list):
        if len(how) != len(entries):
            raise UserError(
                f"distill.teacher_weights has {len(how)} weights for {len(entries)} teachers: give each one"
            )
        return how
    if how == "equal":
        return [1.0] * len(entries)
    shares = np.bincount(labels, minlength=3) / len(labels)
    prior = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    gains = np.array([max(0.0, prior - entry["log_loss"]) for entry in entries])
    return (gains / gains.mean()).tolist() if gains.any() else [1.0] * len(entries)


def centred_log(probabilities: np.ndarray) -> np.ndarray:
    """Logits (n, 3) with a mean of zero, as a trained head's are, of probabilities (n, 3)."""
    logs = np.log(np.clip(probabilities, 1e-12, 1.0))
    return logs - logs.mean(axis=1, keepdims=True)
