"""The leaderboard as one self-contained page with its plots."""

from pathlib import Path
from typing import Any

from tiebreak.decisions.standings import Board
from tiebreak.evaluation.schema import Estimate
from tiebreak.evaluation.wording import number, percent, points, span
from tiebreak.files import write_atomically
from tiebreak.report.page import embed, fill_template
from tiebreak.report.plots import SERIES, Palette, Plot, forest, save

ROW, FRAME, SHOWN = 0.24, 1.1, 60
"""Inches of a line and of what is around the lines, and the most lines of a plot."""


def write_leaderboard_page(out: Path, board: Board) -> None:
    """Write index.html, and its plots into plots/."""
    plots = {"ratings": _ratings(board)} | ({"effects": _effects(board)} if board.effects else {})
    for plot in plots.values():
        save(plot, out / "plots")
    values: dict[str, Any] = {
        "board": board,
        "title": title(board),
        "lede": board.lede(),
        "figures": {name: embed(plot, out / "plots") for name, plot in plots.items()},
        "any_judge": board.standings[0].by_judge is not None,
        "series": SERIES,
        "number": number,
        "percent": percent,
        "span": span,
    }
    write_atomically(out / "index.html", fill_template("leaderboard.html.j2", values))


def title(board: Board) -> str:
    """The one thing to take away."""
    first, *others = board.standings
    level = [other.model for other in others if other.rank == 1]
    if not level:
        return f"{first.model} leads"
    if len(level) > 2:
        return f"{first.model} and {len(level)} others cannot be told apart at the top"
    return f"{', '.join([first.model, *level[:-1]])} and {level[-1]} cannot be told apart at the top"


def _ratings(board: Board) -> Plot:
    shown = board.standings[:SHOWN]
    lines = [(s.model, s.rating) for s in shown]
    cut = f", the first {SHOWN} of {len(board.standings)}" if len(board.standings) > SHOWN else ""
    described = "; ".join(f"{name} {number(rating, 0)}" for name, rating in lines)
    return _plot("ratings", f"Ratings with 95 % intervals{cut}", f"Ratings: {described}.", lines, "rating")


def _effects(board: Board) -> Plot:
    lines = [(effect.name, effect.points) for effect in board.effects]
    most = max(board.effects, key=lambda effect: abs(effect.points.value))
    heading = f"{most.name} moves the choice most, by {points(most.points.value / 100, 0)} points"
    described = "; ".join(f"{name} {number(value, 1)}" for name, value in lines)
    return _plot("effects", heading, f"Effects in points of rating: {described}.", lines, "points of rating", 0.0)


def _plot(
    name: str, heading: str, alt: str, lines: list[tuple[str, Estimate]], label: str, zero: float | None = None
) -> Plot:
    def draw(axes: Any, colours: Palette) -> None:
        groups = [(None, [estimate for _, estimate in lines], colours.colour(0))]
        forest(axes, colours, [line for line, _ in lines], groups, label, zero=zero)

    return Plot(name, heading, alt, draw, FRAME + ROW * len(lines))
