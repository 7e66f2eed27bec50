"""A finished prediction: its parts read and checked once, and the probabilities that they mean."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.data.prediction_manifest import PREDICTION_FILE, PredictionManifest, read_prediction_manifest
from tiebreak.data.predictions import CHUNK
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import softmax
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.plurals import plural
from tiebreak.prediction.parts import (
    BadPart,
    Failure,
    Part,
    ids_are_whole,
    ids_path,
    iter_ids,
    lacks_logits,
    part_path,
    read_part,
)

MAX_SHOWN = 10


class BadParts(UserError):
    """Parts that must be computed again.

    Attributes:
        reasons: why each file cannot be used.
    """

    def __init__(self, folder: Path, reasons: dict[Path, str]) -> None:
        self.reasons = reasons
        lines = [f"  {path.name}: {reason}" for path, reason in list(reasons.items())[:MAX_SHOWN]]
        more = [f"  ... and {len(reasons) - MAX_SHOWN} more"] if len(reasons) > MAX_SHOWN else []
        super().__init__(
            "\n".join([f"{folder}: {plural(len(reasons), 'part')} cannot be used:", *lines, *more])
            + "\nRun the same prediction again: it computes them anew"
        )


@dataclass(frozen=True)
class RowLogits:
    """The logits of a table's rows.

    Attributes:
        values: (orders, n, 3) float32, NaN where a row was not seen or failed; the second order has B first.
        failed: (n,) int8, codes of `Failure`.
        tokens: (2,) tokens run in either order.
        seconds: that the forward passes took.
    """

    values: np.ndarray
    failed: np.ndarray
    tokens: np.ndarray
    seconds: float


@dataclass(frozen=True)
class FinishedPrediction:
    """One model's prediction whose parts are all there, whole and of this prediction."""

    folder: Path
    manifest: PredictionManifest
    logits: RowLogits

    @property
    def without_logits(self) -> np.ndarray:
        """A mask (n,) of the rows that have no logits."""
        mask = lacks_logits(self.logits.failed)
        mask[self.manifest.unreadable] = True
        return mask

    def ids(self) -> Iterator[str]:
        """Yield the rows' ids in the table's order."""
        return iter_ids(self.folder / self.manifest.parts)

    def failures(self) -> dict[int, str]:
        """Return why rows have the class prior, or one order only, by row number."""
        failed = np.flatnonzero(self.logits.failed).tolist()
        return {row: Failure(self.logits.failed[row]).reason for row in failed} | self.manifest.reasons

    def iter_orders(self) -> Iterator[np.ndarray]:
        """Yield the probabilities (orders, m, 3) in the table's A and B, chunk by chunk."""
        manifest, without = self.manifest, self.without_logits
        degenerate = _degenerate_masks(manifest)
        for start in range(0, manifest.rows, CHUNK):
            chunk = slice(start, start + CHUNK)
            orders = order_probabilities(self.logits.values[:, chunk], without[chunk], manifest.class_shares)
            for kind, mask in degenerate.items():
                assert manifest.degenerate is not None
                orders[:, mask[chunk]] = manifest.degenerate.outputs[kind]
            yield orders


def _degenerate_masks(manifest: PredictionManifest) -> dict[str, np.ndarray]:
    masks = {}
    for kind, rows in (manifest.degenerate.rows if manifest.degenerate else {}).items():
        masks[kind] = np.zeros(manifest.rows, dtype=bool)
        masks[kind][rows] = True
    return masks


def order_probabilities(logits: np.ndarray, without: np.ndarray, prior: object) -> np.ndarray:
    """Turn logits into probabilities; a row's prediction is the mean over the orders.

    Args:
        logits: (orders, m, 3); the second order has B first, NaN for rows that were not seen in it.
        without: a mask (m,) of rows without logits; they get the prior.
        prior: three probabilities.

    Returns:
        (orders, m, 3) float64 in the table's A and B; a row not seen in the order B, A repeats the other.
    """
    orders = np.stack([softmax(order) for order in logits])
    if len(logits) == 2:
        seen = np.isfinite(logits[1]).all(1)
        orders[1] = np.where(seen[:, None], orders[1][:, SWAPPED_CLASS], orders[0])
    orders[:, without] = prior
    return orders


def gather(parts: Iterable[Part], rows: int, swap: bool) -> tuple[RowLogits, np.ndarray]:
    """Put parts together in the table's order; return the logits and how many parts (n,) hold each row."""
    values = np.full((2 if swap else 1, rows, 3), np.nan, dtype=np.float32)
    failed, times = np.zeros(rows, dtype=np.int8), np.zeros(rows, dtype=np.int8)
    tokens, seconds = np.zeros(2, dtype=np.int64), 0.0
    for part in parts:
        values[0, part.rows] = part.logits
        if swap:
            values[1, part.rows] = part.swapped_logits
        failed[part.rows] = part.failed
        tokens += part.tokens
        seconds += float(part.seconds.sum())
        times[part.rows] += 1
    return RowLogits(values, failed, tokens, seconds), times


def read_finished(folder: Path) -> FinishedPrediction:
    """Read a finished prediction of one model, each part checked.

    Raises:
        UserError: no prediction, an average of several, parts that are not done, or ids that are not the manifest's.
        BadParts: parts that are damaged or of another prediction.
    """
    manifest = read_prediction_manifest(folder)
    if not isinstance(manifest, PredictionManifest):
        names = ", ".join(str(folder / name) for name in manifest.models)
        raise UserError(
            f"{folder}: the average of several models, which has no logits; give those of its models: {names}"
        )
    parts = folder / manifest.parts
    files = [part_path(parts, index) for index in range(manifest.part_count)]
    if absent := sum(not path.is_file() for path in files):
        left = f"{absent:,} of {plural(len(files), 'part')} not done"
        raise UserError(f"{folder}: {left}; run the same prediction again")
    # Before memory is taken for them: a row's logits alone take 12 bytes.
    if manifest.rows * 12 > sum(path.stat().st_size for path in files):
        raise BadParts(folder, dict.fromkeys(files, f"too small for the {manifest.rows:,} rows of {PREDICTION_FILE}"))
    if not ids_are_whole(parts, manifest.ids):
        raise UserError(f"{ids_path(parts)}: absent or damaged; run the same prediction again")
    reasons: dict[Path, str] = {}
    logits, times = gather(_read_parts(files, manifest, reasons), manifest.rows, manifest.swap)
    if reasons:
        raise BadParts(folder, reasons)
    if wrong := int((times != 1).sum()):
        of = f"not every row once ({plural(wrong, 'row')} missing or doubled over the parts)"
        raise BadParts(folder, dict.fromkeys(files, of))
    return FinishedPrediction(folder, manifest, logits)


def _read_parts(files: list[Path], manifest: PredictionManifest, reasons: dict[Path, str]) -> Iterator[Part]:
    for path in files:
        try:
            part = read_part(path, manifest.provenance, manifest.rows)
            if len(part.swapped_logits) != (len(part.rows) if manifest.swap else 0):
                raise BadPart("not of the answer orders that were asked for")
            yield part
        except BadPart as error:
            reasons[path] = str(error)
