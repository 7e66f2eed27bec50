"""Parts -> one table of probabilities, in the input's order; several models' tables -> their average."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.data.predictions import CHUNK, FORMATS, ORDERS, in_chunks, write_predictions, write_table
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import softmax
from tiebreak.files import sha256, write_atomically
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.prediction.parts import FAILURES, IDS_FILE, LAST_HAS_SOME, BadPart, iter_ids, part_path, read_part
from tiebreak.prediction.special import describe

PLAN, FAILED = "prediction.json", "failed.csv"
SHOWN = 10

Say = Callable[[str], None]


class BadParts(UserError):
    """Parts that must be computed again; `found` tells why each."""

    def __init__(self, folder: Path, found: dict[Path, str]) -> None:
        self.found = found
        lines = [f"  {path.name}: {reason}" for path, reason in list(found.items())[:SHOWN]]
        more = [f"  ... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        super().__init__(
            "\n".join([f"{folder}: {len(found)} parts cannot be used:", *lines, *more])
            + "\nRun the same prediction again: it computes them anew"
        )


@dataclass(frozen=True)
class Logits:
    """A finished prediction: logits (orders, n, 3) float32, NaN where a row was not seen or failed; the order B, A,
    if asked for, has B first. failed: (n,) codes of FAILURES. tokens: (2,) run in either order; seconds: it took."""

    plan: dict[str, Any]
    values: np.ndarray
    failed: np.ndarray
    tokens: np.ndarray
    seconds: float


def merge(folder: Path, say: Say = lambda text: None, form: str = "kaggle") -> tuple[Path, int]:
    """Merge the parts below a prediction folder into one table; its path and row count.

    A prediction in both answer orders also leaves each order's own table (`ORDERS`), in the table's A and B.

    Raises:
        UserError: no prediction here, or blocks that are not done yet.
        BadParts: parts that are damaged or of another prediction.
    """
    plan = read_plan(folder)
    if "models" in plan:
        return average(folder, say, form)
    found = read_logits(folder)
    parts, rows = folder / plan["parts"], plan["rows"]
    path = folder / FORMATS[form]
    write_table(path, _chunks(parts, probabilities(found)), form)
    for k, name in enumerate(ORDERS):
        if plan["swap"] and plan["adaptive"] is None:
            write_table(folder / name, _chunks(parts, (orders[k] for orders in in_orders(found))))
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier prediction here
    tell_failed(folder, found, say)
    if plan["special"] is not None:
        say(describe(plan["special"]))
    if plan["adaptive"] is not None:
        tell_cost(found, say)
    return path, rows


def average(folder: Path, say: Say = lambda text: None, form: str = "kaggle") -> tuple[Path, int]:
    """Merge each of several models' predictions in the folders below, and average their probabilities.

    Raises:
        UserError: as `merge`, or models that predicted other rows.
    """
    plan = read_plan(folder)
    total, ids_of = None, None
    for name in plan["models"]:
        merge(folder / name, partial(_say_of, name, say))
        found = read_logits(folder / name)
        if found.plan["seal"]["table"] != plan["table"]:
            raise UserError(f"{folder / name}: not of the rows that {folder} is of; predict again into an empty --out")
        both = found.plan["swap"] and found.plan["adaptive"] is None
        kept = 2 if both else 1
        if total is None:
            total, ids_of = np.zeros((kept, plan["rows"], 3)), folder / name / found.plan["parts"]
        start = 0
        for orders in in_orders(found):
            values = orders if both else orders.mean(0, keepdims=True)
            total[:, start : start + CHUNK] += values
            start += CHUNK
    assert total is not None and ids_of is not None
    total /= len(plan["models"])
    path = folder / FORMATS[form]
    mean = (total[:, start : start + CHUNK].mean(0) for start in range(0, plan["rows"], CHUNK))
    write_table(path, _chunks(ids_of, mean), form)
    for k, name in enumerate(ORDERS):
        if len(total) == 2:
            write_predictions(folder / name, iter_ids(ids_of), total[k])
        else:
            (folder / name).unlink(missing_ok=True)
    return path, plan["rows"]


def read_plan(folder: Path) -> dict[str, Any]:
    """What prediction.json says.

    Raises:
        UserError: no prediction here, or one of an earlier version.
    """
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder}: no {PLAN}, so no prediction was begun here")
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if plan.keys() & {"models", "seal"}:
            return plan
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{folder / PLAN}: damaged, or of an earlier version; predict again")


def read_logits(folder: Path) -> Logits:
    """What a finished prediction's parts hold, each checked.

    Raises:
        UserError: blocks that are not done yet, or ids that are not those of the plan.
        BadParts: parts that are damaged or of another prediction.
    """
    plan = read_plan(folder)
    if "models" in plan:
        names = ", ".join(str(folder / name) for name in plan["models"])
        raise UserError(f"{folder}: the average of several models, which has no logits; each model's are in {names}")
    parts, rows = folder / plan["parts"], plan["rows"]
    absent = sum(not part_path(parts, index).is_file() for index in range(plan["part_count"]))
    if absent:
        raise UserError(
            f"{folder}: {absent} of {plan['part_count']} parts are not done; run the same prediction again to finish"
        )
    ids = parts / IDS_FILE
    if not ids.is_file() or ("ids" in plan and sha256(ids) != plan["ids"]):  # earlier ones kept no hash
        raise UserError(f"{ids}: absent or damaged; run the same prediction again")
    logits = np.full((2 if plan["swap"] else 1, rows, 3), np.nan, dtype=np.float32)
    failed, filled = np.zeros(rows, dtype=np.int8), np.zeros(rows, dtype=np.int8)
    tokens, seconds = np.zeros(2, dtype=np.int64), 0.0
    bad: dict[Path, str] = {}
    for index in range(plan["part_count"]):
        path = part_path(parts, index)
        try:
            part = read_part(path, plan["seal"])
        except BadPart as error:
            bad[path] = str(error)
            continue
        logits[0, part.rows] = part.logits
        if plan["swap"]:
            logits[1, part.rows] = part.swapped_logits
        failed[part.rows] = part.failed
        tokens += part.tokens
        seconds += float(part.seconds.sum())
        filled[part.rows] += 1
    if bad:
        raise BadParts(folder, bad)
    if (filled != 1).any():
        raise RuntimeError(f"{parts}: {(filled != 1).sum()} rows are missing or doubled over the parts")
    return Logits(plan, logits, failed, tokens, seconds)


def rows_per_second(folder: Path) -> float:
    """Of a finished prediction by one process, all its models and orders counted, loading and merging not.

    Raises:
        UserError: as `read_logits`.
    """
    plan = read_plan(folder)
    found = [read_logits(folder / name) for name in plan.get("models", ["."])]
    return plan["rows"] / max(sum(one.seconds for one in found), 1e-9)


def read_parts(folder: Path) -> tuple[dict[str, Any], list[str], np.ndarray]:
    """A finished prediction's plan, ids (n), and logits (orders, n, 3), for those who need every logit.

    Rows without logits are among the plan's `unreadable`; the order B, A is NaN where it was not seen.

    Raises:
        UserError: as `read_logits`.
    """
    found = read_logits(folder)
    without = np.flatnonzero((found.failed > 0) & (found.failed != LAST_HAS_SOME)).tolist()
    plan = found.plan | {"unreadable": sorted({*found.plan["unreadable"], *without})}
    return plan, list(iter_ids(folder / plan["parts"])), found.values


def probabilities(found: Logits) -> Iterator[np.ndarray]:
    """The rows' probabilities (m, 3), chunk by chunk: the mean over the orders in which a row was seen."""
    return (orders.mean(axis=0) for orders in in_orders(found))


