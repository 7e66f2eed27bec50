"""Verdicts of a judge, how sure it is of each, and what it means that people agree."""

from typing import Literal

import numpy as np

from tiebreak.labels import TIE

Ties = Literal["verdict", "wrong", "ignore"]
TIES: tuple[Ties, ...] = ("verdict", "wrong", "ignore")
"""What is made of ties; docs/decide.md has a table."""
UNDECIDED = -1
"""The verdict on a row that is left to people."""


def judge_rows(probabilities: np.ndarray, ties: Ties) -> tuple[np.ndarray, np.ndarray]:
    """The verdict of each row and its confidence, from probabilities (n, 3).

    Swapping A and B swaps the verdicts and leaves the confidences as they are: where A and B are exactly equal neither
    is preferred.

    Args:
        probabilities: (n, 3), of A, B and a tie.
        ties: `verdict`: a tie is a verdict like the others, and the confidence is the verdict's probability. `wrong`:
            verdicts are A and B, the confidence is P(verdict), and people's tie contradicts it. `ignore`: the same,
            with P(verdict) / (P(A) + P(B)), for what people say where they do decide.

    Returns:
        Verdicts (n,) int64, `UNDECIDED` where A and B are equal and a tie is no verdict; confidences (n,) float64.
    """
    a, b, tie = probabilities.T
    best = np.maximum(a, b)
    side = np.where(a == b, UNDECIDED, (a < b).astype(np.int64))
    if ties == "verdict":
        tied = (a == b) | (tie >= best)
        return np.where(tied, TIE, side), np.where(tied, tie, best)
    if ties == "ignore":
        with np.errstate(invalid="ignore"):
            best = np.nan_to_num(best / (a + b))
    return side, np.where(side == UNDECIDED, 0.0, best)


def counts_for(labels: np.ndarray, ties: Ties) -> np.ndarray:
    """A mask (n,) of the labelled rows on which agreement is counted: all, but people's ties where they are ignored."""
    return labels != TIE if ties == "ignore" else np.ones(len(labels), dtype=bool)
