"""Rows held out by what tomorrow brings: model families that no training row has, or the latest rows.

Folds by prompt say how well a judge does on new questions to models it knows. New models come every month, so a judge
can be better on its folds than it will be in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.errors import UserError
from tiebreak.evaluation.self_enhancement import family_of
from tiebreak.tables.rows import Pair

MOST_SEEN = 0.2
"""Of the rows of families to train on, the most that are kept out of training."""
SplitBy = Literal["prompts", "models", "time"]


@dataclass(frozen=True)
class HoldOut:
    """Rows of a table, by index.

    Attributes:
        train: to learn from. held_out: to be judged by; no prompt is in both.
        control: as many rows as `train`, of any family, to learn from instead: what a judge gains by knowing the
            families, at the same size and on the same held-out rows. Empty for a split by time.
        seen: rows of the families in `train`, at most as many as `held_out`, for scale; no prompt of them is in `train`
            or `control`. Empty for a split by time.
        families: of the held-out rows; empty for a split by time.
    """

    train: np.ndarray
    held_out: np.ndarray
    control: np.ndarray
    seen: np.ndarray
    families: tuple[str, ...] = ()


def hold_out(pairs: Sequence[Pair], by: SplitBy, fold: tuple[int, int], seed: int = 0) -> HoldOut:
    """Split a table.

    Args:
        pairs: its rows.
        by: `models`: the families are cut into n sets of about as many answers; held out are the rows of which both
            answers are of set k, and trained on are those of which none is. `time`: the rows, which must be in the
            order of time, are cut into n blocks; held out is block k, and trained on are the blocks before.
        fold: (k, n).
        seed: of the sets of families and of the control.

    Raises:
        UserError: a row without the names of its models, fewer families than sets, or nothing on one side.
    """
    groups = np.array([prompt_group(pair.prompt) for pair in pairs], dtype=np.int64)
    split = _by_time(groups, fold) if by == "time" else _by_models(pairs, groups, fold, seed)
    if not len(split.train) or not len(split.held_out):
        sides = f"{len(split.train):,} rows to train on and {len(split.held_out):,} held out"
        raise UserError(
            f"--split {by} --fold {fold[0]}/{fold[1]} leaves {sides}: take another fold, or fewer, such as 1/3"
        )
    return split


def _by_time(groups: np.ndarray, fold: tuple[int, int]) -> HoldOut:
    k, n = fold
    if k == 0:
        raise UserError(f"--split time --fold 0/{n}: nothing comes before the first block; take 1/{n} to {n - 1}/{n}")
    block = np.arange(len(groups)) * n // max(1, len(groups))
    held_out = np.flatnonzero(block == k)
    train = np.flatnonzero((block < k) & ~np.isin(groups, groups[held_out]))
    return HoldOut(train, held_out, train[:0], train[:0])


def _by_models(pairs: Sequence[Pair], groups: np.ndarray, fold: tuple[int, int], seed: int) -> HoldOut:
    for row, pair in enumerate(pairs):
        if not pair.model_a or not pair.model_b:
            raise UserError(
                f"--split models: {pair.file or 'row'}, row {pair.row or row}: no model_a and model_b, "
                "which say whose the answers are: add them, or split otherwise"
            )
    names = {name: family_of(name) for pair in pairs for name in (pair.model_a or "", pair.model_b or "")}
    families = np.array([[names[pair.model_a or ""], names[pair.model_b or ""]] for pair in pairs])
    rng = np.random.default_rng(seed)
    chosen = _set_of(families, fold, rng)
    ours = np.isin(families, chosen)
    held_out = np.flatnonzero(ours.all(1))
    free = ~np.isin(groups, groups[held_out])
    others = np.flatnonzero(free & ~ours.any(1))
    seen = np.sort(rng.permutation(others)[: min(len(held_out), round(MOST_SEEN * len(others)))])
    free &= ~np.isin(groups, groups[seen])
    train, pool = np.flatnonzero(free & ~ours.any(1)), np.flatnonzero(free & ~ours.all(1))
    control = np.sort(rng.permutation(pool)[: len(train)])
    return HoldOut(train, held_out, control, seen, tuple(chosen))


def _set_of(families: np.ndarray, fold: tuple[int, int], rng: np.random.Generator) -> list[str]:
    """The families of set k, in which each goes to the set with the fewest answers, the most frequent first."""
    k, n = fold
    names, counts = np.unique(families, return_counts=True)
    if len(names) < n:
        raise UserError(
            f"--split models: {n} sets need at least {n} model families; the table has {len(names)}: take "
            "a fold of fewer, such as 0/2"
        )
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    filled, sets = np.zeros(n), [[] for _ in range(n)]  # type: tuple[np.ndarray, list[list[str]]]
    for place in order:
        least = int(filled.argmin())
        sets[least].append(str(names[place]))
        filled[least] += counts[place]
    return sorted(sets[k])
