"""Public tables of every layout and container: read as what they say, or refused with the one cause."""

import csv
import gzip
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.convert import convert
from tiebreak.tables.layouts import LAYOUTS, chosen_is_b
from tiebreak.tables.rows import Problem
from tiebreak.tables.table import has_labels, read_labels, read_rows, read_table

FUZZ = settings(deadline=None, max_examples=25, derandomize=True)
WORDS = ("model_a", "model_b", "tie")


# One way to write each layout. A pair is (turns of the prompt, of answer A, of answer B, label).


def messages(prompt, answers):
    talk = zip(prompt, answers, strict=True)
    return [m for q, a in talk for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]


def parts(conversation):
    return [m | {"content": [{"type": "text", "text": m["content"]}]} for m in conversation]


def kaggle(n, prompt, a, b, label):
    texts = {"prompt": encode_json_cell(prompt), "response_a": encode_json_cell(a), "response_b": encode_json_cell(b)}
    return {"id": n, **texts, **{name: int(k == label) for k, name in enumerate(CLASSES)}}


def wsdm(n, prompt, a, b, label):
    return {"id": f"x{n}", "prompt": prompt[0], "response_a": a[0], "response_b": b[0], "winner": WORDS[label]}


def arena33k(n, prompt, a, b, label):
    sides = {"conversation_a": messages(prompt, a), "conversation_b": messages(prompt, b)}
    return {"question_id": f"q{n}", "winner": WORDS[label], "turn": len(prompt), "tstamp": 1.5, "judge": "j", **sides}


def arena140k(n, prompt, a, b, label):
    sides = {"conversation_a": parts(messages(prompt, a)), "conversation_b": parts(messages(prompt, b))}
    return {"id": f"i{n}", "winner": ("model_a", "model_b", "both_bad")[label], "language": "en", **sides}


def arena_text(n, prompt, a, b, label):
    row = arena33k(n, prompt, a, b, label)
    return row | {name: json.dumps(row[name]) for name in ("conversation_a", "conversation_b")}


def mt_bench(n, prompt, a, b, label):
    """Two more turns than were judged."""
    longer = messages([*prompt, "more?"], [*a, "no"]), messages([*prompt, "more?"], [*b, "yes"])
    sides = {"conversation_a": longer[0], "conversation_b": longer[1]}
    return {"question_id": 80, "judge": "expert", "turn": len(prompt), "winner": WORDS[label], **sides}


def helpsteer(n, prompt, a, b, label):
    context = messages(prompt, a)[:-1]
    answers = {"response1": a[-1], "response2": b[-1]}
    return {"context": context, **answers, "overall_preference": (-2, 3, 0)[label], "language": "english"}


def autoj(n, prompt, a, b, label):
    return {"prompt": prompt[0], "response 1": a[0], "response 2": b[0], "label": label, "scenario": "s"}


def pandalm(n, prompt, a, b, label):
    vote = {0: 1, 1: 2, 2: 0}[label]
    votes = {"annotator1": vote, "annotator2": (vote + 1) % 3, "annotator3": vote}
    return {
        "instruction": prompt[0],
        "input": ("", None, float("nan"))[n % 3],
        "response1": a[0],
        "response2": b[0],
        **votes,
    }


def judgebench(n, prompt, a, b, label):
    return {"question": prompt[0], "response_A": a[0], "response_B": b[0], "label": ("A>B", "B>A")[label]}


def llmbar(n, prompt, a, b, label):
    return {"input": prompt[0], "output_1": a[0], "output_2": b[0], "label": label + 1}


def shp(n, prompt, a, b, label):
    return {"history": prompt[0], "human_ref_A": a[0], "human_ref_B": b[0], "labels": 1 - label}


def chosen(n, prompt, a, b, label):
    best, worst = (a, b) if label == 0 else (b, a)
    return {"prompt": prompt[0], "chosen": messages(prompt, best), "rejected": messages(prompt, worst)}


