"""Shared by the tests of the data: a cache of their own, demo tokenizers, tables written by hand."""

import csv
from pathlib import Path

import pytest

from tiebreak import CLASSES

HEADER = ("id", "model_a", "model_b", "prompt", "response_a", "response_b", *CLASSES)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("TIEBREAK_CACHE", str(folder))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield folder


@pytest.fixture
def write_table(tmp_path):
    """Write rows, each a dict of raw cells over the cells of a good row, as a Kaggle CSV."""

    def write(*rows: dict, name: str = "table.csv", columns=HEADER) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for number, row in enumerate(rows, 1):
                cells = good_row(number) | row
                writer.writerow([cells[column] for column in columns])
        return path

    return write


def good_row(number: int) -> dict:
    texts = {"prompt": f'["question {number}"]', "response_a": '["yes, it is"]', "response_b": '["no"]'}
    return {"id": number, "model_a": "one", "model_b": "two"} | texts | dict(zip(CLASSES, (1, 0, 0), strict=True))
