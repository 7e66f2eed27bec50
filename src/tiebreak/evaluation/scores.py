"""Scores of one judge with intervals, overall and by slice."""

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap, divide, estimate, from_sums
from tiebreak.evaluation.metrics import CLIP
from tiebreak.evaluation.schema import ClassScores, Scores, Slice
from tiebreak.labels import CLASS_NAMES

LOSS, BRIER, CONFUSION, CLASS_LOSS = 0, 1, slice(2, 11), slice(11, 14)


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p of the true class (n,) in nats, of probabilities (n, 3) and labels (n,)."""
    return -np.log(np.clip(probabilities[np.arange(len(labels)), labels], CLIP, 1.0))


def score(
    probabilities: np.ndarray, labels: np.ndarray, bootstrap: Bootstrap, reference: tuple | None = None
) -> Scores:
    """All scores of probabilities (n, 3) against labels (n,).

    Args:
        reference: on the embedded sample, the losses (n,) of the prior and of Bayes, for `gap_closed`.
    """
    rows, verdicts = len(labels), probabilities.argmax(1)
    loss, truth = losses(probabilities, labels), np.eye(3)[labels]
    brier = ((probabilities - truth) ** 2).sum(1)
    pairs = np.eye(9)[labels * 3 + verdicts]
    columns = [loss[:, None], brier[:, None], pairs, truth * loss[:, None]]
    if reference is not None:
        columns.append(np.stack(reference, axis=1))
    total, resampled = bootstrap.sums(np.concatenate(columns, axis=1))
    # Summed like everything else, so that a statistic and its resamples are the same function.
    counts = {"total": total[None], "resampled": resampled}
    confusion = {name: sums[:, CONFUSION].reshape(-1, 3, 3) for name, sums in counts.items()}
    measures = {name: _from_confusion(matrix) for name, matrix in confusion.items()}

    def measured(name: str, k: int | None = None):
        value, samples = (measures[which][name] for which in ("total", "resampled"))
        return estimate(float(value[0] if k is None else value[0, k]), samples if k is None else samples[:, k])

    def per_row(column: int):
        return from_sums(total, resampled, lambda s: divide(s[:, column], s[:, CONFUSION].sum(1)))

    def class_loss(k: int):
        return from_sums(
            total, resampled, lambda s: divide(s[:, CLASS_LOSS][:, k], s[:, CONFUSION].reshape(-1, 3, 3)[:, k].sum(1))
        )

    gap = None
    if reference is not None:
        gap = from_sums(total, resampled, lambda s: divide(s[:, -2] - s[:, LOSS], s[:, -2] - s[:, -1]))
    classes = {
        name: ClassScores(
            rows=int((labels == k).sum()),
            precision=measured("precision", k),
            recall=measured("recall", k),
            f1=measured("f1", k),
            log_loss=class_loss(k),
        )
        for k, name in enumerate(CLASS_NAMES)
    }
    assert rows == round(total[CONFUSION].sum())
    return Scores(
        log_loss=per_row(LOSS),
        accuracy=measured("accuracy"),
        macro_f1=measured("macro_f1"),
        brier=per_row(BRIER),
        classes=classes,
        confusion=total[CONFUSION].reshape(3, 3).round().astype(int).tolist(),
        gap_closed=gap,
    )


def _from_confusion(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and macro F1 (m,), precision, recall and F1 (m, 3) of confusion matrices (m, 3, 3)."""
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
    }


def score_slices(
    probabilities: np.ndarray, labels: np.ndarray, slices: dict[tuple[str, str], np.ndarray], bootstrap: Bootstrap
) -> list[Slice]:
    """Log loss and accuracy of each slice; a slice is a mask (n,) named by (what it is parted by, its name)."""
    if not slices:
        return []
    masks = np.stack(list(slices.values()), axis=1).astype(np.float64)
    count = masks.shape[1]
    loss, right = losses(probabilities, labels)[:, None], (probabilities.argmax(1) == labels)[:, None]
    total, resampled = bootstrap.sums(np.concatenate([masks, masks * loss, masks * right], axis=1))
    found = []
    for k, ((by, name), mask) in enumerate(slices.items()):
        log_loss, accuracy = (
            from_sums(total, resampled, lambda s, k=k, c=c: divide(s[:, c * count + k], s[:, k]))  # type: ignore[misc]
            for c in (1, 2)
        )
        if log_loss and accuracy:
            found.append(Slice(by=by, name=name, rows=int(mask.sum()), log_loss=log_loss, accuracy=accuracy))
    return found
