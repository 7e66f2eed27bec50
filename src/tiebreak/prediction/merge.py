"""Parts -> one table of probabilities, in the input's order."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak import CLASSES
from tiebreak.data.plan import SWAPPED_CLASS
from tiebreak.data.predictions import ORDERS
from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.prediction.parts import part_path, read_part
from tiebreak.report.metrics import softmax

DIGITS = 9
PLAN = "prediction.json"


def merge(folder: Path) -> tuple[Path, int]:
    """Merge the parts below a prediction folder into `predictions.csv`; its path and row count.

    A prediction in both answer orders also leaves each order's own table (`ORDERS`), in the table's A and B.

    Raises:
        UserError: no prediction here, or blocks that are not done yet.
    """
    plan, ids, logits = read_parts(folder)
    orders = np.stack([softmax(order) for order in logits])
    if plan["swap"]:
        orders[1] = orders[1][:, SWAPPED_CLASS]
    for row in plan["unreadable"]:
        orders[:, row] = plan["class_shares"]
    for k, name in enumerate(ORDERS):
        if plan["swap"]:
            write_predictions(folder / name, ids, orders[k])
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier prediction here
    path = folder / "predictions.csv"
    write_predictions(path, ids, orders.mean(axis=0))
    return path, len(ids)


def read_parts(folder: Path) -> tuple[dict[str, Any], list[str], np.ndarray]:
    """A finished prediction's plan, ids (n), and logits (orders, n, 3): order B, A, if asked for, has B first.

    Raises:
        UserError: no prediction here, or blocks that are not done yet.
    """
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder}: no {PLAN}, so no prediction was begun here")
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    parts = folder / plan["parts"]
    absent = [block for block in range(plan["blocks"]) if not part_path(parts, block).is_file()]
    if absent:
        raise UserError(
            f"{folder}: {len(absent)} of {plan['blocks']} blocks are not done; run the same prediction again to finish"
        )
    logits = np.full((2 if plan["swap"] else 1, plan["rows"], 3), np.nan, dtype=np.float32)
    filled = np.zeros(plan["rows"], dtype=np.int64)
    for block in range(plan["blocks"]):
        part = read_part(part_path(parts, block))
        logits[0, part.rows] = part.logits
        if plan["swap"]:
            logits[1, part.rows] = part.swapped_logits
        np.add.at(filled, part.rows, 1)
    if (filled != 1).any():
        raise RuntimeError(f"{parts}: {(filled != 1).sum()} rows are missing or doubled over the blocks")
    ids = [json.loads(line) for line in (parts / "ids.txt").read_text(encoding="utf-8").splitlines()]
    return plan, ids, logits


def write_predictions(path: Path, ids: list[str], probabilities: np.ndarray) -> None:
    """A Kaggle submission: the decimals written for each row sum to exactly one."""
    units = np.rint(probabilities[:, :2] * 10**DIGITS).astype(np.int64)
    rest = 10**DIGITS - units.sum(1)
    units[:, 0] += np.minimum(rest, 0)  # both were rounded up and nothing is left for the tie
    columns = [*units.T, np.maximum(rest, 0)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", *CLASSES])
    for name, *values in zip(ids, *(column.tolist() for column in columns), strict=True):
        writer.writerow([name, *(f"{value // 10**DIGITS}.{value % 10**DIGITS:0{DIGITS}d}" for value in values)])
    write_atomically(path, buffer.getvalue())