def chosen_texts(n, prompt, a, b, label):
    best, worst = (a, b) if label == 0 else (b, a)
    return {"instruction": prompt[0], "input": "", "chosen": best[0], "rejected": worst[0]}


def dialogue(n, prompt, a, b, label):
    best, worst = (a, b) if label == 0 else (b, a)
    said = ["".join(f"\n\nHuman: {q}\n\nAssistant: {t}" for q, t in zip(prompt, x, strict=True)) for x in (best, worst)]
    return {"chosen": said[0], "rejected": said[1]}


MANY, ONE = "several turns", "one turn"
FORMATS = {
    "kaggle": (kaggle, MANY, 3),
    "wsdm": (wsdm, ONE, 3),
    "arena33k": (arena33k, MANY, 3),
    "arena140k": (arena140k, MANY, 3),
    "arena as text": (arena_text, MANY, 3),
    "mt-bench": (mt_bench, MANY, 3),
    "helpsteer3": (helpsteer, ONE, 3),
    "auto-j": (autoj, ONE, 3),
    "pandalm": (pandalm, ONE, 3),
    "judgebench": (judgebench, ONE, 2),
    "llmbar": (llmbar, ONE, 2),
    "shp": (shp, ONE, 2),
    "chosen": (chosen, MANY, 2),
    "chosen texts": (chosen_texts, ONE, 2),
    "dialogue": (dialogue, MANY, 2),
}
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(str.strip).filter(bool)
SAFE = TEXT.filter(lambda text: not text.startswith("[") and "Human:" not in text and "Assistant:" not in text)


@st.composite
def pairs(draw, turns, classes):
    count = draw(st.integers(1, 3)) if turns is MANY else 1
    prompt, a, b = (draw(st.lists(SAFE, min_size=count, max_size=count)) for _ in range(3))
    return prompt, a, b, draw(st.integers(0, classes - 1))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def expected(format_name, prompt, a, b, label):
    """What is read: the side of a chosen answer depends on its prompt alone."""
    if format_name in ("chosen", "chosen texts", "dialogue") and chosen_is_b(prompt) != bool(label):
        a, b, label = b, a, 1 - label
    return prompt, a, b, label


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_in_a_layout_is_read_back(name, tmp_path):
    write, turns, classes = FORMATS[name]

    @FUZZ
    @given(given=st.lists(pairs(turns, classes), min_size=1, max_size=4))
    def check(given):
        path = write_lines(tmp_path / "t.jsonl", [write(n, *pair) for n, pair in enumerate(given)])
        table = read_table([path])
        read = [(pair.prompt, pair.response_a, pair.response_b, pair.label) for pair in table.pairs]
        assert read == [expected(name, *pair) for pair in given]
        assert len({pair.id for pair in table.pairs}) == len(given)
        assert has_labels(path)
        assert list(read_labels(path).items()) == [(pair.id, pair.label) for pair in table.pairs]

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_byte_gives_pairs_a_named_row_or_one_sentence(name, tmp_path):
    write, turns, _ = FORMATS[name]
    answers = (["x", "y"], ["one", "two"], ["three", "four"])
    rows = [write(n, *(part if turns is MANY else part[:1] for part in answers), n % 2) for n in range(4)]
    content = write_lines(tmp_path / "t.jsonl", rows).read_bytes()
    path = tmp_path / "damaged.jsonl"

    @FUZZ
    @given(place=st.integers(0, len(content) - 1), byte=st.integers(0, 255))
    def check(place, byte):
        path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
        try:
            found = list(read_rows(path, Counter()))
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            return
        assert len(found) in (3, 4, 5), "a line break more or less"
        assert all(not isinstance(row, Problem) or row.reason for row in found)

    check()


# Containers


def rows_of(path):
    return [(pair.id, pair.prompt, pair.response_a, pair.response_b, pair.label) for pair in read_table([path]).pairs]


