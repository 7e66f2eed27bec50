"""Verbosity bias: does the judge prefer the longer answer more often than people do?

Probabilities, not verdicts, are held against the humans' share: even a perfect judge's verdicts are more
one-sided than people are, as the most probable class is chosen every time.
"""

from typing import Any

import numpy as np

from tiebreak.data.features import log_length_ratio
from tiebreak.evaluation.bootstrap import Bootstrap, divide, estimate, newton
from tiebreak.evaluation.metrics import CLIP
from tiebreak.evaluation.schema import LengthBin, Verbosity

RATIOS = (1.0, 1.25, 1.5, 2.0, 4.0)
LOG_RATIO_CLIP = 3.0
LOG_ODDS_CLIP = 15.0
RIDGE = 1.0
"""Of the logistic models: keeps a slope finite where every longer answer wins, and is nothing beside 100 rows."""


WINS, DECIDED, HUMAN_WINS, HUMAN_DECIDED = range(4)
"""Columns of what is summed."""


def audit_verbosity(
    probabilities: np.ndarray, labels: np.ndarray, chars: np.ndarray, bootstrap: Bootstrap
) -> Verbosity | None:
    """The audit of one judge: probabilities (n, 3), labels (n,), characters (n, 2). None if nothing can be compared."""
    differ = chars[:, 0] != chars[:, 1]
    longer = (chars[:, 1] > chars[:, 0]).astype(int)
    each = np.arange(len(labels))
    wins, decided = probabilities[each, longer] * differ, probabilities[:, :2].sum(1) * differ
    human_wins, human_decided = (labels == longer) & differ, (labels < 2) & differ
    verdicts = probabilities.argmax(1)

    size = (1.0 + chars.max(1)) / (1.0 + chars.min(1))
    limits = list(zip(RATIOS, (*RATIOS[1:], None), strict=True))
    masks = [differ, *(differ & (size >= low) & (size < (high or np.inf)) for low, high in limits)]
    columns = np.stack([wins, decided, human_wins, human_decided], axis=1)
    # One pass over the resamples for all masks: values (n, masks, 4).
    total, resampled = bootstrap.sums(np.stack(masks, axis=1)[:, :, None] * columns[:, None, :])
    totals, resamples = total.reshape(-1, 4), resampled.reshape(len(resampled), -1, 4)

    def share(mask: int, above: int, below: int) -> tuple[float, np.ndarray]:
        value, samples = (divide(sums[..., mask, above], sums[..., mask, below]) for sums in (totals, resamples))
        return float(value), samples

    (judge, judges), (human, humans) = share(0, WINS, DECIDED), share(0, HUMAN_WINS, HUMAN_DECIDED)
    excess = estimate(judge - human, judges - humans)
    if excess is None:
        return None
    bins = []
    for i, (low, high) in enumerate(limits, 1):
        of_judge, of_people = estimate(*share(i, WINS, DECIDED)), estimate(*share(i, HUMAN_WINS, HUMAN_DECIDED))
        if of_judge and of_people:
            rows = int(masks[i].sum())
            bins.append(LengthBin(longer_by=low, up_to=high, rows=rows, judge=of_judge, humans=of_people))
    verdict = bootstrap.ratios(longer=((verdicts == longer) & differ, (verdicts < 2) & differ))
    effects = length_effects(probabilities, labels, chars, bootstrap)
    figures = {
        "rows": int(differ.sum()),
        "prefers_longer": estimate(judge, judges),
        "verdict_prefers_longer": verdict["longer"],
        "humans": estimate(human, humans),
        "excess": excess,
        "bins": bins,
    }
    return Verbosity.model_validate(figures | effects)


def length_effects(
    probabilities: np.ndarray, labels: np.ndarray, chars: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Three logistic models of "A is preferred, given that one is", on the log ratio of the lengths.

    The first is fitted to the judge's probabilities, the second to the labels, the third to the labels with
    the judge's log odds as offset. Each has an intercept (the preference for A) and a slope.
    """
    ratio = log_length_ratio(chars).clip(-LOG_RATIO_CLIP, LOG_RATIO_CLIP)
    a, b = probabilities[:, 0], probabilities[:, 1]
    decided = (labels < 2).astype(np.float64)
    odds = np.log(np.maximum(a, CLIP) / np.maximum(b, CLIP)).clip(-LOG_ODDS_CLIP, LOG_ODDS_CLIP)
    judge, judges = fit_offset_logistic(ratio, divide(a, a + b), a + b, np.zeros_like(odds), bootstrap)
    human, humans = fit_offset_logistic(ratio, labels == 0, decided, np.zeros_like(odds), bootstrap)
    rest, rests = fit_offset_logistic(ratio, labels == 0, decided, odds, bootstrap)
    twice = np.log(2)
    return {
        "length_effect": estimate(judge[1], judges[:, 1]),
        "humans_length_effect": estimate(human[1], humans[:, 1]),
        "excess_length_effect": estimate(judge[1] - human[1], judges[:, 1] - humans[:, 1]),
        "residual_length_effect": estimate(rest[1], rests[:, 1]),
        "twice_as_long": float(1 / (1 + np.exp(-judge[1] * twice))),
        "humans_twice_as_long": float(1 / (1 + np.exp(-human[1] * twice))),
    }


def fit_offset_logistic(
    x: np.ndarray, target: np.ndarray, weight: np.ndarray, offset: np.ndarray, bootstrap: Bootstrap
) -> tuple[np.ndarray, np.ndarray]:
    """Fit intercept and slope (2,) of a weighted logistic model with an offset, and one-step resamples of them.

    Args:
        x: (n,).
        target: (n,), in [0, 1]; where the weight is 0 it may be anything.
        weight: (n,).
        offset: (n,), added to the model's logit.
        bootstrap: of the n rows.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    target = np.where(weight > 0, target, 0.0)
    design = np.stack([np.ones_like(x), x], axis=1)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = offset + design @ theta
        value = (weight * (np.logaddexp(0, z) - target * z)).sum() + RIDGE * theta @ theta / 2
        return value, design.T @ (weight * (expit(z) - target)) + RIDGE * theta

    theta = minimize(loss, np.zeros(2), jac=True, method="BFGS").x

    def derivatives(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = expit(offset + design @ theta)
        gradient = design * (weight * (share - target))[:, None]
        return gradient, (weight * share * (1 - share))[:, None, None] * design[:, :, None] * design[:, None, :]

    return newton(theta, derivatives, bootstrap, RIDGE)
