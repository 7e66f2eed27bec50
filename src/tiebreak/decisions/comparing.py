"""Who wins between two systems, by how much, how sure that is, and how many rows more would settle it."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tiebreak.evaluation.schema import Estimate, ReportSection
from tiebreak.evaluation.wording import percent, span
from tiebreak.plurals import plural
from tiebreak.tables.cells import normalise_prompt
from tiebreak.verdict import Verdict

LEVEL, POWER = 0.95, 0.80
"""Certainty that settles it, and how often the rows that are named would do so."""
FEWEST_VOTES = 6
"""Fewer, even if all alike, do not pass a sign test at 5 %."""
LEVEL_MARGIN, MANY_VOTES = 0.003, 100_000
"""Of one row: a margin below this, or more votes than this to tell the two apart, is in words no preference."""


class Comparison(ReportSection):
    """What a judge says of two answers, or of two systems' answers to many prompts."""

    version: int = 1
    first: str
    second: str
    rows: int
    prompts: int
    """Distinct prompts, whose rows count together."""
    winner: Literal["first", "second", "tie"]
    """Of one row the likeliest outcome; of many, who is preferred more often, whether it is settled or not."""
    win: float
    """Mean probability that the first is preferred."""
    loss: float
    """That the second is."""
    tie: float
    win_rate: float
    """win + tie / 2."""
    interval: tuple[float, float] | None
    """95 % interval of the win rate over prompts; none for a single prompt."""
    confidence: float
    """Of one row, the probability of the outcome; of many, the certainty that the leader leads over more prompts."""
    settled: bool
    """Whether the interval of the win rate lies on one side of one half."""
    rows_more: int | None
    """Rows like these (of one row: votes on it) that would settle it four times in five; none if both are equal."""
    notes: list[str]

    def __str__(self) -> str:
        """A few lines for the terminal."""
        names = {"first": self.first, "second": self.second, "tie": "neither"}
        shares = [percent(share, 1) for share in (self.win, self.loss, self.tie)]
        odds = f"{shares[0]} {self.first}, {shares[1]} {self.second}, {shares[2]} a tie"
        if self.rows == 1 and self._level:
            lines = [f"no preference: the judge has the two level: {odds}"]
        elif self.rows == 1:
            lines = [f"{names[self.winner]} wins, with a probability of {percent(self.confidence, 1)}: {odds}"]
            if self.rows_more is not None and self.rows_more <= MANY_VOTES:
                votes = plural(self.rows_more, "vote")
                lines.append(f"some {votes} of people would tell the two apart four times in five")
        else:
            counts = f"{plural(self.rows, 'row')}, {plural(self.prompts, 'prompt')}"
            lines = [f"{self.first} against {self.second}: {counts}"]
            rate = f"{self.first} wins {percent(self.win_rate, 1)}, a tie counting half"
            if self.interval is not None:
                low, high = self.interval
                rate += f" ({span(Estimate(value=self.win_rate, low=low, high=high), 1, True)})"
            lines += [f"{rate}: {odds}", self._state(names[self.winner])]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def _level(self) -> bool:
        """Whether a row's margin is too small to call the likelier answer the winner."""
        small = abs(self.win - self.loss) < LEVEL_MARGIN or (self.rows_more or 0) > MANY_VOTES
        return small and max(self.win, self.loss) > self.tie

    def _state(self, leader: str) -> str:
        if self.winner == "tie":
            return "not settled: the two are exactly level"
        if not self.settled and percent(self.win, 1) == percent(self.loss, 1):
            return "not settled: no preference, the judge has the two all but level"
        if self.settled:
            return f"settled: the judge prefers {leader}, with {percent(self.confidence, 1)} certainty"
        said = f"not settled: {leader} leads with {percent(self.confidence, 1)} certainty"
        if self.rows_more is None:
            return said
        return f"{said}; some {plural(self.rows_more, 'row')} more would settle it four times in five"


