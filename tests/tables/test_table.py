"""Tables: what is read, and the message for everything that cannot be."""

import json
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from handmade import HEADER, good_row, write_csv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiebreak.errors import UserError
from tiebreak.labels import CLASSES, TIE
from tiebreak.tables.convert import convert
from tiebreak.tables.rows import UNREADABLE_LABELS
from tiebreak.tables.table import Table, read_labels, read_table

# The function-scoped tmp_path is shared by a test's examples on purpose: each overwrites the file.
FUZZ = settings(
    deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PLAIN = {"id": "x1", "prompt": "p", "response_a": "a", "response_b": "b"}


def winners(*values) -> dict:
    return dict(zip(CLASSES, values, strict=True))


def told(path, **options) -> str:
    """The message about a table; it names the file."""
    with pytest.raises(UserError) as caught:
        read_table([path], **options)
    assert path.name in str(caught.value)
    return str(caught.value)


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# What is read


def test_a_kaggle_row_becomes_a_pair(write_table):
    path = write_table(
        {"id": 30192, "prompt": '["a","b\\/c"]', "response_a": '["\\ud83d\\ude0a",null]', "response_b": "[]"}
    )
    (pair,) = read_table([path]).pairs
    assert (pair.id, pair.file, pair.row, pair.label) == ("30192", "table.csv", 1, 0)
    assert (pair.prompt, pair.response_a, pair.response_b) == (["a", "b/c"], ["😊", ""], ["", ""])
    assert (pair.model_a, pair.model_b, pair.unreadable) == ("one", "two", None)


@pytest.mark.parametrize(("values", "label"), [((1, 0, 0), 0), ((0, 1, 0), 1), ((0, 0, 1), TIE)])
def test_one_hot_winners_become_classes(write_table, values, label):
    assert read_table([write_table(winners(*values))]).pairs[0].label == label


@pytest.mark.parametrize("values", [("1.0", "0.0", "0.0"), ("True", "False", "False"), (" 1 ", "0", "0")])
def test_one_hot_winners_may_be_written_otherwise(write_table, values):
    path = write_table(winners(*values))
    assert read_table([path]).pairs[0].label == 0


def test_oddities_are_counted(write_table):
    path = write_table({"response_a": "[null]", "response_b": "[]"}, {"response_a": '["\\ud83d"]'})
    table = read_table([path])
    assert table.counts == {"null turns": 1, "empty arrays": 1, "lone surrogates": 1}
    assert table.pairs[1].response_a == ["\ufffd"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [("True", "True"), ("1", "1"), ("null", "null"), ("[true]", "true"), ("[1]", "1"), ("[null]", "")],
)
def test_literal_answers_stay_text(write_table, cell, text):
    assert read_table([write_table({"response_a": cell}, {}, {})]).pairs[0].response_a == [text]


@pytest.mark.parametrize("number", [2**31, 2**32 - 1, 2**63, 10**30])
def test_large_ids_are_kept_digit_by_digit(write_table, number):
    assert read_table([write_table({"id": number})]).pairs[0].id == str(number)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"\xef\xbb\xbf" + data, id="BOM"),
        pytest.param(lambda data: data.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda data: data + b"\n\n", id="blank-lines-at-the-end"),
        pytest.param(lambda data: data.replace(b"id,", b" id ,", 1), id="space-around-a-column-name"),
        pytest.param(lambda data: data.rstrip(b"\n"), id="no-last-line-end"),
    ],
)
def test_harmless_differences_of_csv_change_nothing(write_table, spoil):
    path = write_table({}, {})
    before = read_table([path]).pairs
    path.write_bytes(spoil(path.read_bytes()))
    assert read_table([path]).pairs == before


def test_line_ends_inside_a_plain_cell_are_kept(write_table):
    path = write_table({"prompt": "one\ntwo", "response_a": "a\r\nb", "response_b": "c"})
    pair = read_table([path]).pairs[0]
    assert (pair.prompt, pair.response_a) == (["one\ntwo"], ["a\r\nb"])


