"""Blends of several judges: weights and calibration by least log loss, scored on rows they were not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tiebreak.data.folds import assign_folds
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import CLIP, best_temperature, grouped_error, log_probabilities, row_losses, softmax

FOLDS = 5
Space = Literal["probabilities", "logits"]
Calibrator = Literal["temperature", "vector"]
RIDGE = 1e-6
"""Of the vector calibration, in nats per row: keeps it finite where classes can be separated perfectly."""


@dataclass(frozen=True)
class Blend:
    """Weights (k,) of k judges, summing to one; then the blend's logits times `scale` (3,), plus `shift` (3,)."""

    weights: np.ndarray
    space: Space = "probabilities"
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    def of(self, judges: np.ndarray) -> np.ndarray:
        """Probabilities (n, 3) from those of the judges (k, n, 3)."""
        if self.space == "logits":
            mixed = softmax(np.tensordot(self.weights, log_probabilities(judges), 1))
        else:
            mixed = np.tensordot(self.weights, judges, 1)
        if self.scale is None or self.shift is None:
            return mixed
        return softmax(log_probabilities(mixed) * self.scale + self.shift)


def equal_weights(count: int) -> np.ndarray:
    """The weights (count,) of a plain mean."""
    return np.full(count, 1 / count)


def fit_weights(judges: np.ndarray, labels: np.ndarray, space: Space) -> np.ndarray:
    """The weights (k,), none negative and summing to one, of least log loss; a convex problem in either space."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    rows = np.arange(len(labels))
    if space == "logits":
        logits = log_probabilities(judges)
        of_label = logits[:, rows, labels]

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            mixed = np.tensordot(weights, logits, 1)
            expected = (softmax(mixed) * logits).sum(2)
            return float((logsumexp(mixed, axis=1) - weights @ of_label).mean()), (expected - of_label).mean(1)
    else:
        of_label = np.clip(judges[:, rows, labels], CLIP, 1)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            mixed = np.maximum(weights @ of_label, CLIP)
            return float(-np.log(mixed).mean()), -(of_label / mixed).mean(1)

    start = equal_weights(len(judges))
    bounds, whole = [(0.0, 1.0)] * len(judges), {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    optimum = minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, constraints=whole, options={"ftol": 1e-10})
    weights = np.clip(optimum.x, 0, None)
    weights /= weights.sum()
    return weights if loss(weights)[0] <= loss(start)[0] else start


def fit_calibration(probabilities: np.ndarray, labels: np.ndarray, kind: Calibrator) -> tuple[np.ndarray, np.ndarray]:
    """Fit scale (3,) and shift (3,) of the logits for the least log loss (Guo et al. 2017, ICML).

    Args:
        probabilities: (n, 3).
        labels: (n,).
        kind: `temperature` is one scale for all classes; `vector` a scale and a shift for each.
    """
    logits = log_probabilities(probabilities)
    if kind == "temperature":
        return np.full(3, 1 / best_temperature(logits, labels)), np.zeros(3)
    return _fit_vector(logits, np.eye(3)[labels])


def _fit_vector(logits: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale (3,) and shift (3,) of logits (n, 3) for one-hot labels (n, 3)."""
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    start = np.array([1.0, 1, 1, 0, 0, 0])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = logits * theta[:3] + theta[3:]
        error = softmax(mixed) - truth
        gradient = np.concatenate([(error * logits).mean(0), error.mean(0)])
        value = float((logsumexp(mixed, axis=1) - (mixed * truth).sum(1)).mean())
        away = theta - start
        return value + RIDGE * float((away**2).sum()), gradient + 2 * RIDGE * away

    bounds = [(0.0, 20.0)] * 3 + [(-20.0, 20.0)] * 3
    theta = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return theta[:3], theta[3:]


@dataclass(frozen=True)
class Trial:
    """A way to blend: how it is fitted, and the log loss (n,) of each labelled row by a blend not fitted on it."""

    name: str
    fit: Callable[[np.ndarray, np.ndarray], Blend]
    losses: np.ndarray


def try_blend(
    name: str, fit: Callable[[np.ndarray, np.ndarray], Blend], judges: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> Trial:
    """Cross-fit: the rows of each fold (n,) are scored by a blend fitted on the other folds."""
    losses = np.empty(len(labels))
    for fold in np.unique(folds):
        out = folds == fold
        mixed = fit(judges[:, ~out], labels[~out]).of(judges[:, out])
        losses[out] = row_losses(mixed, labels[out])
    return Trial(name, fit, losses)


def cut_folds(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The fold (n,) of each labelled row: prompts whole, label shares alike.

    Raises:
        UserError: too few labelled prompts.
    """
    try:
        return assign_folds(labels, groups, FOLDS, seed=0)
    except UserError as error:
        raise UserError(f"--fit: {error}; cross-fitting needs more labelled rows") from None


def gain(simple: Trial, fitted: Trial, groups: np.ndarray) -> tuple[float, float]:
    """How much lower the second's mean log loss is, and the standard error of that, rows of one prompt together."""
    difference = simple.losses - fitted.losses
    return float(difference.mean()), grouped_error(difference, groups)