def in_orders(found: Logits) -> Iterator[np.ndarray]:
    """Each order's probabilities (orders, m, 3) in the table's A and B, chunk by chunk.

    A row not seen in the order B, A repeats the other, one without logits has the prior, a special one its output.
    """
    plan, rows = found.plan, found.plan["rows"]
    without = (found.failed > 0) & (found.failed != LAST_HAS_SOME)
    without[plan["unreadable"]] = True
    special = {}
    for kind, members in (plan["special"] or {"rows": {}})["rows"].items():
        special[kind] = np.zeros(rows, dtype=bool)
        special[kind][members] = True
    for start in range(0, rows, CHUNK):
        logits = found.values[:, start : start + CHUNK]
        orders = np.stack([softmax(order) for order in logits])
        if plan["swap"]:
            seen = np.isfinite(logits[1]).all(1)
            orders[1] = np.where(seen[:, None], orders[1][:, SWAPPED_CLASS], orders[0])
        orders[:, without[start : start + CHUNK]] = plan["class_shares"]
        for kind, members in special.items():
            orders[:, members[start : start + CHUNK]] = plan["special"]["outputs"][kind]
        yield orders


def tell_failed(folder: Path, found: Logits, say: Say) -> None:
    """Name the rows that got the class prior, or one order only, in failed.csv."""
    reasons = {int(row): reason for row, reason in found.plan["reasons"].items()}
    reasons |= {row: FAILURES[found.failed[row]] for row in np.flatnonzero(found.failed).tolist() if row not in reasons}
    path = folder / FAILED
    if not reasons:
        path.unlink(missing_ok=True)
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "reason"])
    shown = []
    for row, name in enumerate(iter_ids(folder / found.plan["parts"])):
        if row in reasons:
            writer.writerow([name, reasons[row]])
            shown.append(f"  id {name}: {reasons[row]}")
    write_atomically(path, buffer.getvalue())
    say(f"{len(reasons):,} rows failed and got the class prior, where nothing else is said ({path}):")
    for line in shown[:SHOWN]:
        say(line)
    if len(shown) > SHOWN:
        say(f"  ... and {len(shown) - SHOWN:,} more")


def tell_cost(found: Logits, say: Say) -> None:
    """What the second view of close rows cost, and what it changed."""
    start = seen = changed = 0
    moved = 0.0
    for orders in in_orders(found):
        twice = np.isfinite(found.values[1, start : start + CHUNK]).all(1)
        first, mean = orders[0][twice], orders.mean(0)[twice]
        seen += int(twice.sum())
        moved += float(np.abs(mean - first).sum())
        changed += int((mean.argmax(1) != first.argmax(1)).sum())
        start += CHUNK
    rows, cost = found.plan["rows"], 1 + found.tokens[1] / max(1, found.tokens[0])
    text = f"swap adaptive:{found.plan['adaptive']:g}: {seen:,} of {rows:,} rows seen in both orders, "
    text += f"{cost:.2f} times the tokens of one order (2 for all rows)"
    if seen:
        text += f"; their probabilities moved by {moved / (3 * seen):.4f} on average, {changed:,} verdicts changed"
    say(text)


def _say_of(name: str, say: Say, text: str) -> None:
    say(f"{name}: {text}")


def _chunks(parts: Path, values: Iterator[np.ndarray]) -> Iterator[tuple[list[str], np.ndarray]]:
    """The ids that go with consecutive chunks of probabilities."""
    ids = iter_ids(parts)
    for chunk in values:
        yield from in_chunks([next(ids) for _ in range(len(chunk))], chunk)
