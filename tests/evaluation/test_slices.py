"""Slices of a table: by its own language column, and not by a guess."""

import numpy as np

from tiebreak.evaluation.slices import cut_slices
from tiebreak.tables.rows import Pair


def test_languages_are_those_of_the_table():
    pairs = [Pair(str(k), ["Hello"], ["a"], ["b"], 0, None, None, "English" if k < 12 else None) for k in range(40)]
    chars = np.ones((40, 2), dtype=int)
    slices = cut_slices(pairs, chars)
    assert slices["language", "English"].sum() == 12
    assert [key for key in slices if key[0] == "language"] == [("language", "English")]
    for pair in pairs:
        pair.language = None
    assert not [key for key in cut_slices(pairs, chars) if key[0] == "language"]
