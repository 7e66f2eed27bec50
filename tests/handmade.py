"""Small tables written by hand, for the tests."""

import csv
from pathlib import Path

from tiebreak.labels import CLASSES

HEADER = ("id", "model_a", "model_b", "prompt", "response_a", "response_b", *CLASSES)


def good_row(number: int) -> dict:
    texts = {"prompt": f'["question {number}"]', "response_a": '["yes, it is"]', "response_b": '["no"]'}
    return {"id": number, "model_a": "one", "model_b": "two"} | texts | dict(zip(CLASSES, (1, 0, 0), strict=True))


def write_csv(path: Path, *rows: dict, columns=HEADER) -> Path:
    """Write rows, each a dict of raw cells over the cells of a good row, as a Kaggle CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for number, row in enumerate(rows, 1):
            cells = good_row(number) | row
            writer.writerow([cells[column] for column in columns])
    return path
