"""Battles: which models met in which row, who was preferred by people and by a judge, and how the answers differ."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.features import NAMES, SYMMETRIC, extract_features
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError, did_you_mean
from tiebreak.evaluation.inputs import split_name
from tiebreak.labels import NO_LABEL
from tiebreak.plurals import plural
from tiebreak.tables.rows import Pair, Problem
from tiebreak.tables.table import OnBadRow, describe_problems, read_labels, read_rows

POSITION = "position"
CONTROLS = (*(group for group in NAMES if set(NAMES[group]) - SYMMETRIC - {"turns", "prompt"}), POSITION)
"""What a leaderboard can control for: groups of features that compare the answers, and the place of an answer."""


@dataclass(frozen=True)
class Battles:
    """Rows of two models' answers to one prompt.

    Attributes:
        models: names, in alphabetical order.
        first: int (n,), the model of answer A by its number. second: of answer B.
        groups: (n,), equal for rows of one prompt.
        votes: (n,), what people chose: 1 for A, 0 for B, 1/2 for a tie, NaN where they were not asked.
        judged: (n,), P(A) + P(tie) / 2 by the judge, NaN without one.
        features: (n, k) float32, in standard deviations (`position`: 1).
        names: of the features. spreads: (k,), their deviations.
        notes: what was left out.
    """

    models: list[str]
    first: np.ndarray
    second: np.ndarray
    groups: np.ndarray
    votes: np.ndarray
    judged: np.ndarray
    features: np.ndarray
    names: list[str]
    spreads: np.ndarray
    notes: list[str] = field(default_factory=list)

    def only(self, kept: np.ndarray) -> "Battles":
        """The rows of a mask (n,), with the models that occur in them."""
        present = np.unique(np.concatenate([self.first[kept], self.second[kept]]))
        number = np.full(len(self.models), -1, dtype=np.int32)
        number[present] = np.arange(len(present))
        return Battles(
            [self.models[i] for i in present], number[self.first[kept]], number[self.second[kept]], self.groups[kept],
            self.votes[kept], self.judged[kept], self.features[kept], self.names, self.spreads, self.notes,
        )  # fmt: skip


def read_battles(
    data: Sequence[Path],
    predictions: str | Path | None,
    labels: Path | None,
    control: Sequence[str],
    on_bad_row: OnBadRow = "fail",
) -> Battles:
    """Read the battles of some tables, row by row: their texts are not kept.

    Args:
        data: tables with `model_a` and `model_b`.
        predictions: of their rows; None for votes alone.
        labels: a table with `id` and winners; None takes the tables' own winners, if there are no predictions.
        control: names of `CONTROLS`.
        on_bad_row: `fail`, or `skip` to leave unreadable rows out.

    Raises:
        UserError: an unknown control, unreadable rows under `fail`, or no row with two models and an outcome.
    """
    check_controls(control)
    judged = None
    if predictions is not None:
        ids, probabilities = read_predictions(split_name(str(predictions))[1])
        judged = dict(zip(ids, (probabilities[:, 0] + probabilities[:, 2] / 2).tolist(), strict=True))
    voted = None if labels is None else read_labels(labels)
    reader = _Reader(judged, voted, [name for name in control if name != POSITION])
    for path in data:
        for row in read_rows(path, Counter()):
            reader.take(row)
    if reader.problems and on_bad_row == "fail":
        raise UserError(describe_problems(reader.problems))
    return reader.finish(POSITION in control, ", ".join(map(str, data)))


def check_controls(control: Sequence[str]) -> None:
    """Refuse controls that there are not."""
    for name in control:
        if name not in CONTROLS:
            hint = did_you_mean(name, CONTROLS)
            raise UserError(f"--control {name}: give some of {', '.join(CONTROLS)}{hint and f'; {hint}'}")


class _Reader:
    """Collects one row after another in lists of numbers."""

    def __init__(
        self, judged: Mapping[str, float] | None, voted: Mapping[str, int] | None, features: Sequence[str]
    ) -> None:
        self.judged, self.voted, self.groups = judged, voted, list(features)
        names = [name for group in features for name in NAMES[group]]
        self.kept = [place for place, name in enumerate(names) if name not in SYMMETRIC]
        self.names = [names[place] for place in self.kept]
        self.number: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.left: Counter[str] = Counter()
        self.first, self.second, self.prompts = array("i"), array("i"), array("q")
        self.votes, self.judgements, self.features = array("d"), array("d"), array("f")

    def take(self, row: Pair | Problem) -> None:
        """Add a row, or count why it is left out."""
        if isinstance(row, Problem):
            self.problems.append(row)
            return
        label = row.label if self.voted is None and self.judged is None else (self.voted or {}).get(row.id)
        vote = {0: 1.0, 1: 0.0, 2: 0.5}.get(NO_LABEL if label is None else label, np.nan)
        judge = np.nan if self.judged is None else self.judged.get(row.id, np.nan)
        if row.model_a is None or row.model_b is None:
            self.left["names no models"] += 1
        elif row.model_a == row.model_b:
            self.left["is one model against itself"] += 1
        elif self.judged is not None and np.isnan(judge):
            self.left["has no prediction"] += 1
        elif self.judged is None and np.isnan(vote):
            self.left["has no label"] += 1
        else:
            self.first.append(self.number.setdefault(row.model_a, len(self.number)))
            self.second.append(self.number.setdefault(row.model_b, len(self.number)))
            self.prompts.append(prompt_group(row.prompt))
            self.votes.append(vote)
            self.judgements.append(judge)
            if self.groups:
                self.features.extend(extract_features([row], self.groups)[0, self.kept].tolist())

    def finish(self, position: bool, data: str) -> Battles:
        """All rows, their models in alphabetical order."""
        rows = len(self.first)
        notes = [f"{plural(count, 'row')} left out: {reason}" for reason, count in self.left.items()]
        notes += [f"{plural(len(self.problems), 'row')} could not be read"] if self.problems else []
        if not rows:
            raise UserError(
                f"{data}: no row with two models and an outcome ({'; '.join(notes) or 'no rows'}): give "
                "its columns model_a, model_b and winner, or predictions of it"
            )
        models = sorted(self.number)
        order = np.array([models.index(name) for name in self.number], dtype=np.int32)
        features = np.array(self.features, dtype=np.float32).reshape(rows, len(self.names))
        # An effect is the same for an answer in either place, so the deviation is about zero and not about the mean.
        spreads = np.sqrt((features.astype(np.float64) ** 2).mean(0))
        varied = spreads > 0
        features, spreads = features[:, varied] / spreads[varied].astype(np.float32), spreads[varied]
        names = [name for name, kept in zip(self.names, varied, strict=True) if kept]
        if position:
            features = np.concatenate([features, np.ones((rows, 1), dtype=np.float32)], axis=1)
            names, spreads = [*names, POSITION], np.append(spreads, 1.0)
        return Battles(
            models, order[np.array(self.first)], order[np.array(self.second)],
            np.unique(self.prompts, return_inverse=True)[1], np.array(self.votes), np.array(self.judgements),
            features, names, spreads, notes,
        )  # fmt: skip
