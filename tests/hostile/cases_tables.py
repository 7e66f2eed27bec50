"""Tables: bytes, containers, cells, labels and ids that no table should have."""

import bz2
import csv
import gzip
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from collecting import Make, Part, cut, flip, predicted, prints, rows, texts
from harness import Words, World

PART = Part("tables")


def raw(name: str, content: bytes | str, command: str = "check", *words: str) -> Make:
    """One file with this content, given to a command."""

    def make(folder: Path, world: World) -> Words:
        if command in ("report", "decide", "folds"):
            world.copy("own", folder)
        if command in ("compare", "best-of", "predict"):
            (folder / "judge").symlink_to(world.folder / "judge")
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return [*COMMANDS[command](name), *words]

    return make


COMMANDS: dict[str, Any] = {
    "check": lambda name: ["check", name],
    "convert": lambda name: ["convert", name, "--out", "o.csv"],
    "baseline": lambda name: ["baseline", name, "--out", "b"],
    "attack": lambda name: ["attack", "--data", name, "--out", "o.csv"],
    "train": lambda name: ["train", "--recipe", "demo-deberta", "--data", name, "--out", "run"],
    "report": lambda name: ["report", "own", "--labels", name, "--out", "r"],
    "leaderboard": lambda name: ["leaderboard", "--data", name, "--out", "l"],
    "compare": lambda name: ["compare", name, "--model", "judge"],
    "best-of": lambda name: ["best-of", name, "--model", "judge", "--out", "o.csv"],
    "decide": lambda name: ["decide", "own", "--calibrate", name, "--out", "d"],
    "predict": lambda name: ["predict", "--model", "judge", "--data", name, "--out", "p"],
    "folds": lambda name: ["folds", "--recipe", "demo-deberta", "--data", name, "--out", "f"],
    "bench": lambda name: ["bench", name, "--pairs", "o.csv"],
}


def arrow(name: str, columns: dict[str, Any], kind: str = "parquet", command: str = "check") -> Make:
    """A Parquet or Arrow file of these columns over those of a good table."""

    def make(folder: Path, _: World) -> Words:
        import pyarrow as pa
        import pyarrow.parquet as pq

        count = len(next(iter(columns.values())))
        good = {"id": [str(n) for n in range(count)], "prompt": ["p"] * count, "response_a": ["a"] * count}
        good |= {"response_b": ["b"] * count, "winner": ["tie"] * count}
        table = pa.table({**good, **columns})
        if kind == "parquet":
            pq.write_table(table, folder / name)
        else:
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        return COMMANDS[command](name)

    return make


def damaged(source: Make, how: Any, name: str) -> Make:
    def make(folder: Path, world: World) -> Words:
        words = source(folder, world)
        how(folder / name)
        return words

    return make


GOOD = texts(id="#")
LINES = "".join(json.dumps(dict(zip(GOOD.split("\n")[0].split(","), line.split(","), strict=True))) + "\n"
                for line in GOOD.strip().split("\n")[1:])  # fmt: skip
HEAD = "id,prompt,response_a,response_b,winner\n"

# Bytes that are no text table.
for label, content in {
    "null bytes between the rows": GOOD.replace("\n", "\x00\n").encode(),
    "only null bytes": bytes(4096),
    "a byte order mark and nothing else": b"\xef\xbb\xbf",
    "UTF-32": GOOD.encode("utf-32"),
    "UTF-16 without a mark, big end first": GOOD.encode("utf-16-be"),
    "EBCDIC": GOOD.encode("cp500"),
    "random bytes": bytes(range(256)) * 40,
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "an ELF program": b"\x7fELF" + bytes(range(200)),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "a tar archive": b"x.csv" + bytes(95) + b"0000644\x00" + bytes(500),
    "bzip2": bz2.compress(GOOD.encode()),
    "a script": b"#!/bin/sh\nrm -rf /\n",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a mail": b"From: a@b\nSubject: table\n\nhello\n",
}.items():
    for name in ("x.csv", "x.jsonl") if len(label) < 15 else ("x.csv",):
        PART.add("bytes that are no table", f"{label} as {name}", raw(name, content), name)