ROWS = [kaggle(n, [f"q{n}", "and?"], ["yes", "é"], ["no", 'a "b"; c\t,'], n % 3) for n in range(250)]


def as_csv(delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, ROWS[0], delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "t.csv"
    path.write_bytes(as_csv())
    return rows_of(path)


def zipped(content, *names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


ARRAY = json.dumps(ROWS, indent=1).encode()
CONTAINERS = {
    "t.tsv": as_csv("\t"),
    "tabs-named.csv": as_csv("\t"),
    "semicolons.csv": b"\xef\xbb\xbf" + as_csv(";"),
    "t.csv.gz": gzip.compress(as_csv()),
    "gzip-named.csv": gzip.compress(as_csv()),
    "t.csv.zst": zstd(as_csv()),
    "t.csv.zip": zipped(as_csv(), "t.csv", "__MACOSX/t.csv"),
    "t.json": ARRAY,
    "array-named.jsonl": ARRAY,
    "t.jsonl.gz": gzip.compress("\n".join(map(json.dumps, ROWS)).encode()),
    "lines-named.json": "\n".join(map(json.dumps, ROWS)).encode(),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_known_by_its_content(name, tmp_path, plain):
    (tmp_path / name).write_bytes(CONTAINERS[name])
    assert rows_of(tmp_path / name) == plain


def test_arrow_files_and_folders_are_read(tmp_path, plain):
    table = pa.Table.from_pylist(ROWS)
    pa.feather.write_feather(table, tmp_path / "t.feather")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "shards").mkdir()
    for k in range(3):
        pq.write_table(table.slice(k * 100, 100), tmp_path / "shards" / f"train-{k:05}-of-00003.parquet")
    pq.write_table(table, tmp_path / "parquet-named.csv")
    for name in ("t.feather", "saved", "shards", "parquet-named.csv"):
        assert rows_of(tmp_path / name) == plain
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(str(tmp_path / "splits"))
    assert rows_of(tmp_path / "splits" / "train") == plain
    with pytest.raises(UserError, match="holds the splits train; name one of these folders"):
        rows_of(tmp_path / "splits")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "a web page"),
        (b"\xff\xfei\x00d\x00", "UTF-16"),
        (gzip.compress(as_csv())[:-40], "broken"),
        (zipped(b"x", "[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook"),
        (zipped(as_csv(), "a.csv", "b.csv"), "holds 2 files"),
        (b"1,some question,this,that\n2,another,this,that\n", "no header line"),
        (b"SQLite format 3\x00", "SQLite"),
        (b"a\x1b[31m,b\n1,2\n", "the file has a\ufffd[31m, b"),
    ],
    ids=["lfs", "html", "utf-16", "cut gzip", "xlsx", "two files", "no header", "sqlite", "control characters"],
)
def test_a_file_that_is_something_else_is_named(content, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        rows_of(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))


