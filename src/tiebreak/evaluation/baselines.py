"""What a judge has to beat: the class prior, the answers' lengths, their words and their numbers.

The one implementation behind `tiebreak baseline`, the report, the pipeline's table, and the baselines that a model
folder stores.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.features import compare_lengths
from tiebreak.data.folds import assign_folds
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import gap_closed, log_loss, scores, softmax
from tiebreak.evaluation.text_baselines import count_words, fit_boosted, fit_text
from tiebreak.files import as_paths
from tiebreak.labels import TIE
from tiebreak.plurals import plural
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import OnBadRow, read_table

log = logging.getLogger(__name__)

PRIOR, LENGTH, TFIDF = "prior", "length", "tfidf+length"
WITH_NUMBERS, BOOSTED = "tfidf+numbers", "boosted"
FOLDS = 5


class Baselines(TypedDict):
    """The two that a model folder stores, fitted on its training labels: plain numbers.

    `prior` are the class shares (3). `length` is a multinomial logistic model on how much longer an
    answer is: weights (3, features) and intercepts (3).
    """

    prior: list[float]
    length_weights: list[list[float]]
    length_intercepts: list[float]


def fit(chars: np.ndarray, labels: np.ndarray) -> Baselines:
    """Fit both on the training rows' answer lengths in characters (m, 2) and labels (m,).

    A class that does not occur gets the share and the score of one row.
    """
    weights, intercepts = fit_logistic(compare_lengths(chars), labels)
    shares = _shares(labels)
    return {"prior": shares.tolist(), "length_weights": weights.tolist(), "length_intercepts": intercepts.tolist()}


def fit_logistic(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (3, k) and intercepts (3,) of a multinomial logistic model on features (m, k) and labels (m,).

    They minimise the sum of log losses plus half the squared weights: scikit-learn's LogisticRegression, whose import
    would take a tenth of a short training. Of two classes the first keeps zeros. A class that does not occur gets the
    score of one row.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    weights, intercepts = np.zeros((3, features.shape[1])), np.log(_shares(labels))
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        return weights, intercepts
    first = 1 if len(classes) == 2 else 0
    inputs, truth = np.column_stack([np.ones(len(labels)), features]), np.eye(len(classes))[targets]
    coefficients = np.zeros((len(classes), inputs.shape[1]))

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        coefficients[first:] = theta.reshape(-1, inputs.shape[1])
        logits = inputs @ coefficients.T
        gradient = (softmax(logits) - truth).T @ inputs
        gradient[:, 1:] += coefficients[:, 1:]
        value = (logsumexp(logits, axis=1) - (logits * truth).sum(1)).sum() + (coefficients[:, 1:] ** 2).sum() / 2
        return float(value) / len(labels), gradient[first:].ravel() / len(labels)

    start = coefficients[first:].ravel()
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1_000, "ftol": 1e-15, "gtol": 1e-9}
    ).x
    coefficients[first:] = found.reshape(-1, inputs.shape[1])
    weights[classes], intercepts[classes] = coefficients[:, 1:], coefficients[:, 0]
    if first:
        (absent,) = set(range(3)) - set(classes.tolist())
        intercepts[absent] = intercepts[classes].max() - np.log(len(labels))
    return weights, intercepts


def _shares(labels: np.ndarray) -> np.ndarray:
    """The classes' shares (3,); one that does not occur counts as one row."""
    counts = np.maximum(np.bincount(labels, minlength=3), 1)
    shares: np.ndarray = counts / counts.sum()
    return shares


def prior(fitted: Baselines, rows: int) -> np.ndarray:
    """The class shares for each of `rows` rows, (rows, 3)."""
    return np.tile(np.array(fitted["prior"]), (rows, 1))