PART.add("bytes that are no table", "Windows-1250 in one cell", raw("x.csv", texts(prompt="\xb9", id="#").encode("latin-1")), "x.csv", "UTF-8")  # fmt: skip
PART.add("bytes that are no table", "old Mac line ends", raw("x.csv", GOOD.replace("\n", "\r")), check=prints("12"))
PART.add("bytes that are no table", "line ends of Unicode inside cells", raw("x.csv", texts(prompt="a\u2028b\x85c", id="#"), "convert"), check=rows("o.csv", 12))  # fmt: skip

# Containers.
packed = gzip.compress(GOOD.encode())
for label, content, says in (
    ("gzip cut short", packed[: len(packed) // 2], ("x.csv.gz",)),
    ("gzip with a wrong checksum", packed[:-8] + bytes(8), ("x.csv.gz",)),
    ("gzip with rubbish behind it", packed + b"rubbish" * 9, ("x.csv.gz",)),
    ("gzip of gzip", gzip.compress(packed), ("x.csv.gz",)),
    ("gzip of nothing", gzip.compress(b""), ("x.csv.gz",)),
    ("zstd magic and rubbish", b"\x28\xb5\x2f\xfd" + b"rubbish" * 9, ("x.csv.gz",)),
    ("zip magic and rubbish", b"PK\x03\x04" + b"rubbish" * 9, ("x.csv.gz",)),
):
    PART.add("containers", label, raw("x.csv.gz", content), *says)
PART.add("containers", "two gzip members are one table", raw("x.csv.gz", gzip.compress(GOOD[:100].encode()) + gzip.compress(GOOD[100:].encode())), check=prints("12"))  # fmt: skip


def archive(*names: str, content: str = GOOD, encrypted: bool = False, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name in names:
            file.writestr(name, content)
    data = bytearray(buffer.getvalue())
    if encrypted:
        data[6] |= 1
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


PART.add("containers", "zip of no file", raw("x.zip", archive()), "x.zip")
PART.add("containers", "zip that is encrypted", raw("x.csv.zip", archive("x.csv", encrypted=True)), "x.csv.zip")
PART.add("containers", "zip with bytes changed", raw("x.csv.zip", archive("x.csv")[:60] + b"??" + archive("x.csv")[62:]), "x.csv.zip")  # fmt: skip
PART.add("containers", "zip in a method of its own", raw("x.csv.zip", archive("x.csv").replace(b"\x00\x00\x08\x00", b"\x00\x00\x63\x00")), "x.csv.zip")  # fmt: skip
PART.add("containers", "zip whose member climbs out", raw("x.csv.zip", archive("../../evil.csv"), "convert"), check=rows("o.csv", 12))  # fmt: skip
PART.add("containers", "zip with a member of a Windows path", raw("x.csv.zip", archive("C:\\x.csv"), "convert"), check=rows("o.csv", 12))  # fmt: skip


def bomb(folder: Path, _: World) -> Words:
    """4 GB of one cell in 4 MB."""
    with gzip.open(folder / "x.csv.gz", "wb", 9) as file:
        file.write((HEAD + '0,"').encode())
        block = b"a" * (1 << 20)
        for _ in range(1 << 12):
            file.write(block)
    return ["check", "x.csv.gz"]


PART.add("containers", "a bomb: 4 GB of one cell", bomb, "x.csv.gz", "line")
PART.add("containers", "a line of 200 MB that is no JSON", raw("x.jsonl", b'{"id": "' + b"a" * (200 << 20)), "x.jsonl")

# Parquet and Arrow of odd types and damage.
import datetime  # noqa: E402

for label, columns in {
    "texts as categories of integers": {"prompt": [1, 2, 1]},
    "decimals": {"prompt": [__import__("decimal").Decimal("1.5")] * 3},
    "booleans as ids": {"id": [True, False, True]},
    "structs as answers": {"response_a": [{"x": 1}] * 3},
    "maps of lists": {"response_a": [[["a"]], [["b"]], [["c"]]]},
    "durations as ids": {"id": [datetime.timedelta(days=1), datetime.timedelta(days=1), None]},
    "times as prompts": {"prompt": [datetime.time(1, 2), datetime.time(1, 3), None]},
    "bytes that are no UTF-8 as prompts": {"prompt": [b"\xff\xfe", b"\xff", b"a"]},
    "nan as ids": {"id": [float("nan"), float("nan"), 1.0]},
    "floats beyond int as ids": {"id": [1e300, float("inf"), 2.0]},
    "lists as ids": {"id": [["a"], ["b"], ["c"]]},
    "lists as labels": {"winner": [["model_a"], ["tie"], []]},
    "labels as bytes": {"winner": [b"model_a", b"tie", b"x"]},
}.items():
    PART.add("odd types", label, arrow("x.parquet", columns), "x.parquet", check=prints("3 rows"))
for share in (0.1, 0.5, 0.9, 0.99):
    for kind in ("parquet", "arrow"):
        file = f"x.{kind}"
        made = arrow(file, {"prompt": [f"p{n}" * 40 for n in range(400)]}, kind)
        PART.add("damage", f"{kind} cut at {share}", damaged(made, lambda p, s=share: cut(p, s), file), file)
        PART.add("damage", f"{kind}, a byte changed at {share}", damaged(made, lambda p, s=share: flip(p, s), file), file, check=prints("400"))  # fmt: skip
PART.add("damage", "arrow of no batch", arrow("x.arrow", {"prompt": []}, "arrow"), "x.arrow")
PART.add("damage", "parquet of no rows", arrow("x.parquet", {"prompt": []}), "x.parquet")
PART.add("damage", "parquet of columns twice", damaged(arrow("x.parquet", {"prompt": ["a"] * 3}), lambda path: doubled(path), "x.parquet"), "x.parquet", "prompt")  # fmt: skip


def doubled(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(pa.Table.from_arrays([*table.columns, table["prompt"]], [*table.column_names, "prompt"]), path)


# CSV and JSON grammar.
for label, name, content, says in (
    ("a quote that never ends", "x.csv", GOOD.replace("yes", '"yes', 1), ("x.csv", "line")),
    ("a quote inside a field", "x.csv", GOOD.replace("yes", '"y"es', 1), ("x.csv", "line")),
    ("a header of 100,000 columns", "x.csv", ",".join(f"c{n}" for n in range(100_000)) + "\n1\n", ("x.csv",)),
    ("a header of one word of 5 MB", "x.csv", "a" * 5_000_000 + "\n1\n", ("x.csv",)),
    ("a header of control characters", "x.csv", "id\x1b[2J,\x07prompt,b\n1,2,3\n", ("x.csv",)),
    ("a header of spaces", "x.csv", "  ,  ,  \n1,2,3\n", ("x.csv",)),
    ("more fields than the header", "x.csv", GOOD.replace("no", "no,no,no", 1), ("x.csv", "row 1")),
    ("JSON nested 100,000 deep", "x.jsonl", '{"id":' * 100_000 + "\n", ("x.jsonl",)),
    ("JSON array nested 100,000 deep", "x.json", "[" * 100_000, ("x.json",)),
    ("JSON array cut short", "x.json", "[" + LINES.strip().replace("\n", ",")[:-20], ("x.json",)),
    ("JSON array of numbers", "x.json", "[" + "1," * 200 + "1]", ("x.json",)),
    ("JSON array without commas", "x.json", "[" + LINES.replace("\n", " ") + "]", ("x.json",)),
    ("JSON Lines of strings", "x.jsonl", '"a"\n' * 20, ("x.jsonl",)),
    ("JSON keys twice", "x.jsonl", LINES.replace('"winner"', '"id": "9", "winner"'), ("x.jsonl", "'id' stands twice")),
    ("JSON array, keys of one row twice", "x.json", f"[{','.join(LINES.splitlines())}]".replace('"winner"', '"prompt": "9", "winner"', 1), ("x.json", "row 1", "'prompt' stands twice")),
    ("JSON with a number of 10,000 digits as id", "x.jsonl", LINES.replace('"id": "0"', f'"id": {"9" * 10000}'), ("x.jsonl",)),
    ("JSON of one object with columns", "x.json", json.dumps({"id": ["1"], "prompt": ["a"]}), ("x.json",)),
    ("a table whose rows are all empty", "x.csv", HEAD + "\n" * 500, ("x.csv",)),
):  # fmt: skip
    PART.add("grammar", label, raw(name, content), *says)
PART.add("grammar", "JSON Lines of NaN", raw("x.jsonl", LINES.replace('"question 3"', "NaN")), check=prints("12"))
PART.add(
    "cells", "an id that turns the writing", raw("x.csv", texts(id="#\u202eb"), "convert"), check=rows("o.csv", 12)
)
PART.add("grammar", "a comment before the header", raw("x.csv", "# exported\n" + GOOD), "x.csv", "column")
PART.add("grammar", "blank lines and spaces around names", raw("x.csv", GOOD.replace(",", " , ", 4).replace("\n", "\n\n")), check=prints("12"))  # fmt: skip

# Cells, ids and labels.
DEEP = "[" * 60_000 + "]" * 60_000
for label, content, says in (
    ("a cell nested 60,000 deep", texts(prompt=DEEP, id="#"), ("x.csv", "rows 1-")),
    ("Python code in a cell of lists", texts(prompt="['a' + 'b']", response_a="[print(1)]", response_b="['c']", id="#"), ("x.csv",)),
    ("a Python list nested deep", texts(prompt="['a'," + "(" * 3000 + ")" * 3000 + "]", id="#"), ("x.csv",)),
    ("an id of 2 MB", texts(id="#" + "a" * 2_000_000), ("x.csv", "id")),
    ("ids with a line break", texts(id="#\nb"), ("x.csv", "id")),
    ("ids with a null byte", texts(id="#\x00b"), ("x.csv", "id")),
    ("ids with an escape", texts(id="#\x1b[31m"), ("x.csv", "id")),
    ("all ids alike", texts(id="7"), ("x.csv", "id")),
    ("ids that are alike after trimming", GOOD.replace("\n1,", "\n0 ,"), ("x.csv", "id")),
    ("labels of emoji", texts(id="#", winner="\U0001f600"), ("x.csv", "rows 1-")),
    ("labels of 1 MB", texts(id="#", winner="x" * 1_000_000), ("x.csv", "rows 1-")),
    ("labels of control characters", texts(id="#", winner="\x1b]0;x\x07"), ("x.csv", "rows 1-")),
):  # fmt: skip
    PART.add("cells", label, raw("x.csv", content), *says)
for label, values in {
    "one-hot labels of nan": ("nan", "nan", "nan"),
    "one-hot labels of halves": ("0.5", "0.5", "0"),
    "two winners": ("1", "1", "0"),
    "no winner": ("0", "0", "0"),
    "negative winners": ("-1", "1", "1"),
    "winners of 1e400": ("1e400", "0", "0"),
    "winners of words": ("yes", "no", "no"),
}.items():
    names = "winner_model_a,winner_model_b,winner_tie"
    content = f"id,prompt,response_a,response_b,{names}\n" + "".join(
        f"{n},p,a,b,{','.join(values)}\n" for n in range(9)
    )
    PART.add("labels", label, raw("x.csv", content, "baseline"), "x.csv", "row 1")
for command in (
    "train",
    "report",
    "leaderboard",
    "convert",
    "attack",
    "bench",
    "compare",
    "best-of",
    "decide",
    "predict",
    "folds",
):
    PART.add("every command", f"{command} of random bytes", raw("x.csv", bytes(range(256)) * 40, command), "x.csv")
    PART.add("every command", f"{command} of a header alone", raw("x.csv", HEAD, command), "x.csv")
    PART.add("every command", f"{command} of ids with a line break", raw("x.csv", texts(id="#\nb"), command), "x.csv")

CANDIDATES = json.dumps({"prompt": "q", "responses": "DEEP"}).replace("DEEP", "[" * 100_000) + "\n"
PART.add("candidates", "a list nested deep", raw("x.jsonl", CANDIDATES, "best-of"), "x.jsonl")
PART.add("candidates", "100,000 of one prompt", raw("x.jsonl", json.dumps({"prompt": "q", "responses": ["a"] * 100_000}) + "\n", "best-of"), "x.jsonl", "at most")  # fmt: skip
PART.add("candidates", "numbers", raw("x.jsonl", json.dumps({"prompt": "q", "responses": [1, 2]}) + "\n", "best-of"), check=rows("o.csv", 1), heavy=True)  # fmt: skip


# Paths that are no files.
def special(kind: str) -> Make:
    def make(folder: Path, _: World) -> Words:
        path = folder / "x.csv"
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "loop":
            path.symlink_to("x.csv")
        elif kind == "dangling":
            path.symlink_to("gone.csv")
        elif kind == "device":
            path.symlink_to("/dev/random")
        elif kind == "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as bound:
                here = os.open(folder, os.O_RDONLY)
                bound.bind(f"/proc/self/fd/{here}/x.csv")
                os.close(here)
        elif kind == "folder of links":
            path.mkdir()
            (path / "a.csv").symlink_to("a.csv")
        elif kind == "saved":
            path.mkdir()
            (path / "state.json").write_text('{"_data_files": [{"filename": 5}, 7]}')
        elif kind == "splits":
            path.mkdir()
            (path / "dataset_dict.json").write_text("[1]")
        elif kind == "cut state":
            path.mkdir()
            (path / "state.json").write_text('{"_data_files": [')
        return ["check", "x.csv"]

    return make


for kind in ("fifo", "loop", "dangling", "device", "socket", "folder of links", "saved", "splits", "cut state"):
    PART.add("paths that are no files", kind, special(kind), "x.csv")
PART.add("paths that are no files", "the table is the output too", lambda f, w: [w.copy("t.csv", f), "convert", "t.csv", "--out", "t.csv"][1:], "t.csv")  # fmt: skip
PART.add("paths that are no files", "the table through a link is the output", lambda f, w: [w.copy("t.csv", f), (f / "o.csv").symlink_to("t.csv"), "convert", "t.csv", "--out", "o.csv"][2:], "o.csv")  # fmt: skip


def for_judge(content: str) -> Make:
    def make(folder: Path, world: World) -> Words:
        world.copy("judge", folder)
        (folder / "x.csv").write_text(content, encoding="utf-8")
        return ["predict", "--model", "judge", "--data", "x.csv", "--out", "p"]

    return make


for label, cells in {
    "answers of special tokens": {"response_a": "[CLS][SEP][PAD][MASK]<s></s><bos>"},
    "answers of null bytes": {"response_a": "a\x00b" * 50},
    "answers of marks that combine": {"response_a": "e" + "\u0301" * 5000},
    "answers of unassigned characters": {"response_a": "\U000e0001\ufffe\uffff" * 200},
    "empty prompt and answers": {"prompt": "", "response_a": "", "response_b": ""},
}.items():
    PART.add("texts for a judge", label, for_judge(texts(id="#", **cells)), check=predicted("p/predictions.csv", "x.csv"), heavy=True)  # fmt: skip
csv.field_size_limit(2**31 - 1)
