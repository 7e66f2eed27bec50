"""The threshold from which on a judge agrees with people as often as asked, with a stated certainty.

Fixed-sequence testing as in Jung, Brahman & Choi 2024, "Trust or escalate" (arXiv 2407.18370), after Bauer 1991
(Statistics in Medicine 10): thresholds are tested from a strict one to ever looser ones, each at the same level, and
the last before the first that fails is taken. Their number needs no correction, as the walk ends at its first error.
"""

from dataclasses import dataclass, replace

import numpy as np

STEPS = 100
"""Thresholds tried: every 1 % of the calibration rows."""
CLEAR = 4.0
"""The walk starts where, by the judge's own probabilities, the first test is passed by this many standard errors."""


@dataclass(frozen=True)
class Threshold:
    """Where a judge's confidence suffices.

    Attributes:
        value: rows of at least this confidence are decided; infinite if none may be.
        floor: rows below `value` and not below this were in the test that failed; equal to `value` if none failed,
            infinite if the first did.
        rows: calibration rows decided. disagreed: of these, those where people disagree.
        bound: people agree on at least this share of decided rows, at the level asked; NaN if none is decided.
        effective_rows: what `rows` are worth, as rows of one prompt are alike.
    """

    value: float
    floor: float
    rows: int
    disagreed: int
    bound: float
    effective_rows: float


def find_threshold(
    confidence: np.ndarray, agreed: np.ndarray, groups: np.ndarray, agree: float, level: float
) -> Threshold:
    """The loosest threshold before the first test that fails.

    A test asks whether as few disagreements as were seen have a probability of at most `level` if people in truth
    agreed on a smaller share than `agree`: the exact binomial test, that is Clopper and Pearson's bound. Rows of one
    prompt are not independent: counts are divided by the design effect of the prompts (Korn & Graubard 1998, Survey
    Methodology 24), which is one where each row has a prompt of its own.

    Args:
        confidence: (n,), of the calibration rows.
        agreed: (n,), whether people gave the judge's verdict.
        groups: (n,), equal for rows of one prompt.
        agree: the share that is to be reached, between 0 and 1.
        level: the probability of falling short of it that is allowed.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence, wrong = confidence[order], ~agreed[order].astype(bool)
    groups = np.unique(groups[order], return_inverse=True)[1]
    found = Threshold(np.inf, np.inf, 0, 0, np.nan, 0.0)
    for rows in grid(confidence, groups, 1 - agree):
        value, errors = float(confidence[rows - 1]), int(wrong[:rows].sum())
        effect = design_effect(np.bincount(groups[:rows]), np.bincount(groups[:rows], wrong[:rows]))
        if not chance_of_so_few(rows, errors, effect, 1 - agree) <= level:
            return replace(found, floor=value) if found.rows else found
        found = Threshold(value, value, rows, errors, lower_bound(rows, errors, effect, level), rows / effect)
    return found


def grid(confidence: np.ndarray, groups: np.ndarray, risk: float) -> list[int]:
    """How many of the surest rows each test decides, in the order of the tests; chosen without looking at a label.

    Args:
        confidence: (n,), from the highest down.
        groups: (n,), from 0.
        risk: the share of disagreements that is allowed.
    """
    n = len(confidence)
    last = np.flatnonzero(np.append(confidence[1:] < confidence[:-1], True)) + 1 if n else np.array([], dtype=int)
    last = last[confidence[last - 1] > 0]  # a confidence of nothing is no verdict
    if not len(last):
        return []
    claimed = (1 - confidence).cumsum()[last - 1] / last
    worth = np.sqrt(last / (np.bincount(groups) ** 2).sum() * n)
    errors = (risk - claimed) * worth / np.sqrt(risk * (1 - risk))
    clear = np.flatnonzero(errors >= CLEAR)
    first = int(clear[0] if len(clear) else errors.argmax())
    ends, step = [int(last[first])], max(1, n // STEPS)
    for end in last[first + 1 :].tolist():
        if end >= ends[-1] + step or end == last[-1]:
            ends.append(end)
    return ends


def design_effect(sizes: np.ndarray, errors: np.ndarray) -> float:
    """How many rows of grouped ones are worth one independent row: at least 1.

    The variance of the share of errors, linearised over groups, against that of independent rows (Kish 1965, Survey
    Sampling, section 8.2); where there is no error, or nothing else, that of rows wholly alike within a group.

    Args:
        sizes: (g,), rows of each group.
        errors: (g,), of these.
    """
    sizes, errors = sizes[sizes > 0], errors[sizes > 0]
    rows, count = int(sizes.sum()), len(sizes)
    most = float((sizes**2).sum() / rows)
    share = errors.sum() / rows
    if count < 2 or share in (0.0, 1.0):
        return most
    variance = count / (count - 1) * ((errors - share * sizes) ** 2).sum()
    return float(np.clip(variance / (rows * share * (1 - share)), 1.0, most))


def chance_of_so_few(rows: int, errors: int, effect: float, risk: float) -> float:
    """P(at most so many errors among the rows) if each is wrong with probability `risk`, both divided by `effect`."""
    from scipy.special import betainc

    if errors >= rows:
        return 1.0
    return float(betainc((rows - errors) / effect, errors / effect + 1, 1 - risk))


def lower_bound(rows: int, errors: int, effect: float, level: float) -> float:
    """The share of agreement that is reached with certainty 1 - level (Clopper & Pearson 1934, Biometrika 26)."""
    from scipy.special import betaincinv

    return float(betaincinv((rows - errors) / effect, errors / effect + 1, level))