def length(fitted: Baselines, chars: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) from answer lengths in characters (n, 2)."""
    weights = np.array(fitted["length_weights"])
    features = compare_lengths(chars)[:, : weights.shape[1]]  # models of an earlier version know the log ratio alone
    return softmax(features @ weights.T + np.array(fitted["length_intercepts"]))


@dataclass(frozen=True, repr=False)
class OutOfFold:
    """Out-of-fold predictions of every row by each baseline.

    Attributes:
        ids: n.
        labels: (n,).
        folds: (n,), the fold that held out the row.
        scored: (n,), the rows that count: with two classes, those that are no tie.
        classes: 2 or 3.
        probabilities: (n, 3) by `prior`, `length`, `tfidf+length`, `tfidf+numbers` and `boosted`; without texts,
            `prior` alone.
    """

    ids: list[str]
    labels: np.ndarray
    folds: np.ndarray
    scored: np.ndarray
    classes: int
    probabilities: dict[str, np.ndarray]

    def score(self, name: str, rows: np.ndarray | None = None) -> tuple[float, float]:
        """Log loss and accuracy of a baseline over the scored rows, or over those of them in a mask (n,)."""
        kept = self.scored if rows is None else self.scored & rows
        probabilities, labels = self.probabilities[name][kept], self.labels[kept]
        return log_loss(probabilities, labels), float((probabilities.argmax(1) == labels).mean())

    def by_fold(self, name: str) -> np.ndarray:
        """Log loss and accuracy of a baseline on each fold, (folds, 2)."""
        return np.array([self.score(name, self.folds == fold) for fold in range(self.folds.max() + 1)])

    def __str__(self) -> str:
        """Scores over all rows, their standard deviation over the folds, and each fold's log loss, as aligned text."""
        folds = self.folds.max() + 1
        lines = [
            f"{int(self.scored.sum()):,} rows, {self.classes} classes, {folds} folds grouped by prompt; "
            "all rows ± standard deviation of the folds",
            f"{'':16}{'log loss':>17}{'accuracy':>16}   log loss of fold " + " ".join(f"{k:>6}" for k in range(folds)),
        ]
        for name in self.probabilities:
            by_fold = self.by_fold(name)
            (loss, accuracy), (loss_sd, accuracy_sd) = self.score(name), by_fold.std(0, ddof=1)
            each = " ".join(f"{value:.4f}" for value in by_fold[:, 0])
            lines.append(f"{name:16}{loss:>8.4f} ± {loss_sd:.4f}{accuracy:>8.3f} ± {accuracy_sd:.3f}{'':20}{each}")
        return "\n".join(lines)

    __repr__ = __str__


def cross_fit(
    ids: Sequence[str],
    labels: np.ndarray,
    pairs: Sequence[Pair] | None,
    folds: int = FOLDS,
    classes: int | None = None,
    seed: int = 0,
) -> OutOfFold:
    """Fit the baselines on all folds but one and predict that one, for each fold.

    Folds are those of `train --fold K/N` on the same rows: stratified, grouped by normalised prompt.

    Args:
        ids: of the n rows.
        labels: (n,).
        pairs: of the same rows; without them each row is a prompt of its own, and only the prior is fitted.
        folds: how many, at least 2.
        classes: 2 leaves ties out of fitting and scoring, though they are predicted too; 3 keeps them;
            None means 2 where no row is a tie.
        seed: of the folds, as `data.folds_seed`.

    Raises:
        UserError: too few rows for this number of folds, or a class that does not occur outside one.
    """
    if classes is None:
        classes = 3 if (labels == TIE).any() else 2
    scored = (labels != TIE) | (classes == 3)
    groups = np.arange(len(labels)) if pairs is None else np.array([prompt_group(pair.prompt) for pair in pairs])
    assigned = assign_folds(labels, groups, folds, seed)
    answers = None if pairs is None else count_words(pairs)
    names = (PRIOR,) if answers is None else (PRIOR, LENGTH, TFIDF, WITH_NUMBERS, BOOSTED)
    probabilities = {name: np.zeros((len(labels), 3)) for name in names}
    for fold in range(folds):
        train, held_out = np.flatnonzero((assigned != fold) & scored), np.flatnonzero(assigned == fold)
        if len(np.unique(labels[train])) < classes:
            raise UserError(f"outside fold {fold} of {folds} a class does not occur: take fewer folds, or more rows")
        if answers is None:
            probabilities[PRIOR][held_out] = _shares(labels[train])
            continue
        known, unseen = answers.rows(train), answers.rows(held_out)
        fitted = fit(known.chars, labels[train])
        probabilities[PRIOR][held_out] = prior(fitted, len(held_out))
        probabilities[LENGTH][held_out] = length(fitted, unseen.chars)
        probabilities[TFIDF][held_out] = fit_text(known, labels[train])(unseen)
        with_numbers = fit_text(known, labels[train], numbers=True)
        probabilities[WITH_NUMBERS][held_out] = with_numbers(unseen)
        probabilities[BOOSTED][held_out] = fit_boosted(known, labels[train], with_numbers)(unseen)
    for values in probabilities.values():
        values[:, classes:] = 0.0
        values /= values.sum(axis=1, keepdims=True)
    return OutOfFold(list(ids), labels, assigned, scored, classes, probabilities)


