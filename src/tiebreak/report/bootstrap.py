"""Bootstrap intervals, resampled by prompt group.

Rows of one prompt are not independent, so whole groups are drawn with replacement (the cluster
bootstrap: Davison & Hinkley 1997, Bootstrap Methods, section 3.8). Every statistic here is a function of
sums over rows, so a resample needs the sums per group only: one matrix product for all resamples.
"""

from collections.abc import Callable

import numpy as np

from tiebreak.report.schema import Estimate

LEVEL = 0.95
CHUNK = 50


class Bootstrap:
    """The same resamples of prompt groups for every statistic, so that differences are paired.

    Args:
        groups: int (n,), equal for rows of one prompt.
        resamples: how many. seed: of the draws.

    Attributes:
        index: int (n,), each row's group as a column of `weights`.
        weights: uint8 (resamples, groups), how often each group was drawn.
    """

    def __init__(self, groups: np.ndarray, resamples: int = 1_000, seed: int = 0) -> None:
        _, self.index = np.unique(groups, return_inverse=True)
        count = int(self.index.max()) + 1
        rng = np.random.default_rng(seed)
        self.weights = np.empty((resamples, count), dtype=np.uint8)
        for k in range(resamples):
            self.weights[k] = np.bincount(rng.integers(0, count, count), minlength=count)

    @property
    def groups(self) -> int:
        return self.weights.shape[1]

    def sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of values (n, k) over the rows: (k,), and over each resample: (resamples, k)."""
        values = np.asarray(values, dtype=np.float64).reshape(len(self.index), -1)
        by_group = np.stack([np.bincount(self.index, column, self.groups) for column in values.T], axis=1)
        resampled = [
            self.weights[start : start + CHUNK].astype(np.float64) @ by_group
            for start in range(0, len(self.weights), CHUNK)
        ]
        return values.sum(0), np.concatenate(resampled)

    def estimate(self, values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate | None:
        """A statistic of sums with its interval; `statistic` maps sums (m, k) to (m,). None if it is undefined."""
        total, resampled = self.sums(values)
        return from_sums(total, resampled, statistic)

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray | None = None) -> Estimate | None:
        """sum(numerator) / sum(denominator) over rows (n,); without a denominator, the mean."""
        below = np.ones(len(self.index)) if denominator is None else denominator
        return self.estimate(np.stack([numerator, below], axis=1), lambda s: divide(s[:, 0], s[:, 1]))


def from_sums(
    total: np.ndarray, resampled: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> Estimate | None:
    """The estimate of a statistic of sums (k,) and resampled sums (resamples, k)."""
    return estimate(float(statistic(total[None])[0]), statistic(resampled))


def estimate(value: float, resampled: np.ndarray) -> Estimate | None:
    """A value with the percentile interval of its resampled values; resamples where it is undefined are left out."""
    kept = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(kept):
        return None
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high))


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is zero."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)


def newton_step(
    theta: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, bootstrap: Bootstrap, ridge: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """One Newton step of a convex fit from theta (k,), and one in every resample.

    From the optimum, the latter is the one-step bootstrap of an M-estimator (Davidson & MacKinnon 1999,
    International Economic Review 40): each resample's optimum to first order, without a fit of its own.

    Args:
        gradient: (n, k) of each row's loss at theta. hessian: (n, k, k).
        ridge: adds ridge * |theta|^2 / 2 to the summed loss.

    Returns:
        theta after the step (k,), and (resamples, k).
    """
    k = len(theta)
    total, resampled = bootstrap.sums(np.concatenate([gradient, hessian.reshape(len(gradient), k * k)], axis=1))

    def step(sums: np.ndarray) -> np.ndarray:
        g = sums[:, :k] + ridge * theta
        h = sums[:, k:].reshape(-1, k, k) + ridge * np.eye(k)
        return theta - np.linalg.solve(h, g[..., None])[..., 0]

    return step(total[None])[0], step(resampled)