def test_a_table_is_shown_by_its_counts(tmp_path):
    rows = [good_row(1), good_row(2) | winners(0, 0, 1), good_row(3) | winners("", "", ""), {"response_a": "[1"}]
    table = read_table([write_csv(tmp_path / "mine.csv", *rows)], "skip")
    assert repr(table) == "Table(mine.csv: 3 rows, 1 bad; labels: A 1, B 0, tie 1, none 1)"
    many = [write_csv(tmp_path / f"{number}.csv", good_row(number)) for number in range(1, 5)]
    assert repr(read_table(many)) == "Table(4 files: 4 rows, 0 bad; labels: A 4, B 0, tie 0, none 0)"
    assert repr(Table()) == "Table(no file: 0 rows, 0 bad; labels: A 0, B 0, tie 0, none 0)"


def test_an_unlabelled_table_has_no_labels(write_table):
    path = write_table({}, columns=("id", "prompt", "response_a", "response_b"))
    pair = read_table([path]).pairs[0]
    assert (pair.label, pair.model_a) == (None, None)


def test_empty_winner_cells_are_no_label(write_table):
    assert read_table([write_table(dict.fromkeys(CLASSES, ""))]).pairs[0].label is None


def test_wsdm_parquet_holds_plain_strings_and_a_winner(tmp_path):
    columns = {"id": ["x1", "x2"], "prompt": ["p", '["q"]'], "response_a": ["a", None], "response_b": ["b", "b"]}
    columns |= {
        "model_a": ["m", "m"],
        "model_b": ["n", "n"],
        "winner": ["model_b", "model_a"],
        "language": ["fr", "en"],
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    first, second = read_table([tmp_path / "train.parquet"]).pairs
    assert (first.id, first.prompt, first.label, first.language) == ("x1", ["p"], 1, "fr")
    assert (second.prompt, second.response_a, second.label) == (['["q"]'], [""], 0)


def test_parquet_may_hold_kaggle_cells_and_integers(tmp_path):
    columns = {"id": [2**40], "prompt": ['["p"]'], "response_a": ['["a"]'], "response_b": ["[null]"]}
    columns |= {name: [value] for name, value in winners(0, 0, 1).items()}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    (pair,) = read_table([tmp_path / "train.parquet"]).pairs
    assert (pair.id, pair.prompt, pair.response_b, pair.label) == (str(2**40), ["p"], [""], TIE)


@pytest.mark.parametrize("name", ["table.jsonl", "table.json"])
def test_a_key_that_stands_twice_in_a_row_is_told(tmp_path, name):
    good, message = json.dumps(good_row(1)), '{"role": "user", "content": "q", "content": "r"}'
    doubled = [
        json.dumps(good_row(row))[:-1] + end for row, end in ((2, ', "prompt": "x"}'), (3, f', "x": [{message}]}}'))
    ]
    lines = [good, *doubled, json.dumps(good_row(4))]
    path = tmp_path / name
    path.write_text("\n".join(lines) if name.endswith("l") else f"[{', '.join(lines)}]")
    table = read_table([path], on_bad_row="skip")
    assert [pair.id for pair in table.pairs] == ["1", "4"]
    assert ["row 2" in str(p) and "'prompt' stands twice" in str(p) for p in table.problems] == [True, False]
    assert "row 3" in str(table.problems[1]) and "'content' stands twice" in str(table.problems[1])


@pytest.mark.parametrize("name", ["table.jsonl", "table.ndjson", "table.JSONL"])
def test_json_lines_hold_native_lists_or_strings(tmp_path, name):
    lists = {"id": 7, "prompt": ["p", "q"], "response_a": ["a", None], "response_b": [], "winner": "tie"}
    path = write_jsonl(tmp_path / name, lists, PLAIN | {"winner": "model_a"})
    first, second = read_table([path]).pairs
    assert (first.id, first.prompt, first.response_a, first.response_b, first.label) == (
        "7",
        ["p", "q"],
        ["a", ""],
        ["", ""],
        TIE,
    )
    assert (second.id, second.prompt, second.label) == ("x1", ["p"], 0)


def test_json_lines_may_hold_kaggle_cells_and_one_hot_integers(tmp_path):
    path = write_jsonl(tmp_path / "table.jsonl", good_row(1))
    (pair,) = read_table([path]).pairs
    assert (pair.id, pair.prompt, pair.label) == ("1", ["question 1"], 0)


def test_lone_surrogates_of_json_lines_are_replaced(tmp_path):
    path = write_jsonl(tmp_path / "table.jsonl", PLAIN | {"response_a": "x\ud83d"})
    assert read_table([path]).pairs[0].response_a == ["x\ufffd"]


# Several files


def test_several_files_are_read_in_order(write_table, tmp_path):
    files = [
        write_table({"id": 1}, {"id": 2}, name="one.csv"),
        write_jsonl(tmp_path / "two.jsonl", PLAIN),
        write_table({"id": 3}, name="three.csv"),
    ]
    table = read_table(files)
    assert [(pair.file, pair.row, pair.id) for pair in table.pairs] == [
        ("one.csv", 1, "1"),
        ("one.csv", 2, "2"),
        ("two.jsonl", 1, "x1"),
        ("three.csv", 1, "3"),
    ]


def test_an_id_in_two_files_is_renamed_in_training(write_table):
    table = read_table([write_table({"id": 5}, name=name) for name in ("one.csv", "two.csv", "three.csv")])
    assert [pair.id for pair in table.pairs] == ["5", "two.csv:5", "three.csv:5"]
    assert table.counts["ids renamed"] == 2


def test_an_id_in_two_files_of_one_name_is_renamed_in_training(write_table):
    table = read_table([write_table({"id": 5}, name=name) for name in ("a/train.csv", "b/train.csv")])
    assert len({pair.id for pair in table.pairs}) == 2


def test_an_id_in_two_files_is_an_error_where_ids_are_kept(write_table):
    files = [write_table({"id": 5}, name=name) for name in ("one.csv", "two.csv")]
    with pytest.raises(UserError, match=r"two\.csv, row 1 \(id 5\): the id occurs already in one\.csv"):
        read_table(files, keep_ids=True)


# Files that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.csv", b"", "the file is empty"),
        ("table.csv", b"\xef\xbb\xbf", "missing columns prompt, response_a, response_b; the file has none"),
        ("table.csv", b"id,prompt,response_a,response_b\n", "a header but no rows"),
        ("table.csv", b"id,prompt,response_a\n1,p,a\n", "missing column response_b; the file has id, prompt"),
        ("table.csv", b"id,prompt,prompt,response_a,response_b\n1,p,p,a,b\n", "column 'prompt' occurs more than once"),
        ("table.csv", b"id,prompt,response_a,response_b,winner_tie\n1,p,a,b,1\n", "winner_model_a, winner_model_b"),
        ("table.csv", b'id,prompt,response_a,response_b\n1,p,a,"b\n2,p,a,b\n', "line 3: broken CSV"),
        ("table.csv", b'id,prompt,response_a,response_b\n1,p,a,"b"c\n', "line 2: broken CSV"),
        ("table.csv", "id,prompt,response_a,response_b\n1,p,a,b\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("table.csv", b"\x93NUMPY\x01\x00v\x00", "missing column"),
        ("table.xlsx", b"PK", "unknown format '.xlsx'; tables end in .csv, .parquet"),
        ("table", b"id\n", "unknown format ''"),
        ("table.parquet", b"PAR1 but not really", "not a readable Parquet file"),
        ("table.jsonl", b"\n\n", "missing columns prompt, response_a, response_b; the file has none"),
        ("table.jsonl", b"[1, 2]\n", "no element of the first 2 is a row (not a JSON object)"),
        ("table.jsonl", b'{"id": 1, "prompt": "p"}\n', "missing columns response_a, response_b"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in told(path)
    assert message in told(path, on_bad_row="skip"), "no policy for rows mends a file"


def test_a_file_that_is_not_there_is_reported(tmp_path):
    assert "no such file" in told(tmp_path / "table.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "a folder with no tables" in told(tmp_path / "folder.csv")


def test_a_parquet_file_without_rows_is_reported(tmp_path):
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in PLAIN}), tmp_path / "none.parquet")
    assert "a header but no rows" in told(tmp_path / "none.parquet")


@pytest.mark.parametrize("place", [slice(300, 340), slice(-60, -20)], ids=["data", "footer"])
def test_a_damaged_parquet_file_is_reported(tmp_path, place):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({name: [f"{value}{k}" * 20 for k in range(200)] for name, value in PLAIN.items()}), path)
    data = bytearray(path.read_bytes())
    data[place] = b"\xff" * 40
    path.write_bytes(data)
    told(path)


