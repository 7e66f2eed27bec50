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

    Raises:
        UserError: fewer distinct prompts than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    distinct = len(np.unique(groups))
    if distinct < folds:
        raise UserError(f"{folds} folds need at least {folds} distinct prompts; the table has {distinct}")
    assigned = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            assigned[held_out] = fold
    except ValueError as error:  # no class has as many rows as there are folds
        raise UserError(f"{len(labels)} rows cannot be cut into {folds} stratified folds ({error})") from None
    return assigned
