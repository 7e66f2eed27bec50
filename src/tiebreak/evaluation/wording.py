"""How figures are written: in the terminal, on the report's page, in the model card and in a notebook."""

from tiebreak.evaluation.metrics import inside_search
from tiebreak.evaluation.schema import Estimate, Report
from tiebreak.plurals import plural

NAMES = {"prior": "class prior", "length": "answer length", "tfidf": "TF-IDF", "numbers": "TF-IDF + numbers"}
NAMES |= {"boosted": "boosted trees", "bayes": "Bayes"}
"""The baselines' names for people. Bayes is the law that the embedded sample's labels are drawn from."""
COLUMNS = ("log loss", "95 % interval", "accuracy", "macro F1", "Brier")
"""Of the table of judges."""
MINUS, DASH, AT_LEAST, AT_MOST = "\u2212", "\u2013", "\u2265", "\u2264"


def number(value: Estimate | float | None, digits: int = 3) -> str:
    """`0.952`, with a true minus sign; a dash for what is undefined."""
    return _format(value, digits)


def percent(value: Estimate | float | None, digits: int = 0) -> str:
    """A share as `60.9 %`, with a space that does not break."""
    return _format(value, digits, 100, "\u00a0%")


def points(value: Estimate | float, digits: int = 1) -> str:
    """A difference of shares in percentage points."""
    return _format(value, digits, 100)


def span(value: Estimate | None, digits: int = 3, percents: bool = False) -> str:
    """The interval: `0.940 to 0.964`."""
    if value is None:
        return ""
    low, high = (_format(end, digits, 100 if percents else 1) for end in (value.low, value.high))
    return f"{low} to {high}"


def degrees(temperature: Estimate | None) -> str:
    """A best temperature as `1.08`; where its search ended at a limit, `≥ 20.00`: that is no measurement."""
    shown = number(temperature, 2)
    if temperature is None or inside_search(temperature.value):
        return shown
    return f"{AT_LEAST if temperature.value > 1 else AT_MOST} {shown}"


def _format(value: Estimate | float | None, digits: int, scale: float = 1, sign: str = "") -> str:
    if value is None:
        return DASH
    plain = scale * (value.value if isinstance(value, Estimate) else value)
    text = f"{plain:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS) + sign


def render_scores(report: Report) -> str:
    """Two short tables: scores beside the baselines, and calibration with what sways each judge."""
    if not report.judges:
        return ""
    entries = [(judge.name, judge.scores) for judge in report.judges]
    entries += [(NAMES[name], entry) for name, entry in report.baselines.items()]
    wide = max(12, *(len(name) for name, _ in entries)) + 2
    lines = [f"{plural(report.rows, 'row')}, {plural(report.prompts, 'prompt')}"]
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
            degrees(judge.calibration.temperature),
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
