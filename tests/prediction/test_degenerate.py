"""Class shares of degenerate rows, from a labelled table or as given."""

import logging

import pytest

from tiebreak.errors import UserError
from tiebreak.prediction.degenerate import degenerate_outputs, fit_degenerate, parse_degenerate

A, B, TIED = ({name: int(name == won) for name in ("winner_model_a", "winner_model_b", "winner_tie")}
              for won in ("winner_model_a", "winner_model_b", "winner_tie"))  # fmt: skip
BROKEN = {"winner_model_a": "perhaps", "winner_model_b": "", "winner_tie": ""}
SAME = {"response_a": '["same"]', "response_b": '["same"]'}


@pytest.fixture(autouse=True)
def _messages(caplog):
    caplog.set_level(logging.INFO, logger="tiebreak")
    logging.getLogger("tiebreak").propagate = True


def test_rows_that_cannot_be_read_are_refused_or_counted(write_table, caplog):
    half = write_table(*[A | SAME] * 5, *[BROKEN | SAME] * 5)
    with pytest.raises(UserError, match=r"5 of 10 rows cannot be read.*row 6.*perhaps"):
        fit_degenerate(half)
    few = write_table(*[A, B, TIED] * 10, BROKEN, name="few.csv")
    assert fit_degenerate(few)["identical"] == pytest.approx([1 / 3] * 3)
    assert "1 row left out (1 unreadable" in caplog.text and "row 31" in caplog.text


@pytest.mark.parametrize(("rows", "least"), [([A, B], 2), ([TIED], 0), ([A], 2)])
def test_no_class_gets_a_probability_of_zero(write_table, caplog, rows, least):
    outputs = fit_degenerate(write_table(*rows * 20))
    for shares in outputs.values():
        assert sum(shares) == pytest.approx(1) and 0 < shares[least] < 0.1
    assert "one row of each class" in caplog.text


def test_given_probabilities_of_zero_are_said_to_cost_an_infinite_loss(caplog):
    assert degenerate_outputs([0.25, 0.25, 0.5])["empty"] == [0.25, 0.25, 0.5] and not caplog.text
    degenerate_outputs([0.0, 0.0, 1.0])
    assert "no finite log loss" in caplog.text


@pytest.mark.parametrize("text", ["0.5,0.5", "0.3,0.3,0.4,0", "a,b,c", ",,", "0.2 0.3 0.5"])
def test_what_is_neither_three_numbers_nor_a_file_is_told_as_such(text):
    with pytest.raises(UserError, match="give three probabilities"):
        parse_degenerate(text)
