"""The curve of agreement against coverage: what a judge is worth that may abstain."""

from typing import Any

from tiebreak.evaluation.schema import Estimate, Report, Selective
from tiebreak.evaluation.wording import number, percent
from tiebreak.report.plots import Palette, Plot, legend_above, legend_name, percent_format

HEIGHT = 3.0


def agreement_at(selective: Selective, share: float) -> Estimate:
    """Agreement at the curve's point whose coverage is nearest to a share."""
    return min(selective.curve, key=lambda point: abs(point.coverage - share)).agreement


def coverage(report: Report) -> Plot:
    """Agreement with people among the rows decided, against their share, with a band for the interval."""
    judges = [(i, judge, judge.selective) for i, judge in enumerate(report.judges) if judge.selective]
    _, best, curve = min(judges, key=lambda entry: entry[2].aurc.value)
    half, whole = (percent(agreement_at(curve, share)) for share in (0.5, 1.0))
    title = f"On the half it is surest of, {best.name} agrees with people {half} of the time, {whole} on all"

    def draw(axes: Any, colours: Palette) -> None:
        for i, judge, selective in judges:
            points, colour = selective.curve, colours.colour(i)
            x = [point.coverage for point in points]
            axes.plot(x, [p.agreement.value for p in points], color=colour, label=legend_name(judge.name))
            low, high = ([getattr(p.agreement, end) for p in points] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(percent_format())
        axes.yaxis.set_major_formatter(percent_format())
        axes.set_xlabel("rows decided, the surest first")
        axes.set_ylabel("agreement with people")
        if len(judges) > 1:
            legend_above(axes, len(judges))

    described = "; ".join(f"{judge.name}: AURC {number(selective.aurc)}" for _, judge, selective in judges)
    alt = f"Agreement with people against the share of rows decided. {described}; {best.name} {half} at one half."
    return Plot("coverage", title, alt, draw, HEIGHT)
