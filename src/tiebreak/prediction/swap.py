"""Which rows are seen in the other answer order too. Nothing here imports torch."""

from dataclasses import dataclass

import numpy as np

from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import softmax


@dataclass(frozen=True)
class SwapPolicy:
    """Which rows are seen in the order B, A too, and get the mean of both.

    Attributes:
        enabled: whether any row is.
        margin: if given, only rows whose two likeliest classes are less than this probability apart in the order A, B.
    """

    enabled: bool = False
    margin: float | None = None

    def choose(self, logits: np.ndarray) -> np.ndarray:
        """Return a mask (n,) of the rows to see again, by their logits (n, 3) in the order A, B."""
        if not self.enabled or self.margin is None:
            return np.full(len(logits), self.enabled)
        top = np.sort(softmax(logits), axis=1)
        return np.asarray(top[:, 2] - top[:, 1] < self.margin)


def parse_swap(text: str | None) -> SwapPolicy:
    """Parse `--swap`: nothing, `always` or `adaptive:MARGIN`.

    Raises:
        UserError: anything else, or a margin outside 0 to 1.
    """
    if text is None or text == "always":
        return SwapPolicy(text is not None)
    kind, _, margin = text.partition(":")
    try:
        if kind == "adaptive" and 0 < float(margin) <= 1:
            return SwapPolicy(True, float(margin))
    except ValueError:
        pass
    raise UserError(f"--swap {text}: write --swap alone, or adaptive:MARGIN with a margin above 0 and up to 1")
