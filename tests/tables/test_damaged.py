"""Tables that are damaged, hostile or huge are one sentence; what only looks so is read."""

import gzip
import io
import json
import time
import zipfile
from collections import Counter

import pytest
from handmade import good_row, write_csv

from tiebreak.errors import UserError
from tiebreak.tables import containers, first_bytes
from tiebreak.tables.containers import open_rows
from tiebreak.tables.conversations import read_conversation
from tiebreak.tables.table import read_table

ROWS = [{key: str(value) for key, value in good_row(n).items()} for n in range(3)]
TEXT = json.dumps(ROWS)


def archive(method=zipfile.ZIP_DEFLATED, encrypted=False, changed=False):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("t.json", TEXT * 9)
    data = bytearray(buffer.getvalue())
    directory = data.rindex(b"PK\x01\x02")
    if encrypted:
        data[6] |= 1
        data[directory + 8] |= 1
    if method == zipfile.ZIP_STORED:
        data[8] = data[directory + 10] = 99
    if changed:
        data[60:64] = b"????"
    return bytes(data)


@pytest.mark.parametrize(
    "content",
    [archive(encrypted=True), archive(changed=True), archive(zipfile.ZIP_STORED), gzip.compress(TEXT.encode())[:60]],
    ids=["encrypted", "changed", "another method", "cut"],
)
def test_an_archive_that_cannot_be_opened_is_told(tmp_path, content):
    (tmp_path / "t.json.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"t\.json\.zip: (a damaged|broken).*fetch it again"):
        read_table(tmp_path / "t.json.zip")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_a_line_without_an_end_takes_no_more_memory_than_the_bound(tmp_path, name, monkeypatch):
    monkeypatch.setattr(containers, "LONGEST_LINE", 10_000)
    monkeypatch.setattr(first_bytes, "LONGEST_LINE", 10_000)
    monkeypatch.setattr(containers, "JSON_CHUNK", 1_000)
    beginning = {"t.csv": ",".join(ROWS[0]) + '\n1,"', "t.jsonl": '{"id": "', "t.json": '[{"id": "'}[name]
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress((beginning + "a" * 10_000_000).encode()))
    with pytest.raises(UserError, match=r"more than 10,000|longer than 10,000"):
        read_table(path)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_an_array_is_read_in_pieces_of_any_size(tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(containers, "JSON_CHUNK", chunk)
    path = tmp_path / "t.json"
    path.write_text(f" \n[ {', '.join(map(json.dumps, ROWS))}, 5,\n null ] ")
    columns, rows = open_rows(path)
    assert columns == list(ROWS[0])
    assert [cells for _, cells in rows] == [*ROWS, "not a JSON object", "not a JSON object"]


@pytest.mark.parametrize("text", ["[{} {}]", '[{"a": 1}', "[{},,{}]", "[{}, {", "[{};{}]"])
def test_an_array_that_is_broken_is_told(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UserError, match="broken JSON after element"):
        list(open_rows(tmp_path / "t.json")[1])


def test_a_long_array_takes_time_in_proportion(tmp_path):
    (tmp_path / "t.json").write_text("[" + "{},\n" * 400_000 + "{}]")
    began = time.process_time()
    assert sum(1 for _ in open_rows(tmp_path / "t.json")[1]) == 400_001
    assert time.process_time() - began < 10  # copying the rest after each element took minutes


def test_messages_of_one_speaker_are_joined_in_proportion():
    messages = [{"role": "user", "content": "q"}] + [{"role": "assistant", "content": "a" * 20}] * 100_000
    began = time.process_time()
    prompt, answers = read_conversation(messages, Counter())
    assert time.process_time() - began < 5
    assert prompt == ["q"] and len(answers[0]) == 22 * 100_000 - 2


@pytest.mark.parametrize("row_id", ["a\nb", "a\x00b", "\x1b[31mred", "x" * 1_001])
def test_an_id_that_is_no_name_is_a_bad_row(tmp_path, row_id):
    path = write_csv(tmp_path / "t.csv", {}, {"id": row_id})
    with pytest.raises(UserError, match="row 2: the id") as told:
        read_table(path)
    assert len(str(told.value)) < 500 and "\x1b" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_dict.json", "[1]"),
        ("dataset_dict.json", '{"splits": 5}'),
        ("state.json", "[]"),
        ("state.json", '{"_data_files": ['),
        ("state.json", '{"_data_files": [{"filename": 5}, 7]}'),
        ("state.json", '{"_data_files": [{"filename": "a\\u0000b"}]}'),
    ],
)
def test_a_saved_data_set_whose_record_is_damaged_is_told(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        read_table(tmp_path)


def test_a_column_of_control_characters_is_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,prompt,response_a,response_b,winner\x00\n1,p,a,b,tie\x00\n")
    with pytest.raises(UserError, match="control characters in its name"):
        read_table(path)