def test_bytes_of_parquet_that_are_not_utf8_are_reported(tmp_path):
    wrong = pa.StringArray.from_buffers(1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe"))
    columns = {name: [value] for name, value in PLAIN.items()} | {"prompt": wrong}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    told(tmp_path / "table.parquet")


# Rows that cannot be used

BAD_LABELS = [
    pytest.param(winners(1, 1, 0), "columns are 1, 1, 0; exactly one must be 1", id="two-winners"),
    pytest.param(dict.fromkeys(CLASSES, 0), "the winner columns are 0, 0, 0", id="no-winner"),
    pytest.param(winners(1, "", 0), "the winner columns are 1, , 0", id="half-empty-winner"),
    pytest.param(winners(0.4, 0.3, 0.3), "0.4, 0.3, 0.3; exactly one", id="probabilities"),
]
BAD_ROWS = [
    *BAD_LABELS,
    pytest.param({"response_b": '["no","never"]'}, "response_b has 2 turns, the prompt 1", id="unequal-turns"),
    pytest.param({"prompt": "no array"}, "prompt: not a JSON array of turns", id="no-array"),
    pytest.param({"response_a": ""}, "response_a: empty cell", id="empty-cell"),
    pytest.param({"response_a": '[{"text":"a"}]'}, "response_a: a turn is a JSON object", id="object"),
    pytest.param({"id": 1}, "the id occurs already in table.csv", id="duplicate-id"),
]


@pytest.mark.parametrize(("cells", "reason"), BAD_ROWS)
def test_a_bad_row_fails_by_file_row_and_id(write_table, cells, reason):
    message = told(write_table({}, cells, {}))
    assert message.startswith("1 bad row:\n  table.csv, row 2 (id ")
    assert reason in message and "--on-bad-row=skip" in message


@pytest.mark.parametrize(("cells", "reason"), BAD_ROWS)
def test_a_bad_row_is_skipped_with_its_cells(write_table, cells, reason):
    table = read_table([write_table({}, cells, {})], on_bad_row="skip")
    assert [pair.id for pair in table.pairs] == ["1", "3"]
    (problem,) = table.problems
    assert (problem.file, problem.row, problem.id) == ("table.csv", 2, str(cells.get("id", 2)))
    assert reason in problem.reason


def test_skipped_rows_keep_their_raw_cells(write_table):
    table = read_table([write_table({}, {"prompt": "broken"}, {})], on_bad_row="skip")
    assert table.problems[0].cells["prompt"] == "broken"
    assert table.problems[0].cells["response_b"] == '["no"]'


def test_a_skipped_row_without_an_id_keeps_its_raw_cells(write_table):
    table = read_table([write_table({}, {"id": ""})], on_bad_row="skip")
    assert table.problems[0].cells["prompt"] == '["question 2"]'


@pytest.mark.parametrize(("cells", "reason"), BAD_LABELS)
def test_a_prediction_does_not_need_a_label(write_table, cells, reason):
    table = read_table([write_table({}, cells, {})], on_bad_row="keep", keep_ids=True)
    assert [pair.label for pair in table.pairs] == [0, None, 0]
    assert not table.problems and table.pairs[1].prompt == ["question 2"]
    assert table.counts[UNREADABLE_LABELS] == 1


@pytest.mark.parametrize(("cells", "reason"), BAD_ROWS[len(BAD_LABELS) : -1])
def test_a_bad_row_kept_holds_its_place_with_empty_texts(write_table, cells, reason):
    table = read_table([write_table({}, cells, {})], on_bad_row="keep", keep_ids=True)
    assert [pair.id for pair in table.pairs] == ["1", "2", "3"]
    kept = table.pairs[1]
    assert reason in kept.unreadable
    assert (kept.prompt, kept.response_a, kept.response_b, kept.label) == ([""], [""], [""], None)
    assert [pair.unreadable for pair in (table.pairs[0], table.pairs[2])] == [None, None]
    assert len(table.problems) == 1


@pytest.mark.parametrize("cells", [{"id": 1}, {"id": ""}], ids=["duplicate", "none"])
def test_a_row_without_an_id_of_its_own_cannot_be_kept(write_table, cells):
    message = told(write_table({}, cells), on_bad_row="keep", keep_ids=True)
    assert "row 2" in message and "A prediction needs a unique id in every row" in message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'2,m,n,["p"],["a"],["b"],1,0\n', "row 2: 8 fields, the header has 9 (line 3)"),
        (b'2,m,n,["p"],["a"],["b"],1,0,0,0\n', "row 2: 10 fields, the header has 9 (line 3)"),
        (b'2,m,n,["p"],["\xff"],["b"],1,0,0\n', "row 2 (id 2): response_a: bytes that are not UTF-8"),
        (b'\xff2,m,n,["p"],["a"],["b"],1,0,0\n', "row 2: the id has bytes that are not UTF-8"),
        (b' ,m,n,["p"],["a"],["b"],1,0,0\n', "row 2: no id"),
    ],
)
def test_a_broken_line_of_csv_is_reported_by_its_row(write_table, line, reason):
    path = write_table({})
    path.write_bytes(path.read_bytes() + line)
    assert f"table.csv, {reason}" in told(path)
    assert [pair.id for pair in read_table([path], on_bad_row="skip").pairs] == ["1"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "row 2: not a JSON object"),
        ("[1]", "row 2: not a JSON object"),
        ("[" * 100_000, "row 2: not a JSON object (nested too deeply)"),
        ('{"id": 2, "prompt": "p"}', "row 2 (id 2): no response_a, response_b"),
        ('{"id": null, "prompt": "p", "response_a": "a", "response_b": "b"}', "row 2: no id"),
        (
            '{"id": 2, "prompt": {}, "response_a": "a", "response_b": "b"}',
            "row 2 (id 2): prompt: the cell is an object",
        ),
        ('{"id": 2, "prompt": "p", "response_a": [["a"]], "response_b": "b"}', "response_a: a turn is a JSON array"),
        ('{"id": 2, "prompt": "p", "response_a": "a", "response_b": "b", "winner": "C"}', "winner is 'C', not one of"),
    ],
)
def test_a_broken_line_of_json_is_reported_by_its_row(tmp_path, line, reason):
    path = write_jsonl(tmp_path / "table.jsonl", PLAIN)
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    assert reason in told(path)
    assert len(read_table([path], on_bad_row="skip").pairs) == 1


