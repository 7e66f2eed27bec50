"""Training curves of one or more runs, from their log.jsonl."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.errors import UserError
from tiebreak.evaluation.schema import Run
from tiebreak.files import open_atomically
from tiebreak.report.plots import (
    DPI,
    MARKERS,
    NARROW,
    Palette,
    Plot,
    few_ticks,
    legend_above,
    legend_name,
    palette,
    style,
)
from tiebreak.structured import parse_json

log = logging.getLogger(__name__)

NAME = "curves.png"
PANELS = {
    "loss": "Training loss",
    "validation_log_loss": "Validation log loss",
    "validation_accuracy": "Validation accuracy",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
}
NOISY = {"loss", "grad_norm", "tokens_per_second"}
"""Drawn as a moving average over a thin line of the single steps."""


@dataclass(frozen=True)
class History:
    """A run's log: steps, and evaluations, in their order."""

    name: str
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    def series(self, panel: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values (m,) of a panel; empty where the log has none."""
        if panel == "tokens_per_second":
            pairs = [(e["step"], e["tokens"] / e["seconds"]) for e in self.steps if e.get("seconds") and "tokens" in e]
        else:
            pairs = [(e["step"], e[panel]) for e in (*self.steps, *self.evaluations) if e.get(panel) is not None]
        points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]


def read_history(folder: Path) -> History:
    """The log of a run folder.

    Raises:
        UserError: no log there, or one without a step.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{folder}: no log.jsonl in it, so it is not a run folder; give the --out of a training")
    entries = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entries.append(_read_entry(line))
            except ValueError as error:
                if not line.rstrip().endswith("}"):
                    continue  # cut off by a kill, and written again by the resumed run
                raise UserError(
                    f"{path}, line {number}: not a line of a run's log ({error}); leave this run out"
                ) from None
    steps = [entry for entry in entries if "loss" in entry]
    if not steps:
        raise UserError(f"{path}: no step was logged; leave this run out")
    return History(folder.resolve().name, steps, [entry for entry in entries if "validation_log_loss" in entry])


def _read_entry(line: str) -> dict[str, Any]:
    """One line of a run's log: an object of numbers.

    Raises:
        ValueError: something else.
    """
    entry = parse_json(line)
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int) or not 0 <= entry["step"] < 2**53:
        raise ValueError("no step, a whole number")
    entry = {name: value for name, value in entry.items() if value is not None}
    for name in (*PANELS, "tokens", "seconds"):
        value = entry.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
            raise ValueError(f"{name} is {value!r:.40}, and no number")
    return entry


def summarise(history: History) -> Run:
    """The figures of a run that the report states."""
    tail = history.steps[-max(1, len(history.steps) // 10) :]
    best = min(history.evaluations, key=lambda entry: entry["validation_log_loss"], default=None)
    seconds = sum(entry.get("seconds", 0.0) for entry in history.steps)
    return Run(
        name=history.name,
        steps=int(history.steps[-1]["step"]),
        loss=float(np.mean([entry["loss"] for entry in tail])),
        best_step=best["step"] if best else None,
        best_validation_log_loss=best["validation_log_loss"] if best else None,
        tokens_per_second=sum(entry.get("tokens", 0) for entry in history.steps) / seconds if seconds else 0.0,
    )


def make_plots(histories: Sequence[History], judges: Sequence[str] = ()) -> list[Plot]:
    """A plot for each panel that any of the runs has values for; a run of a judge's name has the judge's colour."""
    plots = []
    for panel, title in PANELS.items():
        ends = [(history.name, *history.series(panel)) for history in histories]
        ends = [(name, steps, values) for name, steps, values in ends if len(steps)]
        if not ends:
            continue
        described = "; ".join(f"{name} from {values[0]:.4g} to {values[-1]:.4g}" for name, _, values in ends)

        def draw(axes: Any, colours: Palette, panel: str = panel) -> None:
            draw_panel(axes, colours, panel, histories, judges)

        plots.append(
            Plot(
                f"curve-{panel.replace('_', '-')}",
                title,
                f"{title} over optimizer steps: {described}.",
                draw,
                width=NARROW,
            )
        )
    return plots


def draw_panel(
    axes: Any, colours: Palette, panel: str, histories: Sequence[History], judges: Sequence[str] = ()
) -> None:
    """Draw one panel of all runs into matplotlib axes; runs that are no judge's come after the judges' colours."""
    for i, history in enumerate(histories):
        steps, values = history.series(panel)
        if not len(steps):
            continue
        colour = colours.colour(judges.index(history.name) if history.name in judges else len(judges) + i)
        if panel in NOISY and len(values) >= 20:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
            width = max(3, len(values) // 25)
            values = _moving_average(values, width)
        marker = MARKERS[i % len(MARKERS)] if panel.startswith("validation") else None
        axes.plot(steps, values, color=colour, marker=marker, markersize=3.5, label=legend_name(history.name))
    axes.set_xlabel("optimizer step")
    axes.set_xlim(0, 1.02 * max(history.steps[-1]["step"] for history in histories))
    axes.xaxis.set_major_locator(few_ticks(4))
    if panel == "lr":
        axes.yaxis.set_major_locator(few_ticks(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2g}".replace("e-0", "e-") if value else "0")
    if panel == "tokens_per_second":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
    if len(histories) > 1:
        legend_above(axes, len(histories))


def plot_curves(histories: Sequence[History], path: Path) -> None:
    """All panels of the runs in one PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = palette("light")
    with rc_context(style(colours)):
        figure = Figure(figsize=(11, 5.8), dpi=DPI * 0.75)
        # Fixed margins: matplotlib's layout engine draws all texts once more, which took most of the time.
        figure.subplots_adjust(0.065, 0.16 if len(histories) > 1 else 0.1, 0.985, 0.94, wspace=0.28, hspace=0.45)
        for axes, (panel, title) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
            draw_panel(axes, colours, panel, histories)
            if axes.get_legend() is not None:
                axes.get_legend().remove()
            axes.set_title(title, color=colours.ink)
            if not axes.lines:
                axes.text(0.5, 0.5, "no validation rows", ha="center", transform=axes.transAxes, color=colours.soft)
        if len(histories) > 1:
            lines, names = figure.axes[0].get_legend_handles_labels()
            figure.legend(lines, names, loc="lower center", ncols=min(4, len(names)))
        with open_atomically(path) as file:
            figure.savefig(file, format="png", metadata={"Title": "Training curves", "Software": None})


def leave_curves(folder: Path) -> None:
    """Write curves.png into a run folder that is done; a run never fails for want of its picture.

    A single step makes no curve.
    """
    try:
        history = read_history(folder)
        if len(history.steps) == 1:
            return
        plot_curves([history], folder / NAME)
        log.info(f"curves: {folder / NAME}")
    except Exception as error:
        log.warning(
            f"no curves were drawn ({type(error).__name__}: {error}); `tiebreak report --runs {folder}` tries again"
        )


def _moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of up to `width` values around each, fewer at the ends."""
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")
