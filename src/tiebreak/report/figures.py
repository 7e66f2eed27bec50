"""Which plots a report has, each with a title that says what is seen."""

from collections.abc import Sequence
from typing import Any

from tiebreak.evaluation.schema import Estimate, JudgeReport, Report
from tiebreak.evaluation.slices import LEAST_ROWS
from tiebreak.evaluation.wording import NAMES, number, percent, points
from tiebreak.report.coverage import coverage
from tiebreak.report.plots import (
    MARKERS,
    NARROW,
    Palette,
    Plot,
    bars,
    dot,
    few_ticks,
    forest,
    legend_above,
    legend_name,
    percent_format,
    shorten,
)
from tiebreak.report.words import AUTOJ_GPT4_CONSISTENCY, GPT4_CONSISTENCY

ROW, FRAME = 0.3, 1.1
"""Inches of a line of a forest plot, and of what is around the lines."""


def make_figures(report: Report) -> list[Plot]:
    """The plots of a report with at least one judge."""
    made = [scores(report), *(reliability(report, name) for name in ("A", "B", "tie")), position(report)]
    if any(judge.selective for judge in report.judges):
        made.append(coverage(report))
    judges = report.judges
    if any(s.rows >= LEAST_ROWS for s in judges[0].slices):
        made.append(slices(report))
    if any(judge.position.consistency for judge in judges):
        made.append(consistency(report))
    if any(judge.verbosity for judge in judges):
        made.append(verbosity(report))
    if any(judge.self_enhancement for judge in judges):
        made.append(families(report))
    if any(judge.repetition for judge in judges):
        made.append(repetition(report))
    if report.pairs:
        made.append(differences(report))
    return made


def best(report: Report) -> JudgeReport:
    """The judge of the lowest log loss."""
    return min(report.judges, key=lambda judge: judge.scores.log_loss.value)


def scores(report: Report) -> Plot:
    """Log loss of judges and baselines, best first."""
    judges = [(judge.name, judge.scores.log_loss, i) for i, judge in enumerate(report.judges)]
    rest = [(NAMES[name], entry.log_loss, None) for name, entry in report.baselines.items() if name != "bayes"]
    lines = sorted([*judges, *rest], key=lambda line: line[1].value)
    possible = report.baselines["bayes"].log_loss.value if "bayes" in report.baselines else None
    title = "Log loss of each judge"
    if rest:
        ahead = min(rest, key=lambda line: line[1].value)
        beats = [name for name, loss, _ in judges if loss.value < ahead[1].value]
        title = f"{best(report).name} beats every baseline" if beats else f"No judge beats {ahead[0]}"
        if len(beats) == len(judges) > 1:
            title = "Every judge beats every baseline"

    def draw(axes: Any, colours: Palette) -> None:
        for at, (_, loss, index) in enumerate(lines):
            colour, marker = (colours.soft, "D") if index is None else (colours.colour(index), "o")
            dot(axes, at, loss, colour, marker)
        label = "log loss (lower is better" + (")" if possible is None else "; line: best possible)")
        forest(axes, colours, [name for name, _, _ in lines], [], label, zero=possible)

    described = "; ".join(f"{name} {number(loss)}" for name, loss, _ in lines)
    described += "" if possible is None else f"; best possible {number(possible)}"
    return Plot(
        "log-loss", title, f"Log loss with 95 % intervals, best first: {described}.", draw, FRAME + ROW * len(lines)
    )


