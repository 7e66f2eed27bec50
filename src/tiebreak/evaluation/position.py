"""Audit position bias: does the verdict depend on which answer is shown first?"""

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.schema import Position


def audit_position(
    probabilities: np.ndarray, labels: np.ndarray, orders: np.ndarray | None, bootstrap: Bootstrap
) -> Position:
    """Audit one judge.

    Args:
        probabilities: (n, 3), its predictions as scored.
        labels: (n,), of humans who saw A first.
        orders: (2, n, 3), its predictions with A first and with B first, both in the table's A and B; or None.
        bootstrap: of the n rows.
    """
    ahead = probabilities[:, 0] - probabilities[:, 1] if orders is None else orders[0, :, 0] - orders[0, :, 1]
    humans = (labels == 0).astype(float) - (labels == 1)
    both = {}
    if orders is not None:
        first, second = orders
        verdicts, swapped = first.argmax(1), second.argmax(1)
        both = {
            "consistency": verdicts == swapped,
            "first_favoured": (verdicts == 0) & (swapped == 1),
            "second_favoured": (verdicts == 1) & (swapped == 0),
            "mean_change": np.abs(first - second).sum(1) / 2,
        }
    preference = ahead if orders is None else (ahead + orders[1, :, 1] - orders[1, :, 0]) / 2
    measured = {"first_preference": preference, "humans": humans, "excess": ahead - humans} | both
    estimates = bootstrap.ratios(**measured)
    absent = {name: None for name in ("consistency", "first_favoured", "second_favoured", "mean_change")}
    return Position.model_validate({"both_orders": orders is not None} | absent | estimates)
