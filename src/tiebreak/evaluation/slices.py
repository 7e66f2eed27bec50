"""Parts of a table that are scored on their own."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np

from tiebreak.evaluation.self_enhancement import family_of
from tiebreak.tables.rows import Pair

LEAST_ROWS = 10
"""Smaller slices say nothing and are left out, except the two kinds of degenerate answers."""
MOST_LANGUAGES = 6


def cut_slices(
    pairs: Sequence[Pair], chars: np.ndarray, unseen: Collection[str] = ()
) -> dict[tuple[str, str], np.ndarray]:
    """Return masks (n,) of slices by (what the rows are divided by, name): turns, length, language, models, answers.

    Args:
        pairs: n rows; their languages are those of the table's `language` column, if it has one.
        chars: (n, 2) characters of the two answers.
        unseen: model families that were held out of training, if the table is of such a split.
    """
    turns = np.array([len(pair.prompt) for pair in pairs])
    longer = chars.max(1)
    masks: dict[tuple[str, str], np.ndarray] = {}
    masks["turns", "one turn"], masks["turns", "several turns"] = turns == 1, turns > 1
    edges = np.quantile(longer, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, longer, side="left")
    bounds = ["0", *(f"{edge:,.0f}" for edge in edges)]
    names = [*(f"{low}–{high} characters" for low, high in pairwise(bounds)), f"over {bounds[3]} characters"]
    for i, name in enumerate(names):
        masks["longer answer", name] = quarter == i
    languages = np.array([pair.language or "" for pair in pairs])
    for name, _ in Counter(filter(None, languages.tolist())).most_common(MOST_LANGUAGES):
        masks["language", name] = languages == name
    if unseen:
        new = [sum(family_of(name or "") in unseen for name in (pair.model_a, pair.model_b)) for pair in pairs]
        masks["models", "both unseen in training"] = np.array(new) == 2
        masks["models", "both seen in training"] = np.array(new) == 0
    masks = {key: mask for key, mask in masks.items() if mask.sum() >= LEAST_ROWS}
    empty = chars.sum(1) == 0
    identical = np.array([pair.response_a == pair.response_b for pair in pairs])
    masks["answers", "both empty"] = empty
    masks["answers", "identical"] = identical & ~empty
    return {key: mask for key, mask in masks.items() if mask.any()}
