"""The three classes, and how a label is written."""

from collections.abc import Iterable

import numpy as np

CLASSES = ("winner_model_a", "winner_model_b", "winner_tie")
"""Column names, in the order of every logit, probability and one-hot column."""
CLASS_NAMES = ("A", "B", "tie")
"""The same classes as people read them."""
TIE = 2
NO_LABEL = -1
"""The label of an unlabelled row."""
SWAPPED_CLASS = np.array([1, 0, TIE])
"""The class of each class after A and B change places."""


def describe_absent(labels: Iterable[int | None]) -> str | None:
    """Say which classes never occur among labels, and what that does to a judge; None where all three do."""
    present = set(labels)
    kinds = ("rows that A wins", "rows that B wins", "ties")
    absent = [f"no {kind}" for label, kind in enumerate(kinds) if label not in present]
    if not absent:
        return None
    return f"{', '.join(absent)}: a judge trained on this table alone will hardly predict any"
