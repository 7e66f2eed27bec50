"""Rows whose answers say nothing, both empty or one the same as the other: on request they get outputs of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.data.table import read_table
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError

KINDS = ("empty", "identical")
PSEUDO_ROWS = 5
"""A kind's class shares are drawn towards those of all rows by so many rows: a kind may be seen twice or never."""


def find_special(tokens: Tokens) -> dict[str, list[int]]:
    """The rows of either kind, by what the model sees of their answers."""
    alike = np.flatnonzero((tokens.chars[:, 0] == tokens.chars[:, 1]) & ~tokens.unreadable)
    empty = tokens.chars[alike, 0] == 0
    same = [row for row in alike[~empty].tolist() if tokens.answers_equal(row)]
    return {"empty": alike[empty].tolist(), "identical": same}


def read_special(text: str) -> dict[str, list[float]]:
    """The outputs that `--special` asks for: `A,B,TIE` for both kinds, or the class shares in a labelled table.

    Raises:
        UserError: neither three probabilities nor a table with labels.
    """
    values = text.split(",")
    if len(values) == 3 and not Path(text).exists():
        try:
            fixed = np.array([float(value) for value in values])
        except ValueError:
            fixed = np.full(3, np.nan)
        if not (fixed >= 0).all() or not np.isclose(fixed.sum(), 1, atol=1e-6):
            raise UserError(f"--special {text}: three probabilities that sum to one, or a labelled table")
        return dict.fromkeys(KINDS, (fixed / fixed.sum()).tolist())
    return fit_special(Path(text))


def fit_special(path: Path) -> dict[str, list[float]]:
    """Each kind's class shares in a labelled table, and as many of all rows' as `PSEUDO_ROWS`.

    Neither answer is better than itself: A and B get the mean of their shares.
    """
    pairs = [pair for pair in read_table([path], "skip").pairs if pair.label is not None]
    if not pairs:
        raise UserError(f"--special {path}: no labelled rows to learn from")
    overall = _counts([pair.label for pair in pairs])
    alike = [pair for pair in pairs if pair.response_a == pair.response_b]
    found = {}
    for kind in KINDS:
        counts = _counts([pair.label for pair in alike if any(pair.response_a) == (kind == "identical")])
        shares = (counts + PSEUDO_ROWS * overall / overall.sum()) / (counts.sum() + PSEUDO_ROWS)
        shares[:2] = shares[:2].mean()
        found[kind] = shares.tolist()
    return found


def describe(plan: dict[str, Any]) -> str:
    """What a prediction with special rows says of them."""
    parts = []
    for kind in KINDS:
        output = ", ".join(f"{value:.3f}" for value in plan["outputs"][kind])
        parts.append(f"{len(plan['rows'][kind]):,} rows with {kind} answers get A, B, tie = {output}")
    return f"special rows, by --special {plan['from']}: {'; '.join(parts)}"


def _counts(labels: Sequence[int | None]) -> np.ndarray:
    return np.bincount(np.array(labels, dtype=np.int64), minlength=3).astype(np.float64)
