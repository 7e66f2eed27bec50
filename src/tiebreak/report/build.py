"""`tiebreak report`: from files to metrics.json, plots, index.html and a short table."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.evaluation.inputs import Rows, read_judges, read_rows
from tiebreak.evaluation.measure import measure
from tiebreak.evaluation.schema import Report
from tiebreak.files import write_atomically
from tiebreak.report.curves import NAME as CURVES
from tiebreak.report.curves import History, make_plots, plot_curves, read_history, summarise
from tiebreak.report.page import write_page


def report(options: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Make the report that the command line asks for; returns the exit code.

    Raises:
        UserError: nothing to report on, or files that cannot be used.
    """
    if not options.predictions and not options.runs:
        raise UserError("nothing to report on: name prediction files or folders, or run folders after --runs")
    if options.predictions and not options.labels:
        raise UserError("--labels names the table with the winners that the predictions are held against")
    if options.resamples < 100:
        raise UserError(f"--resamples {options.resamples}: an interval needs at least 100")
    if options.model and len(options.predictions) != 1:
        raise UserError("--model is the judge of one prediction: give exactly one")
    histories = [read_history(Path(folder)) for folder in options.runs]
    found, rows = measure_all(options, histories)
    out = Path(options.out)
    (out / "plots").mkdir(parents=True, exist_ok=True)
    write_report(out, found, histories, rows)
    if found.judges:
        from tiebreak.report.terminal import render_scores

        say(render_scores(found))
    for note in found.notes:
        say(f"note: {note}")
    if options.model:
        from tiebreak.report.card import update_card

        say(f"model card: {update_card(Path(options.model), found)}")
    say(f"report: {out / 'index.html'}")
    return 0


def measure_all(options: argparse.Namespace, histories: list[History]) -> tuple[Report, Rows | None]:
    """The figures, and the rows they are of; without predictions, only the runs' own."""
    runs = tuple(map(summarise, histories))
    if not options.predictions:
        counts = {"A": 0, "B": 0, "tie": 0}
        empty = Report(
            labels="", rows=0, prompts=0, class_counts=counts, resamples=options.resamples, seed=options.seed,
            notes=[], baselines={}, judges=[], pairs=[], runs=list(runs),
        )  # fmt: skip
        return empty, None
    labels = Path(options.labels)
    rows = read_rows(labels, options.on_bad_row)
    judges, rows = read_judges(options.predictions, options.attacked, options.family, rows)
    return measure(rows, judges, labels.name, options.resamples, options.seed, runs), rows


def write_report(out: Path, found: Report, histories: list[History], rows: Rows | None) -> None:
    """Write everything below the report's folder."""
    from tiebreak.report.figures import make_figures
    from tiebreak.report.plots import save

    plots = [*(make_figures(found) if found.judges else []), *make_plots(histories)]
    for plot in plots:
        save(plot, out / "plots")
    if histories:
        plot_curves(histories, out / CURVES)
    if rows is not None and rows.problems:
        lines = [json.dumps({"file": p.file, "row": p.row, "id": p.id, "reason": p.reason}) for p in rows.problems]
        write_atomically(out / "skipped_rows.jsonl", "\n".join(lines) + "\n")
    write_atomically(out / "metrics.json", found.model_dump_json(indent=2) + "\n")
    write_page(out / "index.html", found, plots, out / "plots", rows.pairs if rows else None)
