"""Blends of several judges: weights and calibration by least log loss, scored on rows they were not fitted on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tiebreak.data.folds import assign_folds
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import CLIP, softmax

FOLDS = 5
SPACES = ("probabilities", "logits")
CALIBRATIONS = ("temperature", "vector")
RIDGE = 1e-6
"""On the calibration's parameters, in nats a row: keeps them finite where classes can be told apart perfectly."""


@dataclass(frozen=True)
class Blend:
    """Weights (k,) of k judges, summing to one; then the blend's logits times `scale` (3,), plus `shift` (3,)."""

    weights: np.ndarray
    space: str = "probabilities"
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    def of(self, judges: np.ndarray) -> np.ndarray:
        """Probabilities (n, 3) from those of the judges (k, n, 3)."""
        if self.space == "logits":
            mixed = softmax(np.tensordot(self.weights, _log(judges), 1))
        else:
            mixed = np.tensordot(self.weights, judges, 1)
        if self.scale is None or self.shift is None:
            return mixed
        return softmax(_log(mixed) * self.scale + self.shift)


def equal_weights(count: int) -> np.ndarray:
    return np.full(count, 1 / count)


def fit_weights(judges: np.ndarray, labels: np.ndarray, space: str) -> np.ndarray:
    """The weights (k,), none negative and summing to one, of least log loss; a convex problem in either space."""
    from scipy.optimize import minimize

    rows = np.arange(len(labels))
    if space == "logits":
        logits = _log(judges)
        of_label = logits[:, rows, labels]

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            mixed = np.tensordot(weights, logits, 1)
            top = mixed.max(1)
            total = np.log(np.exp(mixed - top[:, None]).sum(1)) + top
            expected = (softmax(mixed) * logits).sum(2)
            return float((total - weights @ of_label).mean()), (expected - of_label).mean(1)
    else:
        of_label = np.clip(judges[:, rows, labels], CLIP, 1)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            mixed = np.maximum(weights @ of_label, CLIP)
            return float(-np.log(mixed).mean()), -(of_label / mixed).mean(1)

    start = equal_weights(len(judges))
    bounds, whole = [(0.0, 1.0)] * len(judges), {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    found = minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, constraints=whole, options={"ftol": 1e-10})
    weights = np.clip(found.x, 0, None)
    weights /= weights.sum()
    return weights if loss(weights)[0] <= loss(start)[0] else start


def fit_calibration(probabilities: np.ndarray, labels: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale (3,) and shift (3,) of the logits of least log loss (Guo et al. 2017, ICML).

    `temperature` is one scale for all classes; `vector` a scale and a shift for each.
    """
    from scipy.optimize import minimize

    logits, truth = _log(probabilities), np.eye(3)[labels]

    def unpack(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (np.full(3, theta[0]), np.zeros(3)) if kind == "temperature" else (theta[:3], theta[3:])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        scale, shift = unpack(theta)
        mixed = logits * scale + shift
        top = mixed.max(1)
        total = np.log(np.exp(mixed - top[:, None]).sum(1)) + top
        error = softmax(mixed) - truth
        slopes = np.concatenate([(error * logits).mean(0), error.mean(0)])
        gradient = slopes[:3].sum(keepdims=True) if kind == "temperature" else slopes
        value = float((total - (mixed * truth).sum(1)).mean()) + RIDGE * float(((theta - start) ** 2).sum())
        return value, gradient + 2 * RIDGE * (theta - start)

    start = np.ones(1) if kind == "temperature" else np.array([1.0, 1, 1, 0, 0, 0])
    least = [(0.05, 20.0)] if kind == "temperature" else [(0.0, 20.0)] * 3 + [(-20.0, 20.0)] * 3
    return unpack(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=least).x)


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
        losses[out] = -np.log(np.clip(mixed[np.arange(out.sum()), labels[out]], CLIP, 1))
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
    mean = float(difference.mean())
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], difference - mean)
    return mean, float(np.sqrt((sums**2).sum()) / len(difference))


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities, CLIP, 1))