def test_all_bad_rows_are_reported_at_once_up_to_ten(write_table):
    message = told(write_table(*[{"prompt": "broken"}] * 14, *[{}] * 16))
    assert message.startswith("14 bad rows:")
    assert "row 10 " in message and "row 11 " not in message and "... and 4 more" in message


def test_a_table_of_bad_rows_alone_is_reported(write_table):
    assert "no readable rows" in told(write_table({"id": ""}), on_bad_row="skip")


def test_labels_are_demanded_where_needed(write_table):
    path = write_table({}, dict.fromkeys(CLASSES, ""))
    assert "row 2 (id 2): no label" in told(path, need_labels=True)
    assert [pair.id for pair in read_table([path], on_bad_row="skip", need_labels=True).pairs] == ["1"]


@pytest.mark.parametrize("policy", ["fail", "skip"])
def test_a_misnamed_label_column_is_one_message(tmp_path, policy):
    """No row is at fault, so no row is listed and none can be skipped; the command named turns the table into one."""
    rows = [PLAIN | {"id": str(number), "verdict": "model_b"} for number in range(36)]
    path = write_jsonl(tmp_path / "my votes.jsonl", *rows)
    message = told(path, need_labels=True, on_bad_row=policy)
    assert "no label column (read are winner, label, target, preference, winner_model_a, " in message
    assert "the file has id, prompt, response_a, response_b, verdict." in message and "row 1" not in message
    command = message[message.index("tiebreak convert") :]
    words = shlex.split(command)
    assert words == ["tiebreak", "convert", str(path), "--columns", "winner=verdict", "--out", "labelled.csv"]
    convert([path], tmp_path / words[-1], words[4:5])
    assert (read_table([tmp_path / words[-1]], need_labels=True).labels == 1).all()


