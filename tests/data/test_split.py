"""What a run says of its rows before it begins."""

import logging
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from tiebreak.config import load_recipe
from tiebreak.data import split
from tiebreak.errors import UserError


@pytest.fixture
def of_labels(monkeypatch, caplog):
    """Split rows of these labels; what is logged."""
    caplog.set_level(logging.INFO, logger="tiebreak")
    logging.getLogger("tiebreak").propagate = True

    class Rows(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.labels)

    def read(*labels: int) -> str:
        table = Rows(labels=np.array(labels), groups=np.arange(len(labels)), key="x", problems=[])
        monkeypatch.setattr(split, "prepare", lambda *files, **settings: table)
        split.read_split(load_recipe("demo-deberta"), None, data=["t.csv"])
        return caplog.text

    return read


@pytest.mark.parametrize(
    ("labels", "fact"), [([0, 1] * 15, "no ties"), ([0] * 30, "no rows that B wins, no ties"), ([0, 1, 2] * 10, None)]
)
def test_a_training_repeats_which_classes_are_absent(of_labels, labels, fact):
    told = of_labels(*labels)
    assert ("hardly predict any" in told) == (fact is not None)
    assert fact is None or f"warning: {fact}" in told


def test_a_class_of_few_rows_is_no_warning_of_a_library(of_labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_labels(*[0, 1] * 15, 2)


def test_too_few_prompts_to_hold_some_out_is_told_with_what_to_do(of_labels):
    with pytest.raises(UserError, match=r"no tenth .* 10 folds need at least 10 .*; the table has 2. .* --valid none"):
        of_labels(0, 1)