def test_another_encoding_is_named(tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{n},Que penses-tu de la fenêtre numéro {n} ?,très bien,à voir\n" for n in range(5)]
    path.write_bytes(("id,prompt,response_a,response_b\n" + "".join(lines)).encode("cp1252"))
    with pytest.raises(UserError, match=r"Windows-1252 \(cp1252\).*iconv"):
        rows_of(path)


@pytest.mark.parametrize("address", ["https://a.org/t.csv", "hf://datasets/a/b.parquet", "s3://bucket/t.csv"])
def test_an_address_is_answered_with_how_to_fetch(address, capsys):
    assert main(["check", address]) == 2
    assert "only files on this machine are read; fetch it first" in capsys.readouterr().err


# Cells and labels


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_lists_of_python_are_named(tmp_path):
    rows = [{"id": n, "prompt": "['it\\'s']", "response_a": "['a']", "response_b": "['b']"} for n in range(3)]
    with pytest.raises(UserError, match=r"lists as Python's str\(\) writes them .* json.dumps"):
        rows_of(write_rows(tmp_path / "t.csv", rows))


def test_each_column_has_its_own_form(tmp_path):
    rows = [{"id": n, "prompt": '["a\\/b"]', "response_a": "plain", "response_b": "[1] plain"} for n in range(3)]
    assert rows_of(write_rows(tmp_path / "t.csv", rows))[0] == ("0", ["a/b"], ["plain"], ["[1] plain"], None)


def test_a_column_that_changes_its_form_is_refused(tmp_path):
    rows = [{"id": n, "prompt": "plain", "response_a": "a", "response_b": "b"} for n in range(100)]
    rows += [row | {"id": 100 + row["id"], "prompt": '["json"]'} for row in rows[:24]]
    with pytest.raises(UserError, match="column prompt mixes two forms: 24 of 124 cells are JSON"):
        rows_of(write_rows(tmp_path / "t.csv", rows))
    few = write_rows(tmp_path / "few.csv", [*rows[:100], rows[-1]])
    table = read_table([few])
    assert table.pairs[-1].prompt == ['["json"]'] and table.counts["JSON arrays among the plain texts of prompt"] == 1


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("winner", ["Model_A", "MODEL_B", "Tie", "both_bad", "tie (bothbad)"]),
        ("winner", ["A", "B", "tie", "bothbad", ""]),
        ("label", ["0", "1", "2", "2.0", ""]),
        ("target", ["model_a", "model_b", "tie", "tie", ""]),
        ("preference", ["a", "b", "2", "tie", ""]),
    ],
)
def test_winners_are_known_in_other_words(column, words, tmp_path, caplog):
    rows = [{"id": n, "prompt": "q", "response_a": "a", "response_b": "b", column: w} for n, w in enumerate(words)]
    path = write_rows(tmp_path / "t.csv", rows)
    caplog.set_level("INFO")
    labels = [pair.label for pair in read_table([path]).pairs]
    assert labels == [0, 1, 2, 2, None if words[-1] == "" else 2]
    assert list(read_labels(path).values()) == [label for label in labels if label is not None]
    assert (f"labels are in the column {column}" in caplog.text) == (column != "winner")


def test_winner_columns_that_contradict_one_another_are_refused(tmp_path):
    row = kaggle(1, ["q"], ["a"], ["b"], 1) | {"winner": "model_a"}
    with pytest.raises(UserError, match="the winner column says A, the three winner_\\* columns say B"):
        rows_of(write_rows(tmp_path / "t.csv", [row]))


def test_ids_that_became_floats_or_bytes_are_ids_again(tmp_path):
    rows = [kaggle(n, ["q"], ["a"], ["b"], 1) for n in range(3)]
    path = write_rows(tmp_path / "floats.csv", [row | {"id": f"{row['id']}.0"} for row in rows])
    table = read_table([path])
    assert [pair.id for pair in table.pairs] == ["0", "1", "2"] and table.counts["ids like 7.0 read as 7"] == 3
    assert list(read_labels(path)) == ["0", "1", "2"]
    mixed = write_rows(
        tmp_path / "mixed.csv", [row | {"id": name} for row, name in zip(rows, "x 1.0 2.0".split(), strict=True)]
    )
    assert [pair.id for pair in read_table([mixed]).pairs] == ["x", "1.0", "2.0"]
    pq.write_table(pa.Table.from_pylist([rows[0] | {"id": bytes(range(16))}]), tmp_path / "uuid.parquet")
    assert rows_of(tmp_path / "uuid.parquet")[0][0] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    pq.write_table(pa.Table.from_pylist([rows[0] | {"id": b"\xff\xfe"}]), tmp_path / "bytes.parquet")
    with pytest.raises(UserError, match="the id is bytes that are not UTF-8"):
        rows_of(tmp_path / "bytes.parquet")