def test_which_of_several_columns_has_the_labels_is_left_to_the_user(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", PLAIN | {"verdict": "A", "judge": "me"})
    assert "--columns winner=COLUMN --out" in told(path, need_labels=True)


def test_labels_that_only_late_rows_have_are_found(tmp_path):
    """Rows of JSON may leave out what is empty, the first hundred too."""
    rows = [PLAIN | {"id": str(number)} for number in range(120)]
    path = write_jsonl(tmp_path / "t.jsonl", *rows, PLAIN | {"winner": "tie"})
    assert read_table([path], on_bad_row="skip", need_labels=True).labels.tolist() == [TIE]


# Anything at all


@FUZZ
@given(content=st.binary(max_size=300), policy=st.sampled_from(["fail", "skip", "keep"]))
def test_any_bytes_under_a_header_are_read_or_told(tmp_path, content, policy):
    path = tmp_path / "fuzz.csv"
    path.write_bytes(",".join(HEADER).encode() + b"\n" + content)
    try:
        table = read_table([path], on_bad_row=policy)
    except UserError:
        return
    assert table.pairs


CELLS = st.one_of(st.sampled_from(["", "[]", "[null]", '["a"]', '["a","b"]', "1", "0", "x"]), st.text(max_size=20))


@FUZZ
@given(
    rows=st.lists(st.fixed_dictionaries({name: CELLS for name in HEADER}), min_size=1, max_size=4),
    policy=st.sampled_from(["fail", "skip", "keep"]),
)
def test_any_cells_are_read_or_told(write_table, rows, policy):
    path = write_table(*rows, name="fuzz.csv")
    try:
        table = read_table([path], on_bad_row=policy)
    except UserError:
        return
    for pair in table.pairs:
        assert len(pair.prompt) == len(pair.response_a) == len(pair.response_b) >= 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow
@FUZZ
@given(rows=st.lists(st.fixed_dictionaries({name: JSON_VALUES for name in (*PLAIN, "winner")}), min_size=1, max_size=4))
def test_any_json_is_read_or_told(tmp_path, rows):
    try:
        table = read_table([write_jsonl(tmp_path / "fuzz.jsonl", *rows)], on_bad_row="skip")
    except UserError:
        return
    assert len(table.pairs) + len(table.problems) == len(rows)


# Labels alone


def test_labels_are_read_by_id(write_table):
    rows = [winners(1, 0, 0), winners(0, 1, 0), winners(0, 0, 1), dict.fromkeys(CLASSES, "")]
    path = write_table(*rows, columns=("id", *CLASSES))
    assert read_labels(path) == {"1": 0, "2": 1, "3": TIE}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_may_be_a_winner_column(tmp_path, ending):
    path = tmp_path / f"labels.{ending}"
    if ending == "csv":
        path.write_text("id,winner\nx,model_b\ny,tie (bothbad)\n", encoding="utf-8")
    else:
        pq.write_table(pa.table({"id": ["x", "y"], "winner": ["model_b", "tie (bothbad)"]}), path)
    assert read_labels(path) == {"x": 1, "y": TIE}


def test_labels_may_be_json_lines_without_texts(tmp_path):
    path = write_jsonl(tmp_path / "labels.jsonl", {"id": 1, "winner": "tie"}, {"id": 2, "winner": "model_a"})
    assert read_labels(path) == {"1": TIE, "2": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,winner_tie\n1,1\n", "labels need the columns id and winner_model_a"),
        ("name,winner\n1,tie\n", "labels need the columns id"),
        ("id,winner\n1,tie\n1,tie\n", "row 2: the id 1 occurs twice"),
        ("id,winner\n1,C\n", "row 1: winner is 'C'"),
        ("id,winner\n1,tie,2\n", "row 1: 3 fields, the header has 2"),
        ("id,winner_model_a,winner_model_b,winner_tie\n1,1,1,0\n", "row 1: the winner columns are 1, 1, 0"),
    ],
)
def test_labels_that_cannot_be_read_are_reported(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_labels(path)
    assert message in str(caught.value) and "labels.csv" in str(caught.value)
