"""The baselines on folds that they did not see: what a judge has to beat, before any judge is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.folds import assign_folds
from tiebreak.data.table import OnBadRow, read_table
from tiebreak.errors import UserError
from tiebreak.evaluation import baselines
from tiebreak.evaluation.metrics import log_loss
from tiebreak.labels import TIE

NAMES = ("prior", "length", "tfidf+length")


@dataclass(frozen=True)
class Folded:
    """Out-of-fold predictions of every row.

    `probabilities` holds (n, 3) by the baseline's name. `labels` (n,) and `folds` (n,) are the rows' own; only
    rows with `scored` (n,) count. `classes` is 2 or 3.
    """

    ids: list[str]
    labels: np.ndarray
    folds: np.ndarray
    scored: np.ndarray
    classes: int
    probabilities: dict[str, np.ndarray]

    def by_fold(self, name: str) -> np.ndarray:
        """Log loss and accuracy of a baseline on each fold, (folds, 2)."""
        found = []
        for fold in range(self.folds.max() + 1):
            rows = (self.folds == fold) & self.scored
            probabilities, labels = self.probabilities[name][rows], self.labels[rows]
            found.append((log_loss(probabilities, labels), float((probabilities.argmax(1) == labels).mean())))
        return np.array(found)


def cross_validate(
    files: Sequence[Path],
    folds: int = 5,
    classes: int | None = None,
    on_bad_row: OnBadRow = "fail",
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Folded:
    """Fit the baselines on all folds but one and predict that one, for each fold.

    Folds are those of `train --fold K/N` on the same tables: stratified, grouped by normalised prompt.

    Args:
        classes: 2 leaves ties out of fitting and scoring, though they are predicted too; 3 keeps them;
            none means 2 where no row is a tie.
        seed: of the folds, as `data.folds_seed`.

    Raises:
        UserError: a table that cannot be used, or too few rows for so many folds.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: at least 2 are needed")
    table = read_table(files, on_bad_row, need_labels=True)
    pairs = table.pairs
    if table.problems:
        say(f"{len(table.problems)} bad rows were left out")
    labels = np.array([pair.label for pair in pairs])
    ties = int((labels == TIE).sum())
    if classes is None:
        classes = 3 if ties else 2
        if not ties:
            say("no row is a tie: two classes")
    elif classes == 2 and ties:
        say(f"two classes: {ties:,} ties are neither learnt from nor scored")
    scored = (labels != TIE) | (classes == 3)
    groups = np.array([prompt_group(pair.prompt) for pair in pairs])
    assigned = assign_folds(labels, groups, folds, seed)
    probabilities = {name: np.zeros((len(pairs), 3)) for name in NAMES}
    for fold in range(folds):
        train, held_out = np.flatnonzero((assigned != fold) & scored), np.flatnonzero(assigned == fold)
        if len(np.unique(labels[train])) < classes:
            raise UserError(f"outside fold {fold} of {folds} a class does not occur: fewer folds, or more rows")
        (texts, chars), (held_texts, held_chars) = (
            baselines.answers_of([pairs[row] for row in rows]) for rows in (train, held_out)
        )
        fitted = baselines.fit(chars, labels[train])
        probabilities["prior"][held_out] = baselines.prior(fitted, len(held_out))
        probabilities["length"][held_out] = baselines.length(fitted, held_chars)
        predict = baselines.fit_text(texts, chars, labels[train])
        probabilities["tfidf+length"][held_out] = predict(held_texts, held_chars)
    for found in probabilities.values():
        found[:, classes:] = 0.0
        found /= found.sum(axis=1, keepdims=True)
    return Folded([pair.id for pair in pairs], labels, assigned, scored, classes, probabilities)


def render(found: Folded) -> str:
    """Mean and standard deviation over the folds, and each fold's log loss, as aligned text."""
    folds = found.folds.max() + 1
    rows = int(found.scored.sum())
    lines = [
        f"{rows:,} rows, {found.classes} classes, {folds} folds grouped by prompt; mean ± standard deviation of folds",
        f"{'':16}{'log loss':>17}{'accuracy':>16}   log loss of fold " + " ".join(f"{k:>6}" for k in range(folds)),
    ]
    for name in found.probabilities:
        by_fold = found.by_fold(name)
        (loss, accuracy), (loss_sd, accuracy_sd) = by_fold.mean(0), by_fold.std(0, ddof=1)
        each = " ".join(f"{value:.4f}" for value in by_fold[:, 0])
        lines.append(f"{name:16}{loss:>8.4f} ± {loss_sd:.4f}{accuracy:>8.3f} ± {accuracy_sd:.3f}{'':20}{each}")
    return "\n".join(lines)
