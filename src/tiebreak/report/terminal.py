"""The report's figures as text for the terminal."""

from tiebreak.evaluation.schema import Report
from tiebreak.report.words import NAMES, number, percent, points, span

COLUMNS = ("log loss", "95 % interval", "accuracy", "macro F1", "Brier")


def render_scores(report: Report) -> str:
    """Two short tables: scores beside the baselines, and calibration with what sways each judge."""
    if not report.judges:
        return ""
    entries = [(judge.name, judge.scores) for judge in report.judges]
    entries += [(NAMES[name], entry) for name, entry in report.baselines.items()]
    wide = max(12, *(len(name) for name, _ in entries)) + 2
    lines = [f"{report.rows:,} rows, {report.prompts:,} prompts"]
    lines.append(" " * wide + "".join(f"{name:>{_width(name)}}" for name in COLUMNS))
    for name, entry in entries:
        cells = [number(entry.log_loss, 4), span(entry.log_loss, 4), percent(entry.accuracy, 1)]
        cells += [number(entry.macro_f1), number(entry.brier)]
        lines.append(f"{name:{wide}}" + "".join(f"{c:>{_width(n)}}" for c, n in zip(cells, COLUMNS, strict=True)))
    heads = ("ECE", "temperature", "first-place", "same swapped", "longer", "repetition", "own family")
    lines += ["", " " * wide + "".join(f"{name:>14}" for name in heads)]
    for judge in report.judges:
        verbosity, own = judge.verbosity, judge.self_enhancement and judge.self_enhancement.own_excess
        cells = [
            number(judge.calibration.ece),
            number(judge.calibration.temperature, 2),
            points(judge.position.first_preference.value),
            percent(judge.position.consistency, 1),
            points(verbosity.excess.value) if verbosity else "–",
            points(judge.repetition.win_gain.value) if judge.repetition else "–",
            points(own.value) if own else "–",
        ]
        lines.append(f"{judge.name:{wide}}" + "".join(f"{cell:>14}" for cell in cells))
    lines.append("first-place, repetition: points of P(win); longer, own family: points beyond people; – not measured")
    return "\n".join(lines)


def _width(name: str) -> int:
    return 20 if name == "95 % interval" else 11
