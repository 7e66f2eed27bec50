"""What bench.json holds, and how it is shown in a terminal."""

from tiebreak.evaluation.schema import Estimate, ReportSection
from tiebreak.evaluation.wording import number, percent, span
from tiebreak.plurals import plural

VERSION = 1
SHOWN_PARTS, SHOWN_TEXT, INDENT = 12, 60, "  "


class Pairwise(ReportSection):
    """A suite's comparisons, one by one, whatever the suite makes of them; both answer orders averaged."""

    rows: int
    """Comparisons of which the suite says who is better, or that both are alike."""
    prompts: int
    accuracy: Estimate
    """Share of the rows whose likeliest outcome, of A, B and a tie, is the label."""
    log_loss: Estimate
    """Of the three outcomes, in nats."""
    ties_said: float
    """Share of the rows where the judge's likeliest outcome is a tie."""
    ties: float
    """Share of the rows whose label is a tie."""
    decided_accuracy: Estimate | None
    """Of the rows whose label is no tie, the share where the better answer is the likelier of the two; 1/2 if even."""
    decided_log_loss: Estimate | None
    """Of these rows, with the tie's probability left out, in nats; ln 2 is chance."""


class Copy(ReportSection):
    """A prompt of the suite and the trained one that is most like it."""

    prompt: str
    trained: str
    similarity: float


class Contamination(ReportSection):
    """How many of a suite's prompts the judge was trained on."""

    prompts: int
    """Distinct ones of the suite."""
    exact: int
    """Trained on as they stand, but for case and white space."""
    near: int | None
    """Of which something alike was trained on; none where no trained texts were given."""
    rows: int
    """Items with such prompts, of both kinds."""
    examples: list[Copy]
    """The least alike of the near-duplicates, to be looked at."""


class SuiteResult(ReportSection):
    """One suite."""

    suite: str
    files: list[str]
    items: int
    bad: int
    """Rows that could not be read."""
    score: dict[str, float] | None
    """By the suite's own formula, the headline first; none without a judge."""
    pairwise: Pairwise | None
    contamination: Contamination | None
    clean_score: dict[str, float] | None
    """The same formula without the items that the judge was trained on; none where there is none, or nothing else."""


class BenchRecord(ReportSection):
    """The whole of bench.json."""

    version: int = VERSION
    judge: str | None
    orders: int
    """1 if each comparison was seen in one order only: then no suite sees an inconsistency."""
    trained_record: int | None
    """Prompts in the judge's own record of what it was trained on; none without one."""
    trained_texts: int | None
    """Distinct prompts of the training tables that were given."""
    suites: list[SuiteResult]
    notes: list[str]

    def __str__(self) -> str:
        """Some lines for each suite."""
        lines = []
        for suite in self.suites:
            lines += _lines(suite)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _lines(suite: SuiteResult) -> list[str]:
    lines = [f"{suite.suite}: {plural(suite.items, 'item')} of {plural(len(suite.files), 'file')}"]
    if suite.bad:
        lines[0] += f", {plural(suite.bad, 'unreadable row')} left out"
    if suite.score:
        (name, headline), *parts = suite.score.items()
        lines.append(f"{INDENT}{name}: {number(headline)}")
        lines += [f"{INDENT * 2}{part}: {number(value)}" for part, value in parts[:SHOWN_PARTS]]
        if len(parts) > SHOWN_PARTS:
            lines.append(f"{INDENT * 2}and {len(parts) - SHOWN_PARTS} more in bench.json (--out)")
    if (pairs := suite.pairwise) is not None:
        shown = f"{INDENT}pairwise: accuracy {_share(pairs.accuracy)}, log loss {number(pairs.log_loss)}"
        lines.append(f"{shown} ({span(pairs.log_loss)}) on {plural(pairs.rows, 'pair')}")
        if pairs.decided_accuracy is not None and pairs.decided_log_loss is not None:
            shown = f"{INDENT}A or B alone: accuracy {_share(pairs.decided_accuracy)}, "
            lines.append(f"{shown}log loss {number(pairs.decided_log_loss)} ({span(pairs.decided_log_loss)})")
        lines.append(f"{INDENT}ties: {percent(pairs.ties_said, 1)} by the judge, {percent(pairs.ties, 1)} by the suite")
    return lines + _contamination(suite)


def _share(value: Estimate) -> str:
    return f"{percent(value, 1)} ({span(value, 1, percents=True)})"


def _contamination(suite: SuiteResult) -> list[str]:
    seen = suite.contamination
    if seen is None:
        return []
    near = "" if seen.near is None else f", {seen.near:,} more are near-duplicates"
    lines = [f"{INDENT}trained on: {seen.exact:,} of {plural(seen.prompts, 'prompt')} as they stand{near}"]
    for example in seen.examples:
        pair = f"{_cut(example.prompt)} | {_cut(example.trained)}"
        lines.append(f"{INDENT * 2}{example.similarity:.2f}: {pair}")
    if suite.clean_score:
        name, value = next(iter(suite.clean_score.items()))
        lines.append(f"{INDENT}without these {plural(seen.rows, 'item')}: {name} {number(value)}")
    return lines


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_TEXT else flat[: SHOWN_TEXT - 3] + "..."
