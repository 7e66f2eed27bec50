"""How plots look: one quiet style, in light and dark, narrow enough to be read on a phone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiebreak.evaluation.schema import Estimate
from tiebreak.files import open_atomically

DPI = 200
WIDTH, NARROW, HEIGHT = 4.2, 3.4, 2.6
"""Inches. At these widths 9 pt text is still read when the plot is as wide as a phone, or three stand in a row."""
THEMES = {
    "light": {"ink": "#22262b", "soft": "#6b7178", "line": "#dfe2e6", "paper": "#ffffff"},
    "dark": {"ink": "#e8eaed", "soft": "#9aa1a9", "line": "#343a41", "paper": "#1b1f24"},
}
SERIES = {
    "light": ["#2f6db3", "#cf6a1c", "#2f8f68", "#8159a8", "#bf4561", "#7c7226"],
    "dark": ["#6ea8e6", "#f0954d", "#5fc29a", "#b493d6", "#e97f96", "#c4b75c"],
}
MARKERS = "osD^vP"


@dataclass(frozen=True)
class Plot:
    """A plot to be drawn: its file name, a title that says what is seen, a text for those who cannot see it.

    `draw` gets matplotlib axes and the theme's colours (`Palette`).
    """

    name: str
    title: str
    alt: str
    draw: Callable[[Any, "Palette"], None]
    height: float = HEIGHT
    width: float = WIDTH


@dataclass(frozen=True)
class Palette:
    """The colours of a theme."""

    ink: str
    soft: str
    line: str
    paper: str
    series: list[str]

    def colour(self, index: int) -> str:
        """Return the colour of a judge by its place in the report."""
        return self.series[index % len(self.series)]


def palette(theme: str) -> Palette:
    """Return the colours of `light` or `dark`."""
    return Palette(**THEMES[theme], series=SERIES[theme])


def style(colours: Palette) -> Any:
    """Return matplotlib's settings of a theme, by their names."""
    return {
        "font.size": 9,
        "axes.labelsize": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.edgecolor": colours.line,
        "axes.labelcolor": colours.soft,
        "axes.facecolor": colours.paper,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colours.line,
        "grid.linewidth": 0.7,
        "figure.facecolor": colours.paper,
        "text.color": colours.ink,
        "xtick.color": colours.soft,
        "ytick.color": colours.soft,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "text.parse_math": False,  # names of judges and runs may hold dollars and braces
        "lines.linewidth": 1.6,
        "svg.fonttype": "none",
    }


def save(plot: Plot, folder: Path) -> None:
    """Write NAME.png and NAME-dark.png."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    for theme in THEMES:
        colours = palette(theme)
        with rc_context(style(colours)):
            figure = Figure(figsize=(plot.width, plot.height), dpi=DPI, layout="constrained")
            plot.draw(figure.add_subplot(), colours)
            suffix = "" if theme == "light" else f"-{theme}"
            about = {"Title": plot.title, "Description": plot.alt, "Software": None}
            with open_atomically(folder / f"{plot.name}{suffix}.png") as file:  # another report may write here too
                figure.savefig(file, format="png", metadata=about)


def forest(
    axes: Any,
    colours: Palette,
    labels: Sequence[str],
    groups: Sequence[tuple[str | None, Sequence[Estimate | None], str]],
    xlabel: str,
    zero: float | None = None,
    percent: bool = False,
) -> None:
    """Dots with intervals, a line for each label from top to bottom, groups side by side within it.

    Args:
        axes: to draw on.
        colours: of the theme.
        labels: of the lines, from the top.
        groups: (name for the legend or None, an estimate for each label, colour).
        xlabel: of the axis of values.
        zero: where to draw the line of no effect.
        percent: format the values as percentages.
    """
    spread = 0.62 / max(1, len(groups))
    for g, (name, estimates, colour) in enumerate(groups):
        shift = (g - (len(groups) - 1) / 2) * spread
        kept = [(line, e) for line, e in enumerate(estimates) if e is not None]
        axes.errorbar(
            [e.value for _, e in kept],
            [line + shift for line, _ in kept],
            xerr=bars([e for _, e in kept]),
            fmt=MARKERS[g % len(MARKERS)],
            color=colour,
            markersize=4.5,
            elinewidth=1.4,
            label=None if name is None else legend_name(name),
        )
    axes.set_yticks(range(len(labels)), [shorten(label, 34) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", labelcolor=colours.ink)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(xlabel)
    if zero is not None:
        axes.axvline(zero, color=colours.soft, linewidth=0.9)
    if percent:
        axes.xaxis.set_major_formatter(percent_format())
    axes.xaxis.set_major_locator(few_ticks())
    if len(groups) > 1:
        legend_above(axes, len(groups))


def dot(axes: Any, at: float, estimate: Estimate, colour: str, marker: str = "o") -> None:
    """One value with its interval on a line of a forest plot."""
    axes.errorbar(estimate.value, at, xerr=bars([estimate]), fmt=marker, color=colour, markersize=5, elinewidth=1.4)


def bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of error bars, never negative: rounding may put an end on the wrong side of its value."""
    return [[max(0.0, e.value - e.low) for e in estimates], [max(0.0, e.high - e.value) for e in estimates]]


def legend_above(axes: Any, entries: int) -> None:
    """A legend that never covers data, if several series need one."""
    if not axes.get_legend_handles_labels()[0]:
        return
    columns = 2 if entries > 3 else entries
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, handlelength=1.4, columnspacing=1.2, borderaxespad=0.2
    )


def legend_name(name: str) -> str:
    """The name as a legend shows it: matplotlib leaves out those that begin with an underscore."""
    return shorten(f" {name}" if name.startswith("_") else name)


def percent_format() -> Any:
    """Tick labels of shares as percentages."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{100 * value:.3g} %".replace("-", "−"))


def few_ticks(count: int = 5) -> Any:
    """At most `count` intervals between ticks, at round values."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10])


def shorten(text: str, most: int = 24) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
