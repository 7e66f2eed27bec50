"""The table of results that a run ends with."""

import numpy as np

from tiebreak.evaluation import baselines
from tiebreak.evaluation.baselines import Baselines
from tiebreak.evaluation.metrics import gap_closed, scores


def compare(
    probabilities: np.ndarray, labels: np.ndarray, chars: np.ndarray, fitted: Baselines, bayes: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Scores of the baselines, the model and, on the sample, the law, on the same rows.

    Args:
        probabilities: the model's (n, 3). labels (n,), chars (n, 2), bayes (n, 3): of the same rows.
        fitted: the baselines, from the training rows.
    """
    rows = {
        "prior": scores(baselines.prior(fitted, len(labels)), labels),
        "length": scores(baselines.length(fitted, chars), labels),
        "model": scores(probabilities, labels),
    }
    if bayes is not None:
        rows["bayes"] = scores(bayes, labels)
        for entry in rows.values():
            entry["gap_closed"] = gap_closed(entry["log_loss"], rows["prior"]["log_loss"], rows["bayes"]["log_loss"])
    return rows


def render(rows: dict[str, dict[str, float]]) -> str:
    """The comparison as aligned text."""
    known = "gap_closed" in rows["model"]
    lines = [f"{'':10}{'log loss':>10}{'accuracy':>10}{'macro F1':>10}" + (f"{'gap closed':>12}" if known else "")]
    for name, entry in rows.items():
        line = f"{name:10}{entry['log_loss']:>10.4f}{entry['accuracy']:>10.3f}{entry['macro_f1']:>10.3f}"
        lines.append(line + (f"{entry['gap_closed']:>11.1%}" if known else ""))
    return "\n".join(lines)
