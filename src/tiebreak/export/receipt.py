"""What an export costs: log loss and verdicts before and after, on rows that the judge was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from tiebreak.data.encode import prompt_group
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import grouped_error, row_losses, softmax
from tiebreak.manifests import Manifest, Section
from tiebreak.plurals import plural
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import OnBadRow, read_table

VERSION = 1


class Receipt(Section):
    """Log loss and verdicts of a judge and of its export, on the same rows."""

    tables: list[str]
    """Files of the rows."""
    rows: int
    rows_trained: int
    """Rows of the tables left out, as the judge was trained on their prompts."""
    log_loss_before: float
    """Nats, of the judge in fp32."""
    log_loss_after: float
    difference: float
    """Of both, after less before."""
    difference_se: float
    """Standard error of the difference, by prompt group."""
    agreement: float
    """Share of rows with the same likeliest class."""
    agreement_se: float
    largest_change: float
    """Of a logit."""
    tolerance: float
    least_agreement: float

    def __str__(self) -> str:
        return (
            f"log loss before {self.log_loss_before:.5f}, after {self.log_loss_after:.5f}\n"
            f"{plural(self.rows, 'row')}: log loss {self.difference:+.5f} ± {self.difference_se:.5f}, "
            f"{self.agreement:.2%} ± {self.agreement_se:.2%} of the verdicts the same, "
            f"a logit changed by {self.largest_change:.2g} at most"
        )

    def check(self) -> None:
        """Raise UserError if the export is not the judge."""
        if abs(self.difference) <= self.tolerance and self.agreement >= self.least_agreement:
            return
        raise UserError(
            f"{self}\nthe export is refused: at most {self.tolerance:g} nat and at least {self.least_agreement:.4g} of "
            "the verdicts were asked for. Nothing was written; --tolerance and --agreement say what you accept"
        )


class ExportManifest(Manifest):
    """What `export.json` of an exported folder says."""

    form: str
    """`onnx`, `int8`, `merged`, `vllm` or `tei`."""
    source: str
    """The model folder."""
    fingerprint: str
    """Of it."""
    temperature: float = 1.0
    """That the logits are divided by, inside."""
    alone: bool = False
    """Whether rows must run alone for their logits not to depend on others."""
    special_tokens: list[str] = Field(default_factory=list)
    """That users' texts must not forge."""
    special_ids: list[int] = Field(default_factory=list)
    receipt: Receipt | None = None


@dataclass(frozen=True)
class HeldOut:
    """Labelled rows that a judge was not trained on.

    Attributes:
        pairs: n of them. labels: (n,). groups: (n,), equal for equal prompts.
        tables: their files. trained: rows left out.
    """

    pairs: list[Pair]
    labels: np.ndarray
    groups: np.ndarray
    tables: list[str]
    trained: int


def read_held_out(files: Sequence[Path], trained: np.ndarray | None, most: int, on_bad_row: OnBadRow) -> HeldOut:
    """Read labelled rows, without those whose prompts a judge was trained on, at most so many, drawn with a fixed seed.

    Args:
        files: labelled tables.
        trained: hashes of the prompts; None where there is no record.
        most: rows to take.
        on_bad_row: `fail` or `skip`.

    Raises:
        UserError: no row is left.
    """
    pairs = read_table(files, on_bad_row, need_labels=True).pairs
    groups = np.array([prompt_group(pair.prompt) for pair in pairs], dtype=np.int64)
    free = np.flatnonzero(~np.isin(groups, [] if trained is None else trained))
    if not len(free):
        raise UserError(f"{', '.join(map(str, files))}: the judge was trained on all its prompts: give other --data")
    rows = np.sort(np.random.default_rng(0).permutation(free)[:most])
    chosen = [pairs[row] for row in rows]
    labels = np.array([pair.label for pair in chosen])
    return HeldOut(chosen, labels, groups[rows], [str(path) for path in files], len(pairs) - len(free))


def compare_logits(
    held_out: HeldOut, before: np.ndarray, after: np.ndarray, tolerance: float, least_agreement: float
) -> Receipt:
    """Write the receipt of logits (n, 3) before and after an export."""
    one, other = softmax(before), softmax(after)
    losses = [row_losses(each, held_out.labels) for each in (one, other)]
    same = (one.argmax(1) == other.argmax(1)).astype(np.float64)
    difference = losses[1] - losses[0]
    return Receipt(
        tables=held_out.tables,
        rows=len(held_out.pairs),
        rows_trained=held_out.trained,
        log_loss_before=float(losses[0].mean()),
        log_loss_after=float(losses[1].mean()),
        difference=float(difference.mean()),
        difference_se=grouped_error(difference, held_out.groups),
        agreement=float(same.mean()),
        agreement_se=grouped_error(same, held_out.groups),
        largest_change=float(np.abs(after - before).max()),
        tolerance=tolerance,
        least_agreement=least_agreement,
    )
