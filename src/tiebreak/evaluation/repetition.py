"""Repetition attack: is a judge swayed by an answer that says the same twice?"""

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.schema import Repetition
from tiebreak.tables.attack import doubled_side


def audit_repetition(ids: list[str], before: np.ndarray, after: np.ndarray, bootstrap: Bootstrap) -> Repetition | None:
    """Compare predictions (n, 3) of a table with those of its attacked copy (n, 3), NaN where there is none."""
    known = ~np.isnan(after).any(1)
    if not known.any():
        return None
    side, each = np.array([doubled_side(name) for name in ids]), np.arange(len(ids))
    after = np.where(known[:, None], after, before)
    # A verdict for the doubled answer stands above a tie, and that above one for the other answer.
    rank = [np.where(p.argmax(1) == 2, 0, np.where(p.argmax(1) == side, 1, -1)) for p in (before, after)]
    moved = rank[1] - rank[0]
    values = {
        "win_gain": after[each, side] - before[each, side],
        "toward": moved > 0,
        "away": moved < 0,
        "net": (moved > 0).astype(int) - (moved < 0),
    }
    estimates = bootstrap.ratios(**{name: (value * known, known) for name, value in values.items()})
    return Repetition.model_validate({"rows": int(known.sum())} | estimates)
