"""Pairs from Python objects: the same as from a file, and what is wrong by position."""

import json

import numpy as np
import pytest
from handmade import good_row, write_csv

from tiebreak.errors import UserError
from tiebreak.labels import TIE
from tiebreak.tables.pairs import as_pairs
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import Table, read_table

TEXTS = {"prompt": "p", "response_a": "a", "response_b": "b"}


class Frame:
    """What of a pandas DataFrame is used; pandas itself is no dependency of this project."""

    iloc = None

    def __init__(self, rows):
        self.rows = rows

    def to_dict(self, orient):
        assert orient == "records"
        return self.rows

    def __iter__(self):
        return iter(self.rows[0])  # a DataFrame iterates over its column names


def test_dicts_tuples_and_pairs_become_pairs():
    given = Pair("mine", ["p"], ["a"], ["b"])
    one, two, three = as_pairs([TEXTS, ("p", ["a"], ("b",)), given])
    assert (one.id, one.prompt, one.response_a, one.response_b, one.label) == ("1", ["p"], ["a"], ["b"], None)
    assert (two.id, two.prompt, two.response_a, two.response_b) == ("2", ["p"], ["a"], ["b"])
    assert three is given
    assert as_pairs(iter([])) == []
    assert as_pairs(Table([given])) == [given]


def test_turns_may_be_lists_arrays_and_null():
    (pair,) = as_pairs([{"prompt": ("p", "q"), "response_a": np.array(["a", "b"]), "response_b": ["c", None]}])
    assert (pair.prompt, pair.response_a, pair.response_b) == (["p", "q"], ["a", "b"], ["c", ""])
    (pair,) = as_pairs([{"prompt": "p", "response_a": None, "response_b": []}])
    assert (pair.response_a, pair.response_b) == ([""], [""])


@pytest.mark.parametrize(
    ("extra", "label"),
    [
        ({"winner": "tie"}, TIE),
        ({"winner": None}, None),
        ({"winner_model_a": 0, "winner_model_b": np.int64(1), "winner_tie": 0.0}, 1),
        ({"winner_model_a": True, "winner_model_b": False, "winner_tie": False}, 0),
        ({"winner_model_a": float("nan"), "winner_model_b": float("nan"), "winner_tie": float("nan")}, None),
    ],
)
def test_labels_are_read(extra, label):
    assert as_pairs([TEXTS | {"id": 7, "model_a": "x", "other": object()} | extra])[0].label == label


def test_strings_that_look_like_json_stay_text_in_dicts():
    (pair,) = as_pairs([{"prompt": '["p"]', "response_a": '["a","b"]', "response_b": "[]"}])
    assert (pair.prompt, pair.response_a, pair.response_b) == (['["p"]'], ['["a","b"]'], ["[]"])


@pytest.mark.parametrize("kind", ["frame", "dataset"])
def test_tables_are_read_as_their_files_are(tmp_path, kind):
    """Kaggle's cells too: a DataFrame read from train.csv is that table."""
    raw = [good_row(1), good_row(2) | {"response_a": '["\\ud83d\\ude0a"]', "response_b": "[null]"}]
    expected = read_table([write_csv(tmp_path / "table.csv", *raw)]).pairs
    if kind == "dataset":
        from datasets import Dataset

        table = Dataset.from_list(raw)
    else:
        table = Frame(raw)
    for one, other in zip(as_pairs(table), expected, strict=True):
        assert (one.id, one.prompt, one.response_a, one.response_b) == (
            other.id, other.prompt, other.response_a, other.response_b,
        )  # fmt: skip
        assert (one.label, one.model_a) == (other.label, other.model_a)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([TEXTS, {"prompt": "p", "response_a": "a"}], r"pairs\[1\]: no response_b"),
        ([{"question": "q", "a": "a"}], r"pairs\[0\]: no prompt, response_a, response_b; what it has: question, a$"),
        (Frame([{"prompt": "p", "one": "a"}]), r"pairs\[0\]: no response_a, response_b; what it has: prompt, one"),
        ([{}], r"what it has: nothing"),
        ([("p", "a")], r"pairs\[0\]: 2 values"),
        (["text"], r"pairs\[0\]: a str instead"),
        ([TEXTS | {"response_a": 5}], r"pairs\[0\]: response_a is a int"),
        ([TEXTS | {"prompt": [{"role": "user"}]}], r"pairs\[0\]: prompt: a turn is"),
        ([TEXTS | {"prompt": ["p", "q"]}], r"pairs\[0\]: response_a has 1 turns, the prompt 2"),
        ([TEXTS, TEXTS | {"winner": "C"}], r"pairs\[1\]: winner is 'C'"),
        ([TEXTS | {"id": "x"}, TEXTS, TEXTS | {"id": "x"}], r"pairs\[2\]: its id x occurs already in pairs\[0\]"),
        (TEXTS, "pairs are a dict"),
        ("text", "pairs are a str"),
        (5, "pairs are of type int"),
    ],
)
def test_what_is_no_pair_is_named_by_position(objects, message):
    with pytest.raises(UserError, match=message):
        as_pairs(objects)


def test_a_row_in_memory_is_the_row_of_a_json_lines_file(tmp_path):
    row = {"id": "x", "prompt": ["a \ud800", None], "response_a": ["b", ""], "response_b": ["c", "d"], "winner": "tie"}
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (one,), (other,) = as_pairs([row]), read_table([path]).pairs
    assert (one.prompt, one.response_a, one.response_b, one.label) == (
        other.prompt, other.response_a, other.response_b, other.label,
    )  # fmt: skip
