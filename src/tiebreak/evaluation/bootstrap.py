"""Bootstrap intervals, resampled by prompt group.

Rows of one prompt are not independent, so whole groups are drawn with replacement (the cluster
bootstrap: Davison & Hinkley 1997, Bootstrap Methods, section 3.8). Every statistic here is a function of
sums over rows, so a resample needs the sums per group only: one matrix product for all resamples.
"""

from collections.abc import Callable

import numpy as np

from tiebreak.errors import UserError
from tiebreak.evaluation.schema import Estimate

LEVEL = 0.95
CHUNK = 50
MOST_BYTES = 16 << 30
"""Of the table of draws, a byte each."""


class Bootstrap:
    """The same resamples of prompt groups for every statistic, so that differences are paired.

    Args:
        groups: int (n,), equal for rows of one prompt.
        resamples: how many.
        seed: of the draws.

    Raises:
        UserError: more draws than memory has room for.

    Attributes:
        index: int (n,), each row's group as a column of `weights`.
        weights: uint8 (resamples, groups), how often each group was drawn.
    """

    def __init__(self, groups: np.ndarray, resamples: int = 1_000, seed: int = 0) -> None:
        _, self.index = np.unique(groups, return_inverse=True)
        count = int(self.index.max()) + 1
        if resamples * count > MOST_BYTES:
            size = f"{resamples * count / 2**30:,.0f} GiB"
            raise UserError(f"{resamples:,} resamples of {count:,} prompts take {size}: lower --resamples")
        rng = np.random.default_rng(seed)
        self.weights = np.empty((resamples, count), dtype=np.uint8)
        for resample in range(resamples):
            self.weights[resample] = np.bincount(rng.integers(0, count, count), minlength=count)

    @property
    def groups(self) -> int:
        """The number of distinct groups."""
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

    def ratios(self, **values: tuple[np.ndarray, np.ndarray] | np.ndarray) -> dict[str, Estimate | None]:
        """Of each name, sum(numerator) / sum(denominator) over rows (n,), or the mean of a single array (n,).

        One pass over the resamples for all of them.
        """
        pairs = [value if isinstance(value, tuple) else (value, np.ones(len(self.index))) for value in values.values()]
        total, resampled = self.sums(np.stack([column for pair in pairs for column in pair], axis=1))
        return {
            name: from_sums(total, resampled, lambda s, k=k: divide(s[:, 2 * k], s[:, 2 * k + 1]))  # type: ignore[misc]
            for k, name in enumerate(values)
        }


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
    quotients = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotients, where=below != 0)
    return quotients


def newton(
    theta: np.ndarray,
    derivatives: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    bootstrap: Bootstrap,
    ridge: float = 0.0,
    polish: int = 3,
) -> tuple[np.ndarray, np.ndarray]:
    """Polish the optimum theta (k,) of a convex fit, and take one Newton step from it in every resample.

    The latter is the one-step bootstrap of an M-estimator (Davidson & MacKinnon 1999, International Economic
    Review 40): each resample's optimum to first order, without a fit of its own.

    Args:
        theta: (k,), near the optimum.
        derivatives: at theta, of each row's loss: the gradient (n, k) and the Hessian (n, k, k).
        bootstrap: of the n rows.
        ridge: adds ridge * |theta|^2 / 2 to the summed loss.
        polish: Newton steps to the optimum, before the resamples.

    Returns:
        theta (k,), and (resamples, k): NaN where the rows drawn say nothing of theta, as when none of the fitted ones
        was drawn.
    """
    k = len(theta)

    def step(sums: np.ndarray) -> np.ndarray:
        gradient = sums[:, :k] + ridge * theta
        hessian = sums[:, k:].reshape(-1, k, k) + ridge * np.eye(k)
        stepped = np.full_like(gradient, np.nan)
        solvable = np.abs(np.linalg.det(hessian)) > 0
        stepped[solvable] = theta - np.linalg.solve(hessian[solvable], gradient[solvable, :, None])[..., 0]
        return stepped

    def columns() -> np.ndarray:
        gradient, hessian = derivatives(theta)
        return np.concatenate([gradient, hessian.reshape(len(gradient), k * k)], axis=1)

    for _ in range(polish):
        theta = step(columns().sum(0)[None])[0]
    return theta, step(bootstrap.sums(columns())[1])
