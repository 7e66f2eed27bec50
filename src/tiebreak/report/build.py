"""`tiebreak report`: from files to metrics.json, plots and index.html."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.evaluation.evaluate import LEAST_RESAMPLES
from tiebreak.evaluation.inputs import LabelledRows, read_judges, read_labelled
from tiebreak.evaluation.measure import measure
from tiebreak.evaluation.schema import Report
from tiebreak.files import as_paths, write_atomically
from tiebreak.labels import CLASS_NAMES
from tiebreak.manifests import as_json
from tiebreak.outputs import refuse_foreign
from tiebreak.report.curves import NAME as CURVES
from tiebreak.report.curves import History, make_plots, plot_curves, read_history, summarise
from tiebreak.report.page import write_page
from tiebreak.storage import make_folder
from tiebreak.tables.table import OnBadRow

log = logging.getLogger(__name__)


def write_report(
    predictions: str | Path | Sequence[str | Path],
    labels: str | Path | None,
    out: str | Path,
    *,
    attacked: str | Path | Sequence[str | Path] = (),
    runs: str | Path | Sequence[str | Path] = (),
    family: str | None = None,
    model: str | Path | None = None,
    resamples: int = 1_000,
    seed: int = 0,
    on_bad_row: OnBadRow = "fail",
) -> Report:
    """Measure predictions against a labelled table and write the report's folder.

    Args:
        predictions: each a predictions.csv, a folder with one, or `NAME=` before either.
        labels: a table with `id` and winners; with texts, slices and audits too. Not needed without predictions.
        out: the folder to fill with index.html, metrics.json and plots.
        attacked: predictions of the attacked table, one for each of `predictions` in the same order, or none.
        runs: run folders, for their training curves.
        family: the judges' model family; None takes it from their recipes.
        model: a model or run folder whose card gets the scores and the bias table of the only prediction.
        resamples: of the bootstrap, at least 100.
        seed: of the bootstrap.
        on_bad_row: `fail`, or `skip` to leave unreadable labelled rows out.

    Returns:
        The figures, as metrics.json has them.

    Raises:
        UserError: nothing to report on, or files that cannot be used.
    """
    given, judged_attacks, out = as_paths(predictions), as_paths(attacked), Path(out)
    if not given and not runs:
        raise UserError("nothing to report on: give prediction files or folders, or run folders with --runs")
    if given and labels is None:
        raise UserError("--labels is required with predictions: a table with id and winner columns")
    if resamples < LEAST_RESAMPLES:
        raise UserError(f"--resamples {resamples}: an interval needs at least {LEAST_RESAMPLES}")
    if model is not None and len(given) != 1:
        raise UserError(f"--model: give exactly one prediction, the model's own (got {len(given)})")
    if model is not None:
        from tiebreak.report.card import open_card

        open_card(Path(model))  # whose faults are told before the work
    refuse_foreign(out, "index.html")
    histories = [read_history(folder) for folder in as_paths(runs)]
    measured, rows = _nothing_measured(resamples, seed), None
    if labels is not None and given:
        [table] = as_paths([labels])
        rows = read_labelled(table, on_bad_row)
        judges, rows = read_judges([str(name) for name in given], [str(name) for name in judged_attacks], family, rows)
        measured = measure(rows, judges, table.name, resamples, seed)
    measured.runs = [summarise(history) for history in histories]
    make_folder(out / "plots")
    _write_files(out, measured, histories, rows)
    if model is not None:
        from tiebreak.report.card import update_card

        log.info(f"model card: {update_card(Path(model), measured)}")
    return measured


def _nothing_measured(resamples: int, seed: int) -> Report:
    """The report of run folders alone."""
    counts = dict.fromkeys(CLASS_NAMES, 0)
    return Report(
        labels="", rows=0, prompts=0, class_counts=counts, resamples=resamples, seed=seed,
        notes=[], baselines={}, judges=[], pairs=[], runs=[],
    )  # fmt: skip


def _write_files(out: Path, report: Report, histories: list[History], rows: LabelledRows | None) -> None:
    """Write everything below the report's folder."""
    from tiebreak.report.figures import make_figures
    from tiebreak.report.plots import save

    plots = [
        *(make_figures(report) if report.judges else []),
        *make_plots(histories, [judge.name for judge in report.judges]),
    ]
    for plot in plots:
        save(plot, out / "plots")
    if histories:
        plot_curves(histories, out / CURVES)
    if rows is not None and rows.problems:
        lines = [json.dumps({"file": p.file, "row": p.row, "id": p.id, "reason": p.reason}) for p in rows.problems]
        write_atomically(out / "skipped_rows.jsonl", "\n".join(lines) + "\n")
    write_atomically(out / "metrics.json", as_json(report))
    write_page(out / "index.html", report, plots, out / "plots", rows.pairs if rows else None)
