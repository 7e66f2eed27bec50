"""What a judge says of answers in memory, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Text = str | Sequence[str | None] | None
"""One turn, or the turns of a conversation. None is an empty text, as a null turn in a table is."""

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a judge says of two answers: three probabilities that sum to one.

    Attributes:
        a: probability that people prefer the first answer. b: the second. tie: neither.

    Example:
        >>> Verdict(a=0.25, b=0.625, tie=0.125)
        Verdict(winner='b', a=0.25, b=0.62, tie=0.12)
    """

    a: float
    b: float
    tie: float

    @property
    def winner(self) -> Literal["a", "b", "tie"]:
        """The likeliest class, of equally likely ones the first; `tie` where a and b are exactly equal.

        The latter is so for two identical answers seen in both orders: the judge prefers neither. In an array of
        probabilities, as `evaluate` takes it, the first of equal classes counts as the verdict.
        """
        if self.a == self.b:
            return "tie"
        return max(("a", "b", "tie"), key=lambda name: getattr(self, name))

    def __str__(self) -> str:
        return f"{self.winner} (a {self.a:.2f}, b {self.b:.2f}, tie {self.tie:.2f})"

    def __repr__(self) -> str:
        return f"Verdict(winner={self.winner!r}, a={self.a:.2f}, b={self.b:.2f}, tie={self.tie:.2f})"

    def _repr_html_(self) -> str:
        cells = f"<th>{self.winner}</th>" + "".join(f"<td>{p:.2f}</td>" for p in (self.a, self.b, self.tie))
        head = "".join(f"<th>{name}</th>" for name in ("winner", "a", "b", "tie"))
        return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"


@dataclass(frozen=True, repr=False)
class RankedAnswer:
    """An answer's place among others to the same prompt.

    Attributes:
        index: its place in the answers given. answer: itself. score: the mean over the other answers of
            P(it wins) + P(tie) / 2, between 0 and 1.

    Example:
        >>> RankedAnswer(index=1, answer="four", score=0.75)
        RankedAnswer(score=0.75, index=1, answer='four')
    """

    index: int
    answer: Text
    score: float

    def __repr__(self) -> str:
        answer = repr(self.answer)
        if len(answer) > SHOWN_CHARACTERS:
            answer = answer[: SHOWN_CHARACTERS - 1] + "…"
        return f"RankedAnswer(score={self.score:.2f}, index={self.index}, answer={answer})"
