"""How figures are written on the page and in the terminal."""

from tiebreak.report.schema import Estimate

NAMES = {"prior": "class prior", "length": "answer length", "tfidf": "TF-IDF", "bayes": "Bayes"}
"""Of the baselines. Bayes is the law that the embedded sample's labels are drawn from."""
MINUS = "\u2212"


def number(value: Estimate | float | None, digits: int = 3) -> str:
    """`0.952`, with a true minus sign; a dash for what is undefined."""
    if value is None:
        return "–"
    plain = value.value if isinstance(value, Estimate) else value
    return f"{plain:.{digits}f}".replace("-", MINUS)


def percent(value: Estimate | float | None, digits: int = 0) -> str:
    if value is None:
        return "–"
    plain = value.value if isinstance(value, Estimate) else value
    return f"{100 * plain:.{digits}f}\u00a0%".replace("-", MINUS)  # never parted at a line's end


def points(value: float, digits: int = 1) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * value:.{digits}f}".replace("-", MINUS)


def span(value: Estimate | None, digits: int = 3, percents: bool = False) -> str:
    """The interval: `0.940 to 0.964`."""
    if value is None:
        return ""
    scale = 100 if percents else 1
    return f"{scale * value.low:.{digits}f} to {scale * value.high:.{digits}f}".replace("-", MINUS)
