"""How figures are written: in the terminal, on the report's page, in the model card and in a notebook."""

from tiebreak.evaluation.schema import Estimate

NAMES = {"prior": "class prior", "length": "answer length", "tfidf": "TF-IDF", "bayes": "Bayes"}
"""The baselines' names for people. Bayes is the law that the embedded sample's labels are drawn from."""
MINUS, DASH = "\u2212", "\u2013"


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


def _format(value: Estimate | float | None, digits: int, scale: float = 1, sign: str = "") -> str:
    if value is None:
        return DASH
    plain = scale * (value.value if isinstance(value, Estimate) else value)
    text = f"{plain:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS) + sign