def summarise(
    probabilities: np.ndarray, prompts: Sequence[Sequence[str]], names: tuple[str, str], notes: Sequence[str] = ()
) -> Comparison:
    """Compare two systems by a judge's probabilities of their answers.

    The interval is Student's over prompts (rows of one prompt count together, Cameron & Miller 2015). The rows that
    would settle it are those of a test at 5 % with a power of 80 %, if the margin and the spread stay as they are.

    Args:
        probabilities: (n, 3), that the first is preferred, that the second is, and of a tie, both orders averaged.
        prompts: n, each a list of turns.
        names: of the two.
        notes: to be shown with it.
    """
    winner: Literal["first", "second", "tie"]
    win, loss, tie = (float(share) for share in probabilities.mean(0))
    known: dict[str, int] = {}
    groups = np.array([known.setdefault(normalise_prompt(prompt), len(known)) for prompt in prompts])
    margins, rows, count = probabilities[:, 0] - probabilities[:, 1], len(probabilities), len(known)
    margin = float(margins.mean())
    if rows == 1:
        verdict = Verdict(win, loss, tie)
        winner = "first" if verdict.winner == "a" else "second" if verdict.winner == "b" else "tie"
        confidence = getattr(verdict, verdict.winner)
        # Votes of people who choose as often as the judge says: the variance of one of +1, -1 or 0.
        needed = _needed(math.sqrt(max(0.0, win + loss - margin**2)), margin)
        interval, settled, more = None, False, None if needed is None else max(FEWEST_VOTES, needed)
    else:
        winner = "tie" if margin == 0 else "first" if margin > 0 else "second"
        error, half, confidence = _spread(margins - margin, groups, margin)
        interval = None if half is None else (0.5 + (margin - half) / 2, 0.5 + (margin + half) / 2)
        settled = half is not None and abs(margin) > half
        needed = None if error is None else _needed(error * math.sqrt(rows), margin)
        more = 0 if settled else None if needed is None else max(1, needed - rows)
    return Comparison(
        first=names[0], second=names[1], rows=rows, prompts=count, winner=winner, win=win, loss=loss, tie=tie,
        win_rate=win + tie / 2, interval=interval, confidence=confidence, settled=settled, rows_more=more,
        notes=list(notes),
    )  # fmt: skip


def _spread(residuals: np.ndarray, groups: np.ndarray, margin: float) -> tuple[float | None, float | None, float]:
    """The standard error of a mean, half of its interval, and the certainty of its sign; none of one group."""
    from scipy import stats

    sums = np.bincount(groups, residuals)
    if len(sums) < 2:
        return None, None, 0.5
    error = math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum())) / len(residuals)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(sums) - 1)) * error
    certainty = 1.0 if error == 0 and margin else 0.5
    if error > 0:
        certainty = float(stats.t.cdf(abs(margin) / error, len(sums) - 1))
    return error, half, certainty


def _needed(deviation: float, margin: float) -> int | None:
    """Rows of this standard deviation that show the margin (Cohen 1988, Statistical Power Analysis, section 2)."""
    from scipy import stats

    if margin == 0:
        return None
    width = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER))
    return max(1, math.ceil(min(1e15, (width * deviation / margin) ** 2)))


def rank_candidates(sizes: Sequence[int], probabilities: np.ndarray) -> list[list[float]]:
    """Scores of the candidates of each prompt: the mean over the others of P(it is preferred) + P(tie) / 2.

    Args:
        sizes: of each prompt, how many candidates it has.
        probabilities: (n, 3), of every pair of a prompt's candidates (i before j), prompt after prompt.
    """
    scores, at = [], 0
    for size in sizes:
        score = np.zeros(size)
        for i in range(size):
            for j in range(i + 1, size):
                a, b, tie = probabilities[at]
                score[i] += a + tie / 2
                score[j] += b + tie / 2
                at += 1
        scores.append((score / (size - 1)).tolist())
    return scores