def reliability(report: Report, name: str) -> Plot:
    """Predicted probability of a class against its observed share."""
    first = best(report)
    bins = first.calibration.reliability[name]
    top = bins[-1]
    what = {"A": "A wins", "B": "B wins", "tie": "it is a tie"}[name]
    title = f"Where {first.name} says {percent(top.predicted)}, {what} {percent(top.observed)} of the time"

    def draw(axes: Any, colours: Palette) -> None:
        every = [b for judge in report.judges for b in judge.calibration.reliability[name]]
        low = max(0.0, min(min(b.predicted, b.low) for b in every) - 0.03)
        high = min(1.0, max(max(b.predicted, b.high) for b in every) + 0.03)
        axes.plot([low, high], [low, high], color=colours.soft, linewidth=0.9, linestyle=(0, (4, 3)))
        for i, judge in enumerate(report.judges):
            bins_of_judge = judge.calibration.reliability[name]
            x = [b.predicted for b in bins_of_judge]
            y = [b.observed for b in bins_of_judge]
            if len(report.judges) < 3:
                shares = [Estimate(value=b.observed, low=b.low, high=b.high) for b in bins_of_judge]
                colour = colours.colour(i)
                axes.errorbar(x, y, yerr=bars(shares), fmt="none", ecolor=colour, elinewidth=0.9, alpha=0.55)
            axes.plot(
                x, y, color=colours.colour(i), marker=MARKERS[i % 6], markersize=3.5, linewidth=1.2,
                label=legend_name(judge.name),
            )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.xaxis.set_major_locator(few_ticks())
        axes.yaxis.set_major_locator(few_ticks())
        axes.xaxis.set_major_formatter(percent_format())
        axes.yaxis.set_major_formatter(percent_format())
        axes.set_xlabel(f"predicted probability of {name if name == 'tie' else f'{name} wins'}")
        axes.set_ylabel("share observed")
        if len(report.judges) > 1:
            legend_above(axes, len(report.judges))

    described = "; ".join(f"{percent(b.predicted)} gave {percent(b.observed)}" for b in bins)
    alt = f"Reliability diagram of class {name}, predicted against observed share. {first.name}: {described}."
    return Plot(f"reliability-{name.lower()}", title, alt, draw, 3.2, NARROW)


def slices(report: Report) -> Plot:
    """Log loss of each judge on each slice."""
    names = [(s.by, s.name) for s in report.judges[0].slices if s.rows >= LEAST_ROWS]
    of_judge = {judge.name: {(s.by, s.name): s for s in judge.slices} for judge in report.judges}
    shown = {key: name if by != "answers" else f"answers {name}" for key in names for by, name in [key]}
    of_best = of_judge[best(report).name]
    hardest = max(names, key=lambda key: of_best[key].log_loss.value, default=None)
    title = f"No kind of row stands out as hard for {best(report).name}"
    if hardest and of_best[hardest].log_loss.low > best(report).scores.log_loss.value:
        title = f"Hardest for {best(report).name}: {shown[hardest]}, log loss {number(of_best[hardest].log_loss)}"

    def draw(axes: Any, colours: Palette) -> None:
        groups = [
            (
                judge.name,
                [of_judge[judge.name][key].log_loss if key in of_judge[judge.name] else None for key in names],
                colours.colour(i),
            )
            for i, judge in enumerate(report.judges)
        ]
        overall = best(report).scores.log_loss.value
        forest(axes, colours, list(shown.values()), groups, "log loss (line: overall)", zero=overall)

    described = "; ".join(
        f"{by} {name}: {number(of_best[by, name].log_loss)}" for by, name in names if (by, name) in of_best
    )
    height = FRAME + 0.25 + max(ROW, 0.085 * len(report.judges)) * len(names)
    return Plot("slices", title, f"Log loss by slice. {best(report).name}: {described}.", draw, height)


def position(report: Report) -> Plot:
    """First-place preference of each judge, beside people's."""
    judges = report.judges
    swayed = [judge for judge in judges if not _holds(judge.position.first_preference, 0.0)]
    most = max(judges, key=lambda judge: abs(judge.position.first_preference.value))
    if swayed:
        value = most.position.first_preference
        side = "first" if value.value > 0 else "second"
        title = f"{most.name} leans to the answer shown {side}, by {points(abs(value.value))} points"
    else:
        title = "No judge leans to the first or the second answer"
    lines = [
        *((judge.name, judge.position.first_preference) for judge in judges),
        ("humans", judges[0].position.humans),
    ]
    return _lines("position", title, "P(first wins) − P(second wins)", report, lines, zero=0.0, percents=True)


