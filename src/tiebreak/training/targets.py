"""Turn teachers' logits of the training rows into what the student learns from: calibrated, symmetrised, weighed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

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


class TeacherRecord(TypedDict, total=False):
    """What metrics.json says of a teacher; `log_loss` in nats, of the labelled rows, is None where there are none."""

    name: str
    temperature: float
    log_loss: float | None
    weight: float
    both_orders: bool
    in_sample_rows: int
    predictions: list[dict[str, Any]]


def make_targets(
    views: list[TeacherLogits], labels: np.ndarray, settings: DistillSettings
) -> tuple[np.ndarray, list[TeacherRecord]]:
    """Calibrate, symmetrise and weigh the teachers.

    Args:
        views: the teachers' logits of n training rows.
        labels: (n,), -1 where there is none.
        settings: the recipe's section `distill`.

    Returns:
        Logits (t, 2, n, 3) float32 for the orders A, B and B, A, where without the teacher's own the columns of A, B
        change places; and per teacher its temperature, its log loss on the labelled rows, and its weight.

    Raises:
        UserError: averaging over orders that were not predicted, weights that are not one for each teacher, or a
            setting that needs labels without any.
    """
    known = labels != NO_LABEL
    if not known.any() and (settings.calibrate or settings.teacher_weights == "log-loss"):
        raise UserError(
            "distill.calibrate and distill.teacher_weights=log-loss need labelled rows, and there are "
            "none: set them to false and equal, or label some"
        )
    targets = np.empty((len(views), 2, len(labels), 3), dtype=np.float32)
    records: list[TeacherRecord] = []
    for teacher, view in enumerate(views):
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
        targets[teacher, 0], targets[teacher, 1] = ab, ba
        loss = log_loss(softmax(ab[known]), labels[known]) if known.any() else None
        records.append({"name": view.name, "temperature": temperature, "log_loss": loss})
    losses = [record["log_loss"] for record in records]
    for record, weight in zip(records, weigh(losses, labels[known], settings.teacher_weights), strict=True):
        record["weight"] = weight
    return targets, records


def best_temperature(view: TeacherLogits, labels: np.ndarray) -> float:
    """Fit what the logits of both orders are divided by for the least log loss (Guo et al. 2017, ICML)."""
    one, other = labels != NO_LABEL, (labels != NO_LABEL) & view.both
    logits = np.concatenate([view.ab[one], view.ba[other]]).astype(np.float64)
    truth = np.concatenate([labels[one], SWAPPED_CLASS[labels[other]]])
    return metrics.best_temperature(logits, truth)


def weigh(losses: Sequence[float | None], labels: np.ndarray, how: str | list[float]) -> list[float]:
    """Return each teacher's weight: one, as given, or its gain in log loss over the class prior, with a mean of one.

    A teacher no better than the prior gets nothing; if none is better, all are equal.
    """
    if isinstance(how, list):
        if len(how) != len(losses):
            raise UserError(f"distill.teacher_weights has {len(how)} weights for {len(losses)} teachers: give each one")
        return how
    if how == "equal":
        return [1.0] * len(losses)
    shares = np.bincount(labels, minlength=3) / len(labels)
    prior = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    gains = np.array([max(0.0, prior - loss) for loss in losses if loss is not None])
    return [float(gain) for gain in gains / gains.mean()] if gains.any() else [1.0] * len(losses)


def centred_log(probabilities: np.ndarray) -> np.ndarray:
    """Return logits (n, 3) with a mean of zero, as a trained head's are, of probabilities (n, 3)."""
    logs = np.log(np.clip(probabilities, 1e-12, 1.0))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))
