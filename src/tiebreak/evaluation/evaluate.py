"""Scores, calibration and position bias of one judge, from arrays alone."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tiebreak.data.predictions import SUM_TOLERANCE
from tiebreak.errors import UserError
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.calibration import calibrate
from tiebreak.evaluation.position import audit_position
from tiebreak.evaluation.schema import Calibration, Estimate, Position, ReportSection, Scores
from tiebreak.evaluation.scores import score
from tiebreak.evaluation.wording import DASH, degrees, number, percent, points, span
from tiebreak.labels import CLASS_NAMES, CLASSES
from tiebreak.plurals import plural
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.winner import WINNERS

LEAST_RESAMPLES = 100
ROUNDING = 1e-9
LABEL_NAMES = {name.casefold(): k for names in (CLASSES, CLASS_NAMES) for k, name in enumerate(names)} | WINNERS
"""Classes by the names that labels may have, in lower case."""


class Evaluation(ReportSection):
    """What `evaluate` returns: every figure has a `value` and the ends `low` and `high` of its 95 % interval.

    A figure that these rows do not determine is None, and a dash in the text.
    """

    rows: int
    prompts: int
    """Distinct groups, the unit of resampling."""
    class_counts: dict[str, int]
    """Labels `A`, `B` and `tie`."""
    class_shares_log_loss: Estimate
    """Log loss of the class shares of these labels, predicted for every row: what can be had without reading a text."""
    scores: Scores
    calibration: Calibration
    position: Position

    def _figures(self) -> list[tuple[str, str, str]]:
        """(name, value, interval) of the figures shown."""
        scores, calibration, position = self.scores, self.calibration, self.position
        figures = [("log loss", number(scores.log_loss, 4), span(scores.log_loss, 4))]
        shares = self.class_shares_log_loss
        figures.append(("log loss of the class shares", number(shares, 4), span(shares, 4)))
        figures.append(("accuracy", percent(scores.accuracy, 1), span(scores.accuracy, 1, True)))
        figures += [(name, number(e), span(e)) for name, e in (("macro F1", scores.macro_f1), ("Brier", scores.brier))]
        figures.append(("calibration error", number(calibration.ece), span(calibration.ece)))
        figures.append(("temperature", degrees(calibration.temperature), span(calibration.temperature, 2)))
        lean = position.first_preference if position.both_orders else position.excess
        name = "leans to the first, points" if position.both_orders else "leans to A beyond people, points"
        figures.append((name, points(lean.value), span(lean, 1, True)))
        if position.consistency:
            shown = percent(position.consistency, 1), span(position.consistency, 1, True)
            figures.append(("same verdict when swapped", *shown))
        if self.prompts < 2:  # resamples of one prompt are all alike
            return [(name, value, DASH) for name, value, _ in figures]
        return [(name, value, interval or DASH) for name, value, interval in figures]

    def _by_class(self) -> list[list[str]]:
        return [
            [name, f"{entry.rows:,}", number(entry.log_loss), *map(number, (entry.precision, entry.recall, entry.f1))]
            for name, entry in self.scores.classes.items()
        ]

    def _title(self) -> str:
        return f"{plural(self.rows, 'row')}, {plural(self.prompts, 'prompt')}"

    def __repr__(self) -> str:
        lines = [f"{self._title():45}95 % interval"]
        lines += [f"  {name:33}{value:>8}  {interval}" for name, value, interval in self._figures()]
        lines.append(f"  {'class':8}{''.join(f'{name:>11}' for name in BY_CLASS)}")
        lines += [f"  {name:8}{''.join(f'{cell:>11}' for cell in cells)}" for name, *cells in self._by_class()]
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        figures = _html_table([self._title(), "", "95 % interval"], self._figures())
        return figures + _html_table(["class", *BY_CLASS], self._by_class())


BY_CLASS = ("rows", "log loss", "precision", "recall", "F1")


def _html_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in lines]
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def evaluate(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    orders: ArrayLike | None = None,
    resamples: int = 1_000,
    seed: int = 0,
) -> Evaluation:
    """Measure a judge's probabilities against what people chose.

    Args:
        probabilities: (n, 3), of A, B and a tie, each row summing to one.
        labels: n class numbers 0 (A wins), 1 (B wins), 2 (a tie); n names in any case, `a`, `b`, `tie`, `model_a`,
            `model_b`, `winner_model_a`, `winner_model_b`, `winner_tie` or `tie (bothbad)`; or (n, 3) one-hot.
        groups: n prompts (texts, or lists of turns) or other keys: rows of one group are resampled together.
            None: every row is a group of its own.
        orders: (2, n, 3), the probabilities with A shown first and with B shown first, both of A, B and a tie in
            the rows' own naming; for the position bias.
        resamples: of the bootstrap, at least 100.
        seed: of the bootstrap, and of the half of the groups that the temperature is fitted on.

    Raises:
        UserError: arrays of other shapes, rows that are no probabilities, or labels that are no class.

    Example:
        >>> figures = evaluate([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], ["a", "b", "b"], resamples=100)
        >>> round(figures.scores.accuracy.value, 3)
        0.667
    """
    p = _check_probabilities("probabilities", probabilities)
    y = parse_labels(labels)
    both = None
    if orders is not None:
        shape = np.shape(orders)
        if shape != (2, *p.shape):
            raise UserError(f"orders: expected an array of shape (2, {len(p)}, 3), got {shape}")
        both = np.stack([_check_probabilities(f"orders[{k}]", order) for k, order in enumerate(np.asarray(orders))])
    keys = np.arange(len(y)) if groups is None else number_groups(groups)
    for name, count in (("labels", len(y)), ("groups", len(keys))):
        if count != len(p):
            raise UserError(f"{name}: {count:,} for {len(p):,} rows of probabilities; give one for each row")
    if resamples < LEAST_RESAMPLES:
        raise UserError(f"resamples={resamples}: an interval needs at least {LEAST_RESAMPLES}")
    return measure_probabilities(p, y, both, Bootstrap(keys, resamples, seed), seed=seed)


def measure_probabilities(
    probabilities: np.ndarray,
    labels: np.ndarray,
    orders: np.ndarray | None,
    bootstrap: Bootstrap,
    reference: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> Evaluation:
    """`evaluate` of checked arrays, with resamples that several judges share.

    Args:
        probabilities: (n, 3).
        labels: (n,), class numbers.
        orders: (2, n, 3) or None.
        bootstrap: of the rows' groups.
        reference: on the embedded sample, the losses (n,) of the prior and of Bayes, for `gap_closed`.
        seed: of the temperature's half and of the simulated calibration error.
    """
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    shares_loss = bootstrap.ratios(shares=-np.log(counts[labels] / len(labels)))["shares"]
    assert shares_loss is not None
    return Evaluation(
        rows=len(labels),
        prompts=bootstrap.groups,
        class_counts=dict(zip(CLASS_NAMES, counts.tolist(), strict=True)),
        class_shares_log_loss=shares_loss,
        scores=score(probabilities, labels, bootstrap, reference),
        calibration=calibrate(probabilities, labels, bootstrap, seed),
        position=audit_position(probabilities, labels, orders, bootstrap),
    )


def parse_labels(labels: ArrayLike) -> np.ndarray:
    """Class numbers (n,) of labels as `evaluate` takes them.

    Raises:
        UserError: no labels, or one that is no class.
    """
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] == 3:
        return _one_hot_classes(values)
    if values.ndim != 1 or not len(values):
        raise UserError(f"labels: expected n classes or an (n, 3) one-hot array, got shape {values.shape}")
    given = np.asarray(labels, dtype=object).tolist()  # as they are: `values` holds a number beside a name as text
    numbers = np.array([_class_of(value) for value in given], dtype=np.int64)
    if bad := np.flatnonzero(numbers < 0).tolist():
        raise UserError(
            f"labels[{bad[0]}]: {given[bad[0]]!r} is no class ({len(bad):,} such labels); "
            "use 0, 1, 2, or the names a, b, tie; model_a, model_b, tie; winner_model_a, winner_model_b, winner_tie; "
            "leave rows without a label out, of the probabilities too"
        )
    return numbers


def _class_of(value: Any) -> int:
    """The class of one label; -1 if it is none."""
    if isinstance(value, str):
        return LABEL_NAMES.get(value.casefold(), -1)
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, (int, float)) and value in (0, 1, 2) else -1


def _one_hot_classes(rows: np.ndarray) -> np.ndarray:
    """The class (n,) of each row of one-hot labels (n, 3)."""
    try:
        values = rows.astype(np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        raise UserError(f"labels: an array of shape {rows.shape} should be one-hot: give it numbers, 0 and 1") from None
    if bad := np.flatnonzero(((values != 0).sum(1) != 1) | (values.max(1) != 1)).tolist():
        raise UserError(f"labels[{bad[0]}]: {rows[bad[0]].tolist()} is not one-hot ({len(bad):,} such rows)")
    return np.asarray(values.argmax(1), dtype=np.int64)


def number_groups(groups: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Group numbers (n,) in the order of first appearance; texts, or lists of turns, are normalised as prompts."""
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "iu":
        return groups
    numbers: dict[Any, int] = {}
    keys = ([key] if isinstance(key, str) else key for key in groups)
    return np.array(
        [numbers.setdefault(normalise_prompt(k) if isinstance(k, (list, tuple)) else k, len(numbers)) for k in keys]
    )


def _check_probabilities(name: str, values: ArrayLike) -> np.ndarray:
    """The array (n, 3) in float64, its rows scaled to sum to one."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 3 or not len(p):
        raise UserError(f"{name}: expected an array of shape (n, 3), got {p.shape}")
    good = (p >= 0).all(1) & (np.abs(p.sum(1) - 1) <= SUM_TOLERANCE)  # NaN fails too
    if bad := np.flatnonzero(~good).tolist():
        shown = ", ".join(f"{value:g}" for value in p[bad[0]])
        raise UserError(f"{name}[{bad[0]}]: {shown} are not probabilities that sum to one ({len(bad):,} such rows)")
    total = p.sum(1, keepdims=True)
    scaled: np.ndarray = np.where(np.abs(total - 1) > ROUNDING, p / total, p)  # what is exact stays as it is
    return scaled
