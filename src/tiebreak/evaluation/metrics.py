"""Scores of class probabilities against labels, and the temperature of least log loss."""

import numpy as np

CLIP = 1e-15
"""The least probability whose logarithm is taken: a certain mistake costs 34.5 nats, not infinitely many."""
TEMPERATURES = (0.05, 20.0)
"""Where the best temperature is searched: beyond these, a judge's confidence says nothing."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (n, 3) float64 of logits (n, 3)."""
    from scipy import special

    probabilities: np.ndarray = special.softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return probabilities


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms (n, 3) of probabilities (n, 3), of at least `CLIP`: logits that give these probabilities."""
    logs: np.ndarray = np.log(np.clip(probabilities, CLIP, 1.0))
    return logs


def row_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p of the true class (n,) in nats, of probabilities (n, 3) and labels (n,)."""
    return -log_probabilities(probabilities[np.arange(len(labels)), labels])


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean -log p of the true class, in nats; probabilities (n, 3), labels (n,)."""
    return float(row_losses(probabilities, labels).mean())


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Log loss, accuracy and macro F1 of probabilities (n, 3) against labels (n,)."""
    verdicts = probabilities.argmax(1)
    confusion = np.bincount(3 * np.asarray(labels) + verdicts, minlength=9).reshape(3, 3)
    right, counted = np.diagonal(confusion), confusion.sum(0) + confusion.sum(1)
    return {
        "rows": len(labels),
        "log_loss": log_loss(probabilities, labels),
        "accuracy": float(right.sum() / len(labels)),
        "macro_f1": float((2 * right / np.maximum(counted, 1)).mean()),  # a class that never occurs has 0
    }


def gap_closed(model: float, prior: float, bayes: float) -> float:
    """The share of the learnable gap in log loss: 0 for the prior, 1 for the known law."""
    return (prior - model) / (prior - bayes)


def grouped_error(values: np.ndarray, groups: np.ndarray) -> float:
    """The standard error of a mean of values (n,) of which those of one group may depend on each other.

    That is sqrt(sum over groups of (sum of deviations)^2) / n (Liang & Zeger 1986), which for groups of one row is the
    usual error, but for the factor sqrt(n / (n - 1)).
    """
    _, index = np.unique(groups, return_inverse=True)
    sums = np.bincount(index, values - values.mean())
    return float(np.sqrt((sums**2).sum()) / len(values))


def inside_search(temperature: float) -> bool:
    """Whether a best temperature lies within `TEMPERATURES`, not at one of their ends, where it is no measurement."""
    least, most = TEMPERATURES
    return 1.001 * least < temperature < 0.999 * most


def best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """What logits (n, 3) must be divided by for the least log loss on labels (n,) (Guo et al. 2017, ICML).

    Searched within `TEMPERATURES`, to a relative 1e-6; the loss is convex in the inverse temperature. One of their ends
    where none between them is better: verdicts that are always right have a loss of nearly 0 far from the least.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    of_label = logits[np.arange(len(labels)), labels]

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float((logsumexp(inverse * logits, axis=1) - inverse * of_label).mean())

    bounds = tuple(np.log(1 / np.array(TEMPERATURES[::-1])))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
    return float(np.exp(-min((*bounds, found), key=loss)))
