"""Scores of one judge with intervals, overall and by slice."""

from collections.abc import Callable

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap, divide, estimate, from_sums
from tiebreak.evaluation.metrics import row_losses
from tiebreak.evaluation.schema import Estimate, Scores, Slice
from tiebreak.labels import CLASS_NAMES

LOSS, BRIER, CONFUSION, CLASS_LOSS, PRIOR_LOSS, BAYES_LOSS = 0, 1, slice(2, 11), slice(11, 14), 14, 15
"""Columns whose sums every score is a function of; the confusion matrix by label and verdict, row after row."""
SLICE_ROWS, SLICE_LOSS, SLICE_RIGHT = range(3)
"""The same of a slice."""


def score(
    probabilities: np.ndarray,
    labels: np.ndarray,
    bootstrap: Bootstrap,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
) -> Scores:
    """Compute all scores of probabilities (n, 3) against labels (n,).

    Args:
        probabilities: (n, 3), by row and class.
        labels: (n,).
        bootstrap: of the n rows.
        reference: on the embedded sample, the losses (n,) of the prior and of Bayes, for `gap_closed`.
    """
    verdicts = probabilities.argmax(1)
    loss, truth = row_losses(probabilities, labels), np.eye(3)[labels]
    brier = ((probabilities - truth) ** 2).sum(1)
    pairs = np.eye(9)[labels * 3 + verdicts]
    columns = [loss[:, None], brier[:, None], pairs, truth * loss[:, None]]
    if reference is not None:
        columns.append(np.stack(reference, axis=1))
    total, resampled = bootstrap.sums(np.concatenate(columns, axis=1))

    # A statistic and its resamples are the same function of sums over rows.
    def estimated(statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate | None:
        return from_sums(total, resampled, statistic)

    def of_class(name: str, label: int) -> Estimate | None:
        return estimated(lambda sums: _from_confusion(sums)[name][:, label])

    return Scores.model_validate(
        {
            "log_loss": estimated(lambda sums: divide(sums[:, LOSS], sums[:, CONFUSION].sum(1))),
            "accuracy": estimated(lambda sums: _from_confusion(sums)["accuracy"]),
            "macro_f1": estimated(lambda sums: _from_confusion(sums)["macro_f1"]),
            "brier": estimated(lambda sums: divide(sums[:, BRIER], sums[:, CONFUSION].sum(1))),
            "classes": {
                class_name: {name: of_class(name, label) for name in ("precision", "recall", "f1", "log_loss")}
                | {"rows": int((labels == label).sum())}
                for label, class_name in enumerate(CLASS_NAMES)
            },
            "confusion": total[CONFUSION].reshape(3, 3).round().astype(int).tolist(),
            "gap_closed": None if reference is None else estimated(_gap_closed),
        }
    )


def _gap_closed(sums: np.ndarray) -> np.ndarray:
    """(prior - judge) / (prior - Bayes) in log loss (m,)."""
    return divide(sums[:, PRIOR_LOSS] - sums[:, LOSS], sums[:, PRIOR_LOSS] - sums[:, BAYES_LOSS])


def _from_confusion(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and macro F1 (m,), and of each class precision, recall, F1 and log loss (m, 3), of sums (m, columns)."""
    matrix = sums[:, CONFUSION].reshape(-1, 3, 3)
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    labelled, judged = matrix.sum(2), matrix.sum(1)
    # A class that occurs on neither side has no F1 of its own and counts as 0, as scikit-learn's zero_division=0.
    f1 = np.nan_to_num(divide(2 * hits, labelled + judged))
    return {
        "accuracy": divide(hits.sum(1), matrix.sum((1, 2))),
        "macro_f1": f1.mean(1),
        "precision": divide(hits, judged),
        "recall": divide(hits, labelled),
        "f1": f1,
        "log_loss": divide(sums[:, CLASS_LOSS], labelled),
    }


def score_slices(
    probabilities: np.ndarray, labels: np.ndarray, slices: dict[tuple[str, str], np.ndarray], bootstrap: Bootstrap
) -> list[Slice]:
    """Log loss and accuracy of each slice: masks (n,) by (what the rows are divided by, name)."""
    if not slices:
        return []
    right = probabilities.argmax(1) == labels
    values = np.stack([np.ones(len(labels)), row_losses(probabilities, labels), right], axis=1)
    masks = np.stack(list(slices.values()), axis=1)
    # One pass over the resamples for all slices: values (n, slices, 3).
    total, resampled = bootstrap.sums(masks[:, :, None] * values[:, None, :])
    totals, resamples = total.reshape(-1, 3), resampled.reshape(len(resampled), -1, 3)

    def mean(i: int, column: int) -> Estimate | None:
        value, samples = (divide(sums[..., i, column], sums[..., i, SLICE_ROWS]) for sums in (totals, resamples))
        return estimate(float(value), samples)

    scored = []
    for i, ((by, name), mask) in enumerate(slices.items()):
        log_loss, accuracy = mean(i, SLICE_LOSS), mean(i, SLICE_RIGHT)
        if log_loss and accuracy:
            scored.append(Slice(by=by, name=name, rows=int(mask.sum()), log_loss=log_loss, accuracy=accuracy))
    return scored
