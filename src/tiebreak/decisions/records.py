"""What decision.json holds, and how it is shown in a terminal."""

from tiebreak.evaluation.schema import Estimate, ReportSection
from tiebreak.evaluation.wording import number, percent, span
from tiebreak.plurals import plural

VERSION = 1


class JudgeRecord(ReportSection):
    """One judge: its threshold, and what is known of it from the labelled rows that come to it."""

    predictions: str = ""
    threshold: float | None
    """Rows of at least this confidence are decided; none if no test was passed: then no row is."""
    sent_on_below: float | None
    """Rows below this go to the second judge; none if the judge decides nothing: then all do."""
    read: int = 0
    """Rows to decide that come to this judge."""
    decided: int = 0
    """Rows that it decides."""
    calibration_rows: int
    calibration_decided: int
    effective_rows: float
    """What these are worth, as rows of one prompt are alike."""
    agreement_of_all: float | None
    """Share of all calibration rows where people agree."""
    agreement: float | None
    """Share of those at or above the threshold."""
    agreement_at_least: float | None
    """The bound that was proved for it, at this judge's part of the level."""
    aurc: Estimate | None
    """Area under the risk-coverage curve, with its 95 % interval; lower is better."""


class DecisionRecord(ReportSection):
    """The whole of decision.json."""

    version: int = VERSION
    labels: str
    agree: float
    certainty: float
    ties: str
    rows: int
    """Rows to decide."""
    counts: dict[str, int]
    """By verdict, `abstain` among them."""
    calibration_prompts: int
    judges: list[JudgeRecord]
    cost: dict[str, float] | None
    """By judges, by people, and by people alone; in the unit of what was given."""
    notes: list[str]

    def __str__(self) -> str:
        """A few lines for the terminal."""
        first = self.judges[0]
        prompts = plural(self.calibration_prompts, "prompt")
        lines = [f"calibrated on {plural(first.calibration_rows, 'row')} of {self.labels}, {prompts}"]
        for place, judge in enumerate(self.judges, 1):
            lines += _lines(judge, f"judge {place}" if len(self.judges) > 1 else "judge", self.certainty)
        left = self.counts.get("abstain", 0)
        decided = self.rows - left
        kinds = ", ".join(f"{name} {self.counts.get(name, 0):,}" for name in ("A", "B", "tie"))
        lines.append(f"decided: {decided:,} of {plural(self.rows, 'row')} ({percent(decided / self.rows, 1)}): {kinds}")
        asked = ", ".join(f"judge {i} reads {j.read:,}" for i, j in enumerate(self.judges, 1) if len(self.judges) > 1)
        lines.append(f"price: {plural(left, 'row')} to be judged by people" + f"; {asked}" * bool(asked))
        if self.cost is not None:
            total = self.cost["judges"] + self.cost["people"]
            lines[-1] += f"; cost {total:,.2f} ({self.cost['people_alone']:,.2f} by people alone)"
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _lines(judge: JudgeRecord, name: str, certainty: float) -> list[str]:
    """Two lines of one judge."""
    shown = f"{name}: {judge.predictions}"
    if judge.aurc is not None and judge.agreement_of_all is not None:
        area = f"AURC {number(judge.aurc)} ({span(judge.aurc)})"
        shown += f"; agrees with people on {percent(judge.agreement_of_all, 1)} of the labelled rows it reads, {area}"
    if judge.threshold is None or judge.agreement is None or judge.agreement_at_least is None:
        return [shown, "  decides nothing: no threshold passes; ask for less, or label more rows"]
    share = judge.calibration_decided / judge.calibration_rows
    bound = f"at least {percent(judge.agreement_at_least, 1)} with {percent(certainty)} certainty"
    return [
        shown,
        f"  decides from a confidence of {judge.threshold:.4f} on: {percent(share, 1)} of these, agreement "
        f"{percent(judge.agreement, 1)}, {bound}",
    ]