def baseline(
    tables: str | Path | Sequence[str | Path],
    folds: int = FOLDS,
    classes: int | None = None,
    on_bad_row: OnBadRow = "fail",
    seed: int = 0,
) -> OutOfFold:
    """Cross-fit the baselines on labelled tables.

    Args:
        tables: their rows together.
        folds: how many, at least 2.
        classes: 2 or 3; None means 2 where no row is a tie (see `cross_fit`).
        on_bad_row: `fail`, or `skip` to leave unreadable rows out.
        seed: of the folds, as `data.folds_seed`.

    Raises:
        UserError: a table that cannot be used, or too few rows for this number of folds.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: at least 2 are needed")
    table = read_table(as_paths(tables), on_bad_row, need_labels=True)
    if table.problems:
        log.info(f"{plural(len(table.problems), 'bad row')} left out")
    labels = np.array([pair.label for pair in table.pairs])
    ties = int((labels == TIE).sum())
    if classes == 2 and ties:
        log.info(f"two classes: {ties:,} ties are neither learnt from nor scored")
    elif classes is None and not ties:
        log.info("no row is a tie: two classes")
    return cross_fit([pair.id for pair in table.pairs], labels, table.pairs, folds, classes, seed)


def compare_with_baselines(
    probabilities: np.ndarray, labels: np.ndarray, chars: np.ndarray, fitted: Baselines, bayes: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Scores of the baselines, the model and, on the sample, the law, on the same rows.

    Args:
        probabilities: the model's (n, 3).
        labels: (n,).
        chars: characters of the answers (n, 2).
        fitted: the baselines, from the training rows.
        bayes: the law's probabilities (n, 3), where it is known.
    """
    rows = {
        "prior": scores(prior(fitted, len(labels)), labels),
        "length": scores(length(fitted, chars), labels),
        "model": scores(probabilities, labels),
    }
    if bayes is not None:
        rows["bayes"] = scores(bayes, labels)
        for entry in rows.values():
            entry["gap_closed"] = gap_closed(entry["log_loss"], rows["prior"]["log_loss"], rows["bayes"]["log_loss"])
    return rows


def render_comparison(rows: dict[str, dict[str, float]]) -> str:
    """What `compare_with_baselines` returns, as aligned text."""
    known = "gap_closed" in rows["model"]
    lines = [f"{'':10}{'log loss':>10}{'accuracy':>10}{'macro F1':>10}" + (f"{'gap closed':>12}" if known else "")]
    for name, entry in rows.items():
        line = f"{name:10}{entry['log_loss']:>10.4f}{entry['accuracy']:>10.3f}{entry['macro_f1']:>10.3f}"
        lines.append(line + (f"{entry['gap_closed']:>11.1%}" if known else ""))
    return "\n".join(lines)
