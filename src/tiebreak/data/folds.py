"""Folds: stratified by label, grouped by normalised prompt."""

import re

import numpy as np

from tiebreak.errors import UserError


def parse_fold(text: str) -> tuple[int, int]:
    """`K/N` -> (k, n).

    Raises:
        UserError: not of that form, or k outside 0..n-1.
    """
    form = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    k, n = (int(form[1]), int(form[2])) if form else (0, 0)
    if n < 2 or k >= n:
        raise UserError(f"--fold {text}: write it as K/N with N of at least 2 and K from 0 to N-1, for example 0/5")
    return k, n


def assign_folds(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold (n,) of each row: no group in two folds, label shares alike.

    One group after another, those with the most unequal labels first, goes to the fold that leaves the shares most
    alike. These are, fold for fold, the folds of scikit-learn's StratifiedGroupKFold with `shuffle`, which looks at
    one fold at a time and so takes twenty times as long.

    Raises:
        UserError: fewer distinct prompts than folds, or fewer rows of every label.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    if len(names) < folds:
        raise UserError(f"{folds} folds need at least {folds} distinct prompts; the table has {len(names)}")
    classes, class_of_row, class_sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if class_sizes.max() < folds:
        raise UserError(
            f"{len(labels)} rows cannot be cut into {folds} stratified folds: no label has {folds} rows, "
            f"the most frequent one has {class_sizes.max()}"
        )
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    cells = np.bincount(group_of_row * len(classes) + class_of_row, minlength=len(names) * len(classes))
    counts = cells.reshape(len(names), len(classes)).astype(np.float64)
    fold_of_group = np.empty(len(names), np.int64)
    filled, each = np.zeros((folds, len(classes))), np.arange(folds)
    for group in order[np.argsort(-counts[order].std(axis=1), kind="stable")]:
        trials = np.repeat(filled[None], folds, axis=0)  # (fold that gets the group, fold, class)
        trials[each, each] += counts[group]
        best = _least((trials / class_sizes).std(axis=1).mean(axis=1).tolist(), filled.sum(axis=1).tolist())
        fold_of_group[group] = best
        filled[best] += counts[group]
    return fold_of_group[group_of_row]


def _least(spreads: list[float], sizes: list[float]) -> int:
    """The index of the smallest spread, and of the smallest size among spreads that are as good as equal."""
    best = 0
    for index in range(1, len(spreads)):
        close = abs(spreads[index] - spreads[best]) <= 1e-8 + 1e-5 * abs(spreads[best])  # as np.isclose
        if spreads[index] < spreads[best] or (close and sizes[index] < sizes[best]):
            best = index
    return best
