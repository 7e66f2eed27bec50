"""Degenerate rows, whose answers are both empty or the same: on request they get probabilities of their own."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tiebreak.data.prediction_manifest import DegenerateRows
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.labels import TIE
from tiebreak.plurals import plural
from tiebreak.tables.table import read_table

log = logging.getLogger(__name__)

KINDS = ("empty", "identical")
MOST_DROPPED = 0.05
"""Share of a table's rows that may be unreadable: the others then still have its class shares."""
PSEUDO_ROWS = 5
"""Number of rows with all rows' class shares that are added to each kind, which may occur twice or never."""

Degenerate = Sequence[float] | Path
"""Three probabilities for both kinds, or a labelled table to take each kind's class shares from."""


def parse_degenerate(text: str) -> Degenerate:
    """Parse `--special A,B,TIE` or `--special FILE`.

    Raises:
        UserError: neither three probabilities nor a file.
    """
    if Path(text).exists() or ("," not in text and Path(text).suffix[1:].isalpha()):
        return Path(text)
    try:
        a, b, tie = map(float, text.split(","))
        return [a, b, tie]
    except ValueError:
        raise UserError(f"--special {text}: give three probabilities as A,B,TIE, or a labelled table") from None


def degenerate_outputs(degenerate: Degenerate) -> dict[str, list[float]]:
    """Return the probabilities of each kind of degenerate row.

    Raises:
        UserError: no probabilities that sum to one, or a table without labels.
    """
    if isinstance(degenerate, Path):
        return fit_degenerate(degenerate)
    fixed = np.array(degenerate, dtype=np.float64)
    if fixed.shape != (3,) or not (fixed >= 0).all() or not np.isclose(fixed.sum(), 1, atol=1e-6):
        raise UserError(f"--special {describe_source(degenerate)}: give three probabilities that sum to one")
    if not fixed.all():
        log.info(
            f"--special {describe_source(degenerate)}: a row of the class with probability 0 has no finite log loss"
        )
    return dict.fromkeys(KINDS, (fixed / fixed.sum()).tolist())


def describe_source(degenerate: Degenerate) -> str:
    """Return how the command line would name them."""
    return str(degenerate) if isinstance(degenerate, Path) else ",".join(f"{value:g}" for value in degenerate)


def find_degenerate(tokens: Tokens) -> dict[str, list[int]]:
    """Return the rows of each kind, by what the model sees of their answers."""
    same_length = np.flatnonzero((tokens.chars[:, 0] == tokens.chars[:, 1]) & ~tokens.unreadable)
    empty = tokens.chars[same_length, 0] == 0
    identical = [row for row in same_length[~empty].tolist() if tokens.answers_equal(row)]
    return {"empty": same_length[empty].tolist(), "identical": identical}


def fit_degenerate(path: Path) -> dict[str, list[float]]:
    """Return each kind's class shares in a labelled table, with `PSEUDO_ROWS` rows of all rows' shares.

    Neither answer is better than itself: A and B get the mean of their shares. Where the table has no ties, or nothing
    but ties, one row of each class is added to all rows, so that no class gets a probability of 0. Rows without a label
    or that cannot be read are counted in a message.

    Raises:
        UserError: no labelled rows, or more than `MOST_DROPPED` of the rows cannot be read, as labels in other words.
    """
    table = read_table([path], "skip")
    pairs = [pair for pair in table.pairs if pair.label is not None]
    read, bad = len(table.pairs), len(table.problems)
    if bad > MOST_DROPPED * (read + bad):
        raise UserError(
            f"--special {path}: {bad:,} of {plural(read + bad, 'row')} cannot be read: {table.problems[0]}; correct it"
        )
    if not pairs:
        raise UserError(f"--special {path}: no labelled rows to take class shares from: label some, or give A,B,TIE")
    if left_out := read + bad - len(pairs):
        reason = f", as {table.problems[0]}" if bad else ""
        log.info(
            f"--special {path}: {plural(left_out, 'row')} left out ({bad:,} unreadable{reason}, others unlabelled)"
        )
    overall = _counts([pair.label for pair in pairs])
    if not overall[TIE] or not overall[:TIE].any():
        overall += 1
        log.info(f"--special {path}: {'only' if overall[TIE] > 1 else 'no'} ties in it: one row of each class is added")
    identical = [pair for pair in pairs if pair.response_a == pair.response_b]
    outputs = {}
    for kind in KINDS:
        counts = _counts([pair.label for pair in identical if any(pair.response_a) == (kind == "identical")])
        shares = (counts + PSEUDO_ROWS * overall / overall.sum()) / (counts.sum() + PSEUDO_ROWS)
        shares[:2] = shares[:2].mean()
        outputs[kind] = shares.tolist()
    return outputs


def describe_degenerate(degenerate: DegenerateRows) -> str:
    """Return the message about a prediction's degenerate rows."""
    kinds = []
    for kind in KINDS:
        output = ", ".join(f"{value:.3f}" for value in degenerate.outputs[kind])
        kinds.append(f"{plural(len(degenerate.rows[kind]), 'row')} with {kind} answers: A, B, tie = {output}")
    return f"degenerate rows, by --special {degenerate.source}: {'; '.join(kinds)}"


def _counts(labels: Sequence[int | None]) -> np.ndarray:
    return np.bincount(np.array(labels, dtype=np.int64), minlength=3).astype(np.float64)
