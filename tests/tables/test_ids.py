"""A table without ids: its rows' numbers are the ids, in every layout and wherever the table is read."""

import json
import logging
from collections import Counter

import pytest
from handmade import HEADER, good_row, write_csv
from test_layouts import FORMATS, MANY, write_lines

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.evaluation.inputs import read_labelled
from tiebreak.tables.containers import open_rows
from tiebreak.tables.layouts import find_layout
from tiebreak.tables.pairs import as_pairs
from tiebreak.tables.rows import Problem
from tiebreak.tables.table import read_labels, read_rows, read_table

WITHOUT = tuple(name for name in HEADER if name != "id")
SAID = "without ids: the rows' numbers, from 1, are the ids"


def written(name, count=3):
    """Rows of a layout, without their ids."""
    write, turns, _ = FORMATS[name]
    talk = (["q", "and?"], ["yes", "sure"], ["no", "never"])
    rows = [write(n, *(part if turns is MANY else part[:1] for part in talk), n % 2) for n in range(count)]
    return [{key: value for key, value in row.items() if key not in ("id", "question_id")} for row in rows]


@pytest.mark.parametrize("name", FORMATS)
def test_rows_without_ids_are_numbered_in_every_layout(name, tmp_path, caplog):
    path = write_lines(tmp_path / "t.jsonl", written(name))
    with caplog.at_level(logging.INFO, "tiebreak"):
        assert [pair.id for pair in read_table([path], keep_ids=True).pairs] == ["1", "2", "3"]
    assert sum(SAID in line for line in caplog.messages) == 1
    assert list(read_labels(path)) == ["1", "2", "3"]
    labelled = read_labelled(path)
    assert labelled.ids == ["1", "2", "3"] and labelled.pairs is not None


@pytest.mark.parametrize("name", FORMATS)
def test_ids_are_kept_in_every_layout(name, tmp_path, caplog):
    path = write_lines(tmp_path / "t.jsonl", [row | {"id": f"x{n}"} for n, row in enumerate(written(name))])
    with caplog.at_level(logging.INFO, "tiebreak"):
        assert [pair.id for pair in read_table([path]).pairs] == ["x0", "x1", "x2"]
    assert SAID not in caplog.text
    assert list(read_labels(path)) == ["x0", "x1", "x2"]


def test_public_tables_have_ids_of_their_own_names(tmp_path):
    arena = write_lines(tmp_path / "a.jsonl", [row | {"question_id": "q"} for row in written("arena33k", 1)])
    bench = write_lines(tmp_path / "b.jsonl", [row | {"pair_id": "p"} for row in written("judgebench", 1)])
    rounds = write_lines(tmp_path / "c.jsonl", [row | {"question_id": 81} for row in written("mt-bench", 2)])
    assert [list(read_labels(path)) for path in (arena, bench, rounds)] == [["q"], ["p"], ["1", "2"]]


def test_a_number_is_that_of_the_row_whatever_is_left_out(tmp_path):
    """Bad rows count, so what was predicted with them is scored without them."""
    bad = {"prompt": "no array"}
    path = write_csv(tmp_path / "t.csv", good_row(1), bad, good_row(3), columns=WITHOUT)
    assert [pair.id for pair in read_table([path], "skip").pairs] == ["1", "3"]
    assert [pair.id for pair in read_table([path], "keep", keep_ids=True).pairs] == ["1", "2", "3"]
    assert list(read_labels(path)) == ["1", "2", "3"]
    assert read_labelled(path, "skip").ids == ["1", "3"]


def test_a_row_that_is_no_row_keeps_its_number_in_a_prediction(tmp_path):
    path = write_csv(tmp_path / "t.csv", good_row(1), good_row(2), columns=WITHOUT)
    path.write_text(path.read_text() + "too,few\n")
    kept = read_table([path], "keep", keep_ids=True)
    assert [pair.id for pair in kept.pairs] == ["1", "2", "3"]
    assert kept.pairs[2].unreadable is not None and "2 fields" in kept.pairs[2].unreadable


def test_what_is_trained_on_predicted_and_scored_has_the_same_ids(tmp_path):
    """In memory as in files, and in tables that are converted."""
    rows = [good_row(n) for n in range(1, 5)]
    path = write_csv(tmp_path / "t.csv", *rows, columns=WITHOUT)
    ids = [pair.id for pair in read_table([path], need_labels=True).pairs]
    objects = [{name: json.loads(row[name]) for name in ("prompt", "response_a", "response_b")} for row in rows]
    assert ids == [pair.id for pair in as_pairs(objects)] == ["1", "2", "3", "4"]
    assert main(["convert", str(path), "--out", str(tmp_path / "o.csv")]) == 0
    assert [pair.id for pair in read_table([tmp_path / "o.csv"]).pairs] == ids
    assert main(["attack", "--data", str(path), "--out", str(tmp_path / "attacked.csv")]) == 0
    assert [pair.id for pair in read_table([tmp_path / "attacked.csv"]).pairs] == ids


def test_several_tables_without_ids_are_renamed_in_training_and_told_in_prediction(tmp_path):
    files = [write_csv(tmp_path / name, good_row(1), good_row(2), columns=WITHOUT) for name in ("a.csv", "b.csv")]
    assert [pair.id for pair in read_table(files).pairs] == ["1", "2", "b.csv:1", "b.csv:2"]
    with pytest.raises(UserError, match=r"b\.csv, row 1 \(id 1\): .* or predict the tables one by one"):
        read_table(files, "keep", keep_ids=True)


def test_a_row_with_an_id_among_rows_without_is_told(tmp_path):
    rows = [{name: good_row(n)[name] for name in ("prompt", "response_a", "response_b")} for n in range(120)]
    rows[110]["id"] = "mine"
    found = list(read_rows(write_lines(tmp_path / "t.jsonl", rows), Counter()))
    told = [row for row in found if isinstance(row, Problem)]
    assert [problem.row for problem in told] == [111] and "has an id" in told[0].reason


@pytest.mark.parametrize("column", ["ID", "Id"])
def test_ids_under_another_spelling_are_not_replaced(tmp_path, column):
    path = write_csv(tmp_path / "t.csv", {column: 7}, columns=(column, *WITHOUT[2:]))
    with pytest.raises(UserError, match=f"ids are read from the column id, and here it is {column}: rename it"):
        read_table([path])


def test_labels_alone_need_ids(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("winner\nmodel_a\n")
    assert find_layout(open_rows(path)[0]) is None
    with pytest.raises(UserError, match="labels need the columns id and"):
        read_labels(path)
