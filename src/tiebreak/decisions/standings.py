"""What leaderboard.json holds, and how it is shown in a terminal."""

from tiebreak.evaluation.schema import Estimate, ReportSection
from tiebreak.evaluation.wording import number, percent, span
from tiebreak.plurals import plural
from tiebreak.terminal import one_line

VERSION = 1


class Standing(ReportSection):
    """A model's place."""

    model: str
    rank: int
    """One more than the number of models whose interval lies above this one's."""
    rating: Estimate
    """On Elo's scale, with its 95 % interval; the mean of all models is 1,000."""
    win_rate: float
    """The chance to be preferred to an average model's answer of the same style."""
    rows: int
    by_judge: float | None
    """The rating by the judge alone, where people's votes correct it."""


class Effect(ReportSection):
    """What a feature of style, or the place of an answer, is worth."""

    name: str
    points: Estimate
    """Points of rating by one standard deviation more than the other answer."""
    deviation: float
    """The standard deviation, in the feature's own unit (docs/recipes.md)."""


class Board(ReportSection):
    """The whole of leaderboard.json."""

    version: int = VERSION
    data: str
    source: str
    """`people`, `judge`, or `judge, corrected by people`."""
    rows: int
    prompts: int
    votes: int
    """Rows on which people were asked."""
    power: float
    """How far the judge is trusted beside the votes: 0 not at all, 1 wholly."""
    standings: list[Standing]
    """The best first."""
    effects: list[Effect]
    notes: list[str]

    def __str__(self) -> str:
        """A table for the terminal."""
        names = [one_line(s.model) for s in self.standings]
        width = max(len("model"), *map(len, names))
        corrected = self.standings[0].by_judge is not None
        lines = [self.lede(), ""]
        head = f"{'rank':>4}  {'model':{width}}  {'rating':>6}  {'95 % interval':>16}  {'wins':>6}  {'rows':>9}"
        lines.append(head + ("  by the judge alone" if corrected else ""))
        for s, name in zip(self.standings, names, strict=True):
            line = f"{s.rank:>4}  {name:{width}}  {number(s.rating, 0):>6}  {span(s.rating, 0):>16}"
            line += f"  {percent(s.win_rate, 1):>6}  {s.rows:>9,}"
            lines.append(line + (f"  {number(s.by_judge, 0):>18}" if corrected else ""))
        if self.effects:
            widest = max(len(effect.name) for effect in self.effects)
            lines += ["", "points of rating by one standard deviation more:"]
            lines += [f"  {e.name:{widest}}  {number(e.points, 1):>7}  {span(e.points, 1)}" for e in self.effects]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def lede(self) -> str:
        """What the ratings are made of, in one sentence."""
        what = f"{plural(len(self.standings), 'model')}, {plural(self.rows, 'row')}, {plural(self.prompts, 'prompt')}"
        if self.source == "people":
            return f"{what}: ratings by people's votes."
        if self.source == "judge":
            return f"{what}: ratings by the judge's probabilities alone, its errors included."
        trust = f"the judge's weight beside them is {number(self.power, 2)}"
        return f"{what}: ratings by the judge, corrected by people's votes on {plural(self.votes, 'row')}; {trust}."
