"""Merge parts into one table of probabilities, in the input's order; several models' tables into their average."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from tiebreak.data.prediction_manifest import (
    AverageManifest,
    PredictionManifest,
    read_merge_manifest,
    read_prediction_manifest,
)
from tiebreak.data.predictions import FORMATS, ORDERS, TableFormat, Writer, in_chunks, table_writer
from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.plurals import plural
from tiebreak.prediction.degenerate import describe_degenerate
from tiebreak.prediction.finished import MAX_SHOWN, FinishedPrediction, read_finished
from tiebreak.prediction.parts import Failure

FAILED_FILE = "failed.csv"


@dataclass
class AdaptiveCost:
    """Counts what `--swap adaptive` changed, over the rows seen in both orders."""

    rows: int = 0
    moved: float = 0.0
    verdicts_changed: int = 0

    def add(self, orders: np.ndarray, mean: np.ndarray, swapped_logits: np.ndarray) -> None:
        """Count a chunk: probabilities (2, m, 3) and their mean, logits (m, 3) of the order B, A."""
        twice = np.isfinite(swapped_logits).all(1)
        first, both = orders[0][twice], mean[twice]
        self.rows += int(twice.sum())
        self.moved += float(np.abs(both - first).sum())
        self.verdicts_changed += int((both.argmax(1) != first.argmax(1)).sum())

    def describe(self, margin: float, rows: int, tokens: np.ndarray) -> str:
        """Return the message, of a table of `rows` rows with tokens (2,) run in either order."""
        text = f"swap adaptive:{margin:g}: {self.rows:,} of {rows:,} rows seen in both orders, "
        text += f"{1 + tokens[1] / max(1, tokens[0]):.2f} times the tokens of one order (2 for all rows)"
        if self.rows:
            text += f"; their probabilities moved by {self.moved / (3 * self.rows):.4f} on average"
            text += f", {self.verdicts_changed:,} verdicts changed"
        return text


@dataclass(frozen=True)
class MergedPrediction:
    """A merged table.

    Attributes:
        path: of the table. rows: of it.
        probabilities: (n, 3) float64 before rounding, in the table's order; None unless asked for.
        seconds: that the forward passes took, all models and orders.
        failed: rows that have the class prior, or one answer order only.
        notes: messages about them, degenerate rows and the cost of adaptive swapping.
    """

    path: Path
    rows: int
    probabilities: np.ndarray | None
    seconds: float
    failed: int
    notes: list[str]


def merge(folder: Path | str, format: TableFormat = "kaggle", *, keep_probabilities: bool = False) -> MergedPrediction:
    """Merge the parts below a prediction's folder into one table.

    A prediction in both answer orders also gets a table of each order (`ORDERS`), in the input's A and B.

    Args:
        folder: the `out` of a prediction, of one model or of several.
        format: of the table: `kaggle`, `parquet` or `wsdm`.
        keep_probabilities: return the probabilities too, 24 bytes a row.

    Raises:
        UserError: no prediction here, parts that are not done yet, or models that predicted different rows.
        BadParts: parts that are damaged or of another prediction.
    """
    folder = Path(folder)
    manifest = read_prediction_manifest(folder)
    if isinstance(manifest, AverageManifest):
        return _merge_average(folder, manifest, format)
    kept = np.empty((manifest.rows, 3)) if keep_probabilities else None

    def keep(start: int, orders: np.ndarray) -> None:
        if kept is not None:
            kept[start : start + orders.shape[1]] = orders.mean(0)

    return _merge_model(read_finished(folder), format, keep, kept)


def refuse_nothing(finished: FinishedPrediction) -> None:
    """Raise UserError if every row that could be read has logits that are not finite: the fault is the model's."""
    failed = np.delete(finished.logits.failed, finished.manifest.unreadable)
    if len(failed) and (failed == Failure.NOT_FINITE).all():
        which = f"{finished.folder}: the logits of {finished.manifest.model} are finite for none of"
        what = "its weights are damaged; copy the model folder again, or train again"
        raise UserError(f"{which} {plural(len(failed), 'row')}: {what}")


def _merge_model(
    finished: FinishedPrediction,
    format: TableFormat,
    take: Callable[[int, np.ndarray], None],
    kept: np.ndarray | None = None,
) -> MergedPrediction:
    """Write one model's tables; every chunk of orders' probabilities goes through softmax once.

    Args:
        finished: the prediction.
        format: of its table.
        take: gets the first row and the probabilities (orders, m, 3) of each chunk.
        kept: probabilities (n, 3) for the result, filled by `take`.
    """
    folder, manifest, values = finished.folder, finished.manifest, finished.logits.values
    refuse_nothing(finished)
    ids, cost, start = finished.ids(), AdaptiveCost(), 0
    with _tables(folder, format, manifest.both_orders) as (path, write):
        for orders in finished.iter_orders():
            mean, stop = orders.mean(axis=0), start + orders.shape[1]
            write(list(islice(ids, stop - start)), mean, orders)
            take(start, orders)
            if manifest.adaptive is not None:
                cost.add(orders, mean, values[1, start:stop])
            start = stop
    failures = finished.failures()
    notes = write_failures(finished, failures)
    if manifest.degenerate is not None:
        notes.append(describe_degenerate(manifest.degenerate))
    if manifest.adaptive is not None:
        notes.append(cost.describe(manifest.adaptive, manifest.rows, finished.logits.tokens))
    return MergedPrediction(path, manifest.rows, kept, finished.logits.seconds, len(failures), notes)


