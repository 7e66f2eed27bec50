"""The table that a sweep ends with."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.manifests import read_manifest
from tiebreak.pipeline.sweep_record import (
    BEST,
    TABLE,
    Decision,
    Outcome,
    Rung,
    TrialResult,
    against,
    decision_path,
    read_answer,
    result_path,
    rung_path,
    settings_path,
)
from tiebreak.pipeline.sweep_settings import Sweep
from tiebreak.pipeline.sweep_space import Settings
from tiebreak.plurals import plural

COLUMNS = "trial state wave share step steps tokens log_loss difference error why".split()


class Row(NamedTuple):
    """A trial's line of the table."""

    outcome: Outcome
    wave: int
    share: float
    result: TrialResult | None
    settings: Settings


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """Those that finished first, then the others by how far they came, each by log loss; those that failed last."""

    def turn(row: Row) -> tuple[object, ...]:
        failed, loss = row.outcome.state == "failed", row.outcome.log_loss or 0.0
        return (failed, row.outcome.state != "finished", -row.share, loss, row.outcome.number)

    return sorted(rows, key=turn)


def write_table(path: Path, rows: Sequence[Row], fields: Sequence[str]) -> None:
    """Write the table as CSV: a line for each trial, its settings in the last columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *fields])
    for row in rows:
        seen, outcome = row.result, row.outcome
        figures = ["" if x is None else f"{x:.6f}" for x in (outcome.log_loss, outcome.difference, outcome.error)]
        counts = [seen.step, seen.steps, seen.tokens] if seen else ["", "", ""]
        start = [outcome.number, outcome.state, row.wave, f"{row.share:.4g}", *counts, *figures, outcome.why]
        writer.writerow([*start, *("" if row.settings.get(name) is None else row.settings[name] for name in fields)])
    write_atomically(path, text.getvalue())


def render_rows(rows: Sequence[Row], fields: Sequence[str], most: int = 10) -> str:
    """The first lines of the table for the terminal."""
    names = [name.rpartition(".")[2] for name in fields]
    lines = [f"{'trial':>5}  {'state':9}{'steps':>12}{'log loss':>10}{'difference':>18}  settings"]
    for row in rows[:most]:
        seen, outcome = row.result, row.outcome
        steps = f"{seen.step:,}/{seen.steps:,}" if seen else ""
        loss = "" if outcome.log_loss is None else f"{outcome.log_loss:.4f}"
        change = "" if outcome.difference is None else f"{outcome.difference:+.4f} ± {outcome.error:.4f}"
        values = (row.settings.get(field) for field in fields)
        shown = [f"{v:.3g}" if isinstance(v, float) else f"{v}" for v in values]
        words = "  ".join(f"{name}={value}" for name, value in zip(names, shown, strict=True))
        lines.append(f"{outcome.number:>5}  {outcome.state:9}{steps:>12}{loss:>10}{change:>18}  {words}")
    if len(rows) > most:
        lines.append(f"  ... and {len(rows) - most} more")
    return "\n".join(lines)


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes:
        rows: a line for each trial, the best first.
        fields: that varied.
        table: the CSV of them.
        best: the recipe of the best trial, as YAML.
        tokens: that all trials were trained on.
        whole: tokens, estimated, of training all of them to their ends.
    """

    rows: list[Row]
    fields: list[str]
    table: Path
    best: Path
    tokens: int
    whole: int

    def __str__(self) -> str:
        counts = [f"{sum(row.outcome.state == s for row in self.rows)} {s}" for s in ("finished", "pruned", "failed")]
        return (
            f"{render_rows(self.rows, self.fields)}\n"
            f"{plural(len(self.rows), 'trial')}: {', '.join(counts)}; {self.tokens:,} tokens, "
            f"{self.tokens / self.whole:.0%} of training all to the end\n"
            f"table: {self.table}; the best trial's recipe: --recipe {self.best}"
        )


def results_of(sweep: Sweep, wave: int, rung: int, number: int) -> list[TrialResult]:
    """The results of a trial, up to this rung."""
    results = []
    for earlier in range(rung + 1):
        entrants = read_manifest(rung_path(sweep.out, wave, earlier), Rung).entrants
        place = [entrant.number for entrant in entrants].index(number)
        answer = read_answer(result_path(sweep.out, wave, earlier, place))
        results += [answer.result] if answer and answer.result else []
    return results


def conclude(sweep: Sweep) -> SweepResult:
    """Write the table of all trials and the best one's recipe, once all rungs are decided.

    Raises:
        UserError: every trial has failed.
    """
    rows = []
    for wave, rung in sweep.rungs:
        settings = {e.number: e.settings for e in read_manifest(rung_path(sweep.out, wave, rung), Rung).entrants}
        for outcome in read_manifest(decision_path(sweep.out, wave, rung), Decision).outcomes:
            if outcome.state != "goes on":
                seen = results_of(sweep, wave, rung, outcome.number)
                rows.append(
                    Row(outcome, wave, sweep.space.share(rung), seen[-1] if seen else None, settings[outcome.number])
                )
    rows = sort_rows(rows)
    best = rows[0]
    if best.result is None or best.outcome.state != "finished":
        raise UserError(
            f"every trial has failed or was pruned; trial {best.outcome.number}: {best.outcome.why}\nCorrect that, and "
            "begin the sweep anew in another --out"
        )
    for place, row in enumerate(rows):  # of other waves, too
        if row.outcome.state == "finished" and row.result is not None:
            rows[place] = row._replace(outcome=row.outcome.model_copy(update=against(row.result, best.result)))
    fields = list(sweep.space.space)
    write_atomically(sweep.out / BEST, settings_path(sweep.out, best.outcome.number).read_bytes())
    write_table(sweep.out / TABLE, rows, fields)
    results = [row.result for row in rows if row.result is not None]
    tokens, whole = sum(r.tokens for r in results), sum(round(r.tokens * r.steps / r.step) for r in results)
    return SweepResult(rows, fields, sweep.out / TABLE, sweep.out / BEST, tokens, whole)
