"""Tables of predictions: submissions of others are read as they are, and what was made of them is said."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiebreak.data.predictions import COLUMNS, read_predictions, write_predictions
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES

HEADER = "id," + ",".join(CLASSES)
THIRDS = np.array([[1, 1, 1], [2, 1, 0], [1, 4, 1]]) / [[3], [3], [6]]


@pytest.fixture
def write(tmp_path, caplog):
    """Write a file by its lines; the messages of reading it are kept."""
    caplog.set_level(logging.INFO, logger="tiebreak")
    logging.getLogger("tiebreak").propagate = True

    def write(*lines, name="theirs.csv", ending="\n", encoding="utf-8"):
        (tmp_path / name).write_text("".join(line + ending for line in lines), encoding=encoding, newline="")
        return tmp_path / name

    return write


def test_columns_are_found_by_name_and_others_are_told(write, caplog):
    path = write("target, winner_tie,winner_model_b,id ,x,winner_model_a", "1,0.5,0.2,7,,0.3", "0,0,0,8,y,1")
    ids, probabilities = read_predictions(path)
    assert ids == ["7", "8"]
    np.testing.assert_allclose(probabilities, [[0.3, 0.2, 0.5], [1, 0, 0]])
    assert "2 columns ignored: target, x" in caplog.text and str(path) in caplog.text


def test_our_own_tables_are_read_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="tiebreak")
    write_predictions(tmp_path / "p.csv", ["a", "b", "c"], THIRDS)
    np.testing.assert_allclose(read_predictions(tmp_path / "p.csv")[1], THIRDS, atol=1e-9)
    assert caplog.text == ""


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_semicolons_tabs_and_decimal_commas(write, separator, ending):
    rows = (HEADER, "7,0.25,0.5,0.25", "8,1,0,0")
    plain = [row.replace(",", separator) for row in rows]
    for lines in (plain, [row.replace(".", ",") for row in plain]):
        ids, probabilities = read_predictions(write(*lines, ending=ending, encoding="utf-8-sig"))
        assert ids == ["7", "8"]
        np.testing.assert_array_equal(probabilities, [[0.25, 0.5, 0.25], [1, 0, 0]])


@pytest.mark.parametrize("decimals", [2, 3, 4])
def test_rounded_rows_are_scaled_to_sum_to_one_and_that_is_said(write, caplog, decimals):
    rows = [f"{number}," + ",".join(f"{value:.{decimals}f}" for value in row) for number, row in enumerate(THIRDS)]
    probabilities = read_predictions(write(HEADER, *rows))[1]
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_allclose(probabilities, THIRDS, atol=10.0**-decimals)
    assert "scaled to sum to one" in caplog.text and "2 rows" in caplog.text


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ("8,0.5,0.5,0.02", "8.*0.5, 0.5, 0.02 are not probabilities"),  # two decimals leave 0.015 open
        ("8,0.9,0.9,0.9", "are not probabilities"),
        ("8,1,1,0", "are not probabilities"),
        ("8,0.500,0.5,0.0021", "are not probabilities"),
        ("8,-0.1,0.6,0.5", "are not probabilities"),
        ("8,nan,0.5,0.5", "are not probabilities"),
        ("8,inf,0,0", "are not probabilities"),
        ("8,50,30,20", "are not probabilities"),
        ("8,50%,30%,20%", "row 2: not an id and three"),
        ("8,,0.5,0.5", "row 2: not an id and three"),
        ("8,0,5,0,5,0,0", "row 2: not an id and three.*7 fields, the header has 4"),
    ],
)
def test_what_is_no_probability_is_refused_all_the_same(write, row, fact):
    with pytest.raises(UserError, match=fact):
        read_predictions(write(HEADER, "7,0.25,0.5,0.25", row))


def test_a_table_of_percents_is_told_so(write):
    with pytest.raises(UserError, match="percent"):
        read_predictions(write(HEADER, "7,25,50,25", "8,33.3,33.3,33.3"))


@pytest.mark.parametrize(
    ("header", "fact"),
    [
        ("id,winner_model_a,winner_model_b", "lacks winner_tie"),
        ("id;winner_model_a;winner_model_b", "lacks winner_model_a, winner_model_b, winner_tie|lacks id"),
        (HEADER + ",id", "has id twice"),
        ("", "lacks id"),
    ],
)
def test_a_header_that_lacks_a_column_or_has_it_twice(write, header, fact):
    with pytest.raises(UserError, match=f"not a predictions file.*{fact}"):
        read_predictions(write(header, "7,1,0,0,0"))


def test_parquet_in_another_order_and_damaged(tmp_path):
    path = tmp_path / "p.parquet"
    columns = {"winner_tie": [0.0] * 5000, "fold": [1] * 5000, "winner_model_b": [0.0] * 5000}
    pq.write_table(pa.table(columns | {"winner_model_a": [1.0] * 5000, "id": list(range(5000))}), path)
    ids, probabilities = read_predictions(path)
    assert ids[:2] == ["0", "1"] and (probabilities[:, 0] == 1).all()
    content = bytearray(path.read_bytes())
    for place in range(4, len(content) // 2):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"p\.parquet"):
        read_predictions(path)


def test_parquet_is_read_in_pieces_and_no_more_of_it_than_predictions_need(tmp_path, monkeypatch):
    path, count = tmp_path / "p.parquet", 250
    monkeypatch.setattr("tiebreak.data.predictions.CHUNK", 100)
    third = [1 / 3] * count
    columns = {"id": list(range(count)), "winner_model_a": third, "winner_model_b": third, "winner_tie": third}
    pq.write_table(pa.table(columns | {"answers": [["x" * 9] * 2] * count}), path)
    read = []
    piece = pq.ParquetFile.iter_batches

    def watched(file, *words, **named):
        for batch in piece(file, *words, **named):
            read.append((len(batch), sorted(batch.schema.names)))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    ids, probabilities = read_predictions(path)
    assert ids == [str(n) for n in range(count)] and probabilities.shape == (count, 3)
    assert read == [(rows, sorted(COLUMNS)) for rows in (100, 100, 50)]


def test_parquet_that_unpacks_to_much_more_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    columns = {"id": ["a" * 9_000_000, "b"], **{name: [1 / 3] * 2 for name in CLASSES}}
    pq.write_table(pa.table(columns), path, compression="zstd")
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"p\.parquet: .*bytes of id in 2 rows"):
        read_predictions(path)
    monkeypatch.undo()
    again = {"id": ["same"] * 100_000, **{name: [1 / 3] * 100_000 for name in CLASSES}}
    pq.write_table(pa.table(again), path)
    with pytest.raises(UserError, match="row 2: the id same occurs twice"):
        read_predictions(path)


def test_a_cell_of_any_length(write):
    assert read_predictions(write(HEADER, f"{'7' * 200_000},1,0,0"))[0] == ["7" * 200_000]