def _merge_average(folder: Path, manifest: AverageManifest, format: TableFormat) -> MergedPrediction:
    """Merge each model's prediction in the folders below, and average their probabilities."""
    total = np.zeros((2 if manifest.swap and manifest.adaptive is None else 1, manifest.rows, 3))
    ids_of: FinishedPrediction | None = None
    notes: list[str] = []
    seconds, failed = 0.0, 0

    def add(start: int, orders: np.ndarray) -> None:
        total[:, start : start + orders.shape[1]] += orders if len(total) == 2 else orders.mean(0, keepdims=True)

    for name in manifest.models:
        finished = read_finished(folder / name)
        if finished.manifest.table != manifest.table:
            raise UserError(f"{folder / name}: predicts other rows than {folder}; predict again into an empty --out")
        merged = _merge_model(finished, "kaggle", add)
        notes += [f"{name}: {note}" for note in merged.notes]
        seconds, failed = seconds + merged.seconds, failed + merged.failed
        ids_of = ids_of or finished
    assert ids_of is not None
    total /= len(manifest.models)
    mean = total.mean(axis=0)
    ids = ids_of.ids()
    with _tables(folder, format, len(total) == 2) as (path, write):
        start = 0
        for chunk_ids, chunk in in_chunks(ids, mean):
            write(chunk_ids, chunk, total[:, start : start + len(chunk)])
            start += len(chunk)
    return MergedPrediction(path, manifest.rows, mean, seconds, failed, notes)


@contextmanager
def _tables(folder: Path, format: TableFormat, both_orders: bool) -> Iterator[tuple[Path, Callable[..., None]]]:
    """Open the table, and those of each order if asked for; yield its path and a function that writes rows to all."""
    path = folder / FORMATS[format]
    with ExitStack() as stack:
        writers: list[Writer] = []
        for name in ORDERS:
            if both_orders:
                writers.append(stack.enter_context(table_writer(folder / name)))
            else:
                (folder / name).unlink(missing_ok=True)  # of an earlier prediction here
        write_mean = stack.enter_context(table_writer(path, format))

        def write(ids: list[str], mean: np.ndarray, orders: Sequence[np.ndarray]) -> None:
            write_mean(ids, mean)
            for writer, order in zip(writers, orders, strict=False):
                writer(ids, order)

        yield path, write


def forward_seconds(folder: Path | str) -> float:
    """Return the seconds of a prediction's forward passes, all models and orders added up, loading not counted.

    Raises:
        UserError: no finished prediction.
    """
    folder = Path(folder)
    try:
        if (seconds := read_merge_manifest(folder).seconds) is not None:
            return seconds
    except (FileNotFoundError, UserError):
        pass  # not merged by a prediction, or by an earlier version
    manifest = read_prediction_manifest(folder)
    folders = [folder] if isinstance(manifest, PredictionManifest) else [folder / name for name in manifest.models]
    return sum(read_finished(one).logits.seconds for one in folders)


def rows_per_second(folder: Path | str) -> float:
    """Return the rows per second of a finished prediction by one process, all its models and orders counted.

    Raises:
        UserError: no finished prediction.
    """
    return read_prediction_manifest(Path(folder)).rows / max(forward_seconds(folder), 1e-9)


def write_failures(finished: FinishedPrediction, failures: dict[int, str]) -> list[str]:
    """Name the failed rows in failed.csv, which is removed if there are none; return messages that show some."""
    path = finished.folder / FAILED_FILE
    if not failures:
        path.unlink(missing_ok=True)
        return []
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "reason"])
    shown = []
    for row, row_id in enumerate(finished.ids()):
        if row in failures:
            writer.writerow([row_id, failures[row]])
            shown.append(f"  id {row_id}: {failures[row]}")
    write_atomically(path, buffer.getvalue())
    more = [f"  ... and {len(shown) - MAX_SHOWN:,} more"] if len(shown) > MAX_SHOWN else []
    heading = f"{plural(len(failures), 'row')} failed and got the class prior, unless stated otherwise ({path}):"
    return [heading, *shown[:MAX_SHOWN], *more]