def test_conversations_that_cannot_be_pairs_are_bad_rows(tmp_path):
    good = arena33k(0, ["q"], ["a"], ["b"], 0)
    odd = [
        good | {"conversation_b": messages(["another"], ["b"])},
        good | {"conversation_a": "no conversation"},
        good | {"conversation_a": [{"role": "assistant", "content": "a"}]},
        good | {"conversation_a": []},
        good | {"turn": 7},
        good | {"winner": "me"},
    ]
    reasons = [
        "ask different questions",
        "text instead of a conversation",
        "begins with an answer",
        "without a question",
        "turn is 7",
        "winner is 'me'",
    ]
    path = write_lines(tmp_path / "t.jsonl", [row | {"question_id": n} for n, row in enumerate(odd)])
    found = list(read_rows(path, Counter()))
    assert all(isinstance(row, Problem) for row in found)
    for row, reason in zip(found, reasons, strict=True):
        assert reason in row.reason


def test_what_a_layout_leaves_out_is_counted(tmp_path):
    row = arena140k(0, ["q"], ["a"], ["b"], 0)
    for side in ("conversation_a", "conversation_b"):
        row[side] = [{"role": "system", "content": "be kind"}, *row[side]]
        row[side][1]["content"].append({"type": "image", "image": "x"})
    table = read_table([write_lines(tmp_path / "t.jsonl", [row])])
    assert table.pairs[0].prompt == ["q"]
    assert table.counts == {"system messages left out": 2, "images and other parts left out": 2}


def test_sides_of_chosen_answers_are_balanced():
    assert 400 < sum(chosen_is_b([f"question {n}"]) for n in range(1000)) < 600
    assert chosen_is_b(["A  b"]) == chosen_is_b(["a B"]), "one prompt, one side"


# Conversion


def test_any_layout_is_converted_to_a_kaggle_table(tmp_path):
    talk = (["q", "and?"], ["yes", 'a "b"'], ["no", "c,d"])
    one = write_lines(tmp_path / "one.jsonl", [arena33k(0, *talk, 2)])
    two = write_lines(tmp_path / "two.jsonl", [autoj(0, ["p"], ["x"], ["y"], 1), autoj(1, ["r"], ["x"], ["y"], 0)])
    (tmp_path / "more").mkdir()
    again = write_lines(tmp_path / "more" / "three.jsonl", [autoj(0, ["p"], ["x"], ["y"], 2)])
    assert convert([one, two, again], tmp_path / "out.csv") == 4
    read = rows_of(tmp_path / "out.csv")
    assert read[0] == ("q0", *talk, 2)
    assert [row[0] for row in read[1:]] == ["1", "2", "three.jsonl:1"]
    assert [row[-1] for row in read[1:]] == [1, 0, 2]
    assert (tmp_path / "out.csv").read_text().startswith("id,model_a,model_b,language,prompt,")


def test_columns_of_other_names_are_mapped(tmp_path, capsys):
    path = write_rows(tmp_path / "t.csv", [{"q": "p", "x": "a", "y": "b", "who": "B"}])
    words = ["prompt=q", "response_a=x", "response_b=y", "winner=who"]
    assert main(["convert", str(path), "--columns", *words, "--out", str(tmp_path / "o.csv")]) == 0
    assert rows_of(tmp_path / "o.csv") == [("1", ["p"], ["a"], ["b"], 1)]
    for wrong, message in (("prompt", "write NAME=COLUMN"), ("prompt=nothing", "no column nothing; the file has q, x")):
        assert main(["convert", str(path), "--columns", wrong, "--out", str(tmp_path / "n.csv")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "n.csv").exists()


def test_the_docs_list_the_layouts_of_the_code():
    text = Path(__file__).parents[2].joinpath("docs", "tables.md").read_text(encoding="utf-8")
    for layout in LAYOUTS:
        columns = ", ".join(f"`{name}`" for name in sorted(layout.needs))
        assert f"| {layout.name} | {layout.of} | {columns} |" in text