def consistency(report: Report) -> Plot:
    """Share of verdicts that stay when the answers are swapped."""
    lines = [(judge.name, judge.position.consistency) for judge in report.judges if judge.position.consistency]
    least = min(lines, key=lambda line: line[1].value)
    title = f"Swapping the answers leaves {percent(least[1])} of {least[0]}'s verdicts as they were"

    def draw(axes: Any, colours: Palette) -> None:
        order = {judge.name: i for i, judge in enumerate(report.judges)}
        for at, (name, value) in enumerate(lines):
            assert value is not None
            dot(axes, at, value, colours.colour(order[name]))
        forest(axes, colours, [name for name, _ in lines], [], "same verdict in both orders", percent=True)
        axes.set_xlim(right=1.0)
        shares = {"GPT-4,\nMT-bench": GPT4_CONSISTENCY, "GPT-4,\nAuto-J": AUTOJ_GPT4_CONSISTENCY}
        for text, share in shares.items() if "bayes" not in report.baselines else ():
            axes.axvline(share, color=colours.soft, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                text, (share, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                color=colours.soft, fontsize=7.5, ha="center",
            )  # fmt: skip

    described = "; ".join(f"{name} {percent(value)}" for name, value in lines)
    return Plot(
        "consistency", title, f"Verdicts that stay when the answers are swapped: {described}.", draw,
        FRAME + 0.3 + ROW * len(lines),
    )  # fmt: skip


def verbosity(report: Report) -> Plot:
    """Preference for the longer answer by length ratio."""
    judges = [(i, judge, judge.verbosity) for i, judge in enumerate(report.judges) if judge.verbosity]
    _, worst, audit = max(judges, key=lambda entry: abs(entry[2].excess.value))
    people = audit.humans
    if _holds(audit.excess, 0.0):
        title = f"People prefer the longer answer {percent(people)} of the time, and so do the judges"
    else:
        judged = percent(audit.prefers_longer)
        title = f"People prefer the longer answer {percent(people)} of the time, {worst.name} {judged}"

    def draw(axes: Any, colours: Palette) -> None:
        marks = [f"{b.longer_by:g}–{b.up_to:g}×" if b.up_to else f"over {b.longer_by:g}×" for b in audit.bins]
        place = {b.longer_by: at for at, b in enumerate(audit.bins)}
        series = [("humans", [(b.longer_by, b.humans) for b in audit.bins], colours.ink)]
        for i, judge, judged_audit in judges:
            assert judged_audit is not None
            points_ = [(b.longer_by, b.judge) for b in judged_audit.bins if b.longer_by in place]
            series.append((shorten(judge.name), points_, colours.colour(i)))
        for s, (name, values, colour) in enumerate(series):
            shift = (s - (len(series) - 1) / 2) * 0.1
            x, y = [place[b] + shift for b, _ in values], [e.value for _, e in values]
            line = {"linewidth": 1.2, "elinewidth": 1, "linestyle": (0, (4, 3)) if s == 0 else "-"}
            look = {"color": colour, "marker": MARKERS[s % 6], "markersize": 4, "label": name}
            axes.errorbar(x, y, yerr=bars([e for _, e in values]), **line, **look)
        axes.axhline(0.5, color=colours.soft, linewidth=0.9)
        axes.set_xticks(range(len(marks)), marks)
        axes.yaxis.set_major_formatter(percent_format())
        axes.set_xlabel("the longer answer is longer by")
        axes.set_ylabel("longer preferred, if any")
        legend_above(axes, len(series))

    described = "; ".join(
        f"from {b.longer_by:g} times: humans {percent(b.humans)}, {worst.name} {percent(b.judge)}" for b in audit.bins
    )
    return Plot("verbosity", title, f"Preference for the longer answer by length ratio: {described}.", draw, 3.3)


def families(report: Report) -> Plot:
    """Win rates of model families by the judges, less those by people."""
    judges = [(i, judge, judge.self_enhancement) for i, judge in enumerate(report.judges) if judge.self_enhancement]
    names = [entry.family for entry in judges[0][2].families]
    own = next(((j, a) for _, j, a in judges if a and a.own_excess), None)
    if own and own[1] and own[1].own_excess:
        value, name = own[1].own_excess, own[1].judge_family
        swayed = "as people do" if _holds(value, 0.0) else f"{points(value.value)} points from people's votes"
        title = f"{own[0].name} judges its own family ({name}) {swayed}"
    else:
        title = "Which families each judge rates above or below people's votes"

    def draw(axes: Any, colours: Palette) -> None:
        groups = []
        for i, judge, audit in judges:
            assert audit is not None
            excess = {entry.family: entry.excess for entry in audit.families}
            groups.append((shorten(judge.name), [excess.get(name) for name in names], colours.colour(i)))
        forest(axes, colours, names, groups, "win rate by the judge − by people", zero=0.0, percent=True)

    audit = judges[0][2]
    assert audit is not None
    described = "; ".join(f"{entry.family} {points(entry.excess.value)}" for entry in audit.families)
    alt = f"Win rate of each model family by the judge minus by people, in points. {judges[0][1].name}: {described}."
    height = FRAME + 0.25 + max(ROW, 0.085 * len(judges)) * len(names)
    return Plot("families", title, alt, draw, height)


def repetition(report: Report) -> Plot:
    """What a doubled answer gains."""
    lines = [(judge.name, judge.repetition.win_gain) for judge in report.judges if judge.repetition]
    name, most = max(lines, key=lambda line: abs(line[1].value))
    if _holds(most, 0.0):
        title = "Saying everything twice gains nothing"
    else:
        verb = "gains" if most.value > 0 else "costs"
        title = f"Saying everything twice {verb} {points(abs(most.value))} points with {name}"
    return _lines("repetition", title, "change of P(win) of the doubled answer", report, lines, zero=0.0, percents=True)


def differences(report: Report) -> Plot:
    """Paired differences in log loss between judges."""
    differing = [pair for pair in report.pairs if not _holds(pair.log_loss, 0.0)]
    title = f"{len(differing)} of {len(report.pairs)} pairs of judges differ beyond chance"
    if len(report.pairs) == 1:
        pair = report.pairs[0]
        better, other = (pair.first, pair.second) if pair.log_loss.value < 0 else (pair.second, pair.first)
        title = (
            f"{better} is better than {other}" if differing else f"{pair.first} and {pair.second} cannot be told apart"
        )
    several = len(report.pairs) > 1
    most = 14 if several else 22
    lines = [(f"{shorten(p.first, most)} − {shorten(p.second, most)}", p.log_loss) for p in report.pairs]

    def draw(axes: Any, colours: Palette) -> None:
        groups = [(None, [e for _, e in lines], colours.ink)]
        labels = [name if several else name.replace(" − ", "\n− ") for name, _ in lines]
        forest(axes, colours, labels, groups, "difference in log loss (left: first is better)", zero=0.0)

    alt = "; ".join(f"{p.first} minus {p.second}: {number(p.log_loss)}" for p in report.pairs)
    return Plot("differences", title, f"Paired differences in log loss: {alt}.", draw, FRAME + ROW * len(lines))


def _lines(
    name: str,
    title: str,
    label: str,
    report: Report,
    lines: Sequence[tuple[str, Estimate]],
    zero: float | None,
    percents: bool,
) -> Plot:
    """A forest with a line for each judge, in its colour."""
    order = {judge.name: i for i, judge in enumerate(report.judges)}

    def draw(axes: Any, colours: Palette) -> None:
        for at, (who, e) in enumerate(lines):
            colour, marker = (colours.colour(order[who]), "o") if who in order else (colours.ink, "D")
            dot(axes, at, e, colour, marker)
        forest(axes, colours, [who for who, _ in lines], [], label, zero=zero, percent=percents)

    described = "; ".join(f"{who} {points(e.value)}" for who, e in lines)
    return Plot(name, title, f"{label}, in points with 95 % intervals: {described}.", draw, FRAME + ROW * len(lines))


def _holds(value: Estimate, point: float) -> bool:
    """Whether the interval holds the point."""
    return value.low <= point <= value.high
