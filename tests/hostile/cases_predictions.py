"""Predictions, parts and their manifests: damaged, foreign, doubled, of other types."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from collecting import Make, Part, cut, edit_json, flip, read_rows, rows
from harness import Outcome, Words, World

PART = Part("predictions")
HEAD = "id,winner_model_a,winner_model_b,winner_tie\n"
USES: dict[str, list[str]] = {
    "report": ["report", "x.csv", "--labels", "t.csv", "--out", "r"],
    "ensemble": ["ensemble", "x.csv", "own/predictions.csv", "--out", "e.csv"],
    "decide": ["decide", "x.csv", "--calibrate", "t.csv", "--out", "d"],
    "leaderboard": ["leaderboard", "x.csv", "--data", "t.csv", "--out", "l"],
    "distill": ["distill", "--data", "t.csv", "--teachers", "x.csv", "--out", "run"],
}


def lines(edit: Callable[[list[str]], list[str]], use: str) -> Make:
    """The world's predictions of its labelled table, with their lines changed."""

    def make(folder: Path, world: World) -> Words:
        for name in ("t.csv", "own"):
            world.copy(name, folder)
        given = (folder / "own/predictions.csv").read_text().splitlines()
        (folder / "x.csv").write_text("\n".join(edit(given)) + "\n", encoding="utf-8")
        return USES[use]

    return make


def cell(index: int, value: str) -> Callable[[list[str]], list[str]]:
    def edit(given: list[str]) -> list[str]:
        cells = given[3].split(",")
        cells[index] = value
        return [*given[:3], ",".join(cells), *given[4:]]

    return edit


for label, edit in {
    "nan": cell(1, "nan"),
    "1e400": cell(1, "1e400"),
    "-0.2": cell(1, "-0.2"),
    "a word": cell(2, "high"),
    "empty": cell(2, ""),
    "a number of 5,000 digits": cell(1, "0." + "3" * 5000 + "e9"),
    "underscores": cell(1, "0_0.5_0__"),
    "hex": cell(1, "0x1p-2"),
    "a row too short": lambda given: [*given[:4], given[4].rpartition(",")[0], *given[5:]],
    "a row twice": lambda given: [*given, given[5]],
    "a header twice": lambda given: [given[0], *given],
    "no header": lambda given: given[1:],
    "null bytes": lambda given: [line.replace(",", "\x00,") for line in given],
    "an id of escapes, twice": lambda given: [*given, *["\x1b[2Jx,0.3,0.3,0.4"] * 2],
    "a quote that never ends": lambda given: [*given[:6], '"' + given[6], *given[7:]],
}.items():
    for use in ("report", "ensemble"):
        PART.add("rows of predictions", f"{use}: {label}", lines(edit, use), "x.csv")
for use in ("decide", "leaderboard", "distill"):
    PART.add("rows of predictions", f"{use}: nan", lines(cell(1, "nan"), use), "x.csv")
PART.add("rows of predictions", "distill: rows missing", lines(lambda given: given[:-9], "distill"), "x.csv")
PART.add("rows of predictions", "report: ids of another table", lines(lambda given: [given[0], *("z" + line for line in given[1:])], "report"), "x.csv")  # fmt: skip


def prediction(change: Callable[[Path], None], *words: str) -> Make:
    """A finished prediction `p`, changed, and a command on it; `predict` runs the same prediction again."""

    def make(folder: Path, world: World) -> Words:
        world.copy("pred", folder, "p")
        change(folder / "p")
        if words[0] != "predict":
            return words
        for name in ("judge", "test.csv"):
            (folder / name).symlink_to(world.folder / name)
        for name in ("predictions.csv", "merged.json"):
            (folder / "p" / name).unlink(missing_ok=True)
        return ["predict", "--model", "judge", "--data", "test.csv", "--out", "p"]

    return make


def as_before(folder: Path, _: Outcome) -> None:
    """Computed again: what the undamaged prediction says, to the last digit but one."""
    world = (folder / "judge").resolve().parent
    found, wanted = (read_rows(path) for path in (folder / "p/predictions.csv", world / "pred/predictions.csv"))
    assert [row["id"] for row in found] == [row["id"] for row in wanted], "other ids"
    for row, other in zip(found, wanted, strict=True):
        for name in ("winner_model_a", "winner_model_b", "winner_tie"):
            assert abs(float(row[name]) - float(other[name])) < 1e-5, (row, other)


def part(folder: Path) -> Path:
    return next(folder.glob("parts-*/part-*.npz"))


def arrays(change: Callable[[dict[str, np.ndarray]], Any], sealed: bool = True) -> Callable[[Path], None]:
    """Other arrays in a part, with a checksum that fits."""

    def edit(folder: Path) -> None:
        from tiebreak.prediction.parts import Part as Stored
        from tiebreak.prediction.parts import _digest

        path = part(folder)
        with np.load(path) as stored:
            held = dict(stored)
        change(held)
        names = [name for name in Stored.__dataclass_fields__ if name in held]
        if sealed:
            digest = _digest(held["seal"].tobytes(), {name: held[name] for name in names})
            held["checksum"] = np.frombuffer(digest, dtype=np.uint8)
        np.savez(path, **held)

    return edit


def sealed_as(text: str) -> Callable[[Path], None]:
    return arrays(lambda held: held.update(seal=np.frombuffer(text.encode(), dtype=np.uint8)))


def bomb(folder: Path) -> None:
    """An array that says it has 2 ** 50 rows."""
    with zipfile.ZipFile(part(folder), "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("rows", "logits", "swapped_logits", "failed", "tokens", "seconds", "seal", "checksum"):
            shape = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**50},), }}".ljust(117) + "\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(shape).to_bytes(2, "little") + shape.encode())


def pickled(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, ("pwned", "w"))

    np.savez(part(folder), rows=np.array([Evil()], dtype=object), allow_pickle=True)  # type: ignore[arg-type]


def replaced(content: bytes) -> Callable[[Path], None]:
    return lambda folder: part(folder).write_bytes(content) and None  # type: ignore[func-returns-value]


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"cut at {share}": (lambda f, s=share: cut(part(f), s)) for share in (0.0, 0.02, 0.3, 0.6, 0.9, 0.999)},
    **{f"a byte changed at {at:.2f}": (lambda f, a=at: flip(part(f), a)) for at in np.linspace(0, 1, 12)},
    "a text": replaced(b"hello"),
    "a zip of texts": replaced(b""),
    "a CSV": replaced(HEAD.encode()),
    "an array of 2 ** 50": bomb,
    "a pickle": pickled,
    "rows beyond the table": arrays(lambda held: held.update(rows=held["rows"] + 1000)),
    "negative rows": arrays(lambda held: held.update(rows=held["rows"] - 1)),
    "rows twice": arrays(lambda held: held.update(rows=np.zeros_like(held["rows"]))),
    "rows of floats": arrays(lambda held: held.update(rows=held["rows"].astype(float) + 0.5)),
    "rows of words": arrays(lambda held: held.update(rows=held["rows"].astype(str))),
    "two logits a row": arrays(lambda held: held.update(logits=held["logits"][:, :2])),
    "fewer logits than rows": arrays(lambda held: held.update(logits=held["logits"][:-1])),
    "logits of words": arrays(lambda held: held.update(logits=held["logits"].astype(str))),
    "codes of failures that are none": arrays(lambda held: held.update(failed=held["failed"] + 77)),
    "negative tokens": arrays(lambda held: held.update(tokens=held["tokens"] * -5)),
    "one count of tokens": arrays(lambda held: held.update(tokens=held["tokens"][:1])),
    "seconds of nan": arrays(lambda held: held.update(seconds=held["seconds"] * np.nan)),
    "no logits": arrays(lambda held: held.pop("logits")),
    "a checksum of another": arrays(lambda held: held.update(logits=held["logits"] + 1), sealed=False),
    "a seal that is a list": sealed_as("[1]"),
    "a seal that is no JSON": sealed_as("{"),
    "a seal without a part": sealed_as("{}"),
    "a seal nested deep": sealed_as("[" * 100_000),
    "a folder": lambda folder: (part(folder).unlink(), part_folder(folder).mkdir())[1],
    "a link that goes round": lambda folder: (part(folder).unlink(), part_folder(folder).symlink_to("part-0000000.npz"))[1],
}  # fmt: skip


def part_folder(folder: Path) -> Path:
    return next(folder.glob("parts-*")) / "part-0000000.npz"


def merged(folder: Path, _: Outcome) -> None:
    """A changed byte that counts for nothing, as in a zip's time stamps, changes nothing."""
    assert (folder / "p/predictions.csv").read_bytes() == (folder / "before.csv").read_bytes()


def kept(change: Callable[[Path], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "predictions.csv").rename(folder.parent / "before.csv")
        change(folder)

    return edit


for label, change in DAMAGES.items():
    check = merged if label.startswith("a byte") else None
    PART.add("parts, merged", label, prediction(kept(change), "merge", "p"), "p", "again", check=check)
for label in ("cut at 0.6", "a byte changed at 0.45", "a pickle", "an array of 2 ** 50", "rows twice", "negative rows",
              "two logits a row", "a seal that is a list", "a folder", "a link that goes round"):  # fmt: skip
    PART.add("parts, predicted again", label, prediction(DAMAGES[label], "predict"), check=as_before, heavy=True)
PART.add("parts, merged", "one more part of another prediction", prediction(lambda f: (f / next(f.glob("parts-*")).name / "part-0000009.npz").write_bytes(part(f).read_bytes()) and None, "merge", "p"), check=rows("p/predictions.csv", 40))  # type: ignore[func-returns-value]  # fmt: skip

KEYS = {
    "cut": lambda folder: cut(next(folder.glob("parts-*/rows.npz"))),
    "a byte changed": lambda folder: flip(next(folder.glob("parts-*/rows.npz")), 0.6),
    "a text": lambda folder: next(folder.glob("parts-*/rows.npz")).write_bytes(b"hello"),
    "empty": lambda folder: next(folder.glob("parts-*/rows.npz")).write_bytes(b""),
}
for label, change in KEYS.items():

    def foreign(folder: Path, world: World, change: Any = change) -> Words:
        world.copy("t.csv", folder)
        world.copy("own", folder)
        change(folder / "own")
        return ["distill", "--data", "t.csv", "--teachers", "own", "--out", "run", "--allow-in-sample"]

    PART.add("keys of rows", f"{label}: distill", foreign, "rows.npz", "again")
    PART.add("keys of rows", f"{label}: predict again", prediction(change, "predict"), check=as_before, heavy=True)

IDS = {
    "ids cut": lambda folder: cut(next(folder.glob("parts-*/ids.jsonl"))),
    "ids of objects": lambda folder: next(folder.glob("parts-*/ids.jsonl")).write_text("{}\n" * 40),
    "ids gone": lambda folder: next(folder.glob("parts-*/ids.jsonl")).unlink(),
}
for label, change in IDS.items():
    PART.add("ids of rows", f"{label}: merge", prediction(change, "merge", "p"), "ids.jsonl" if label != "ids gone" else "ids", "again")  # fmt: skip
    PART.add("ids of rows", f"{label}: predict again", prediction(change, "predict"), check=as_before, heavy=True)


def manifest(change: Callable[[Any], Any], name: str = "prediction.json") -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, change)


def put(**fields: Any) -> Callable[[Any], Any]:
    return lambda content: {**content, **fields}


MANIFESTS: dict[str, Callable[[Path], None]] = {
    "a list": manifest(lambda content: [content]),
    "null": manifest(lambda content: False),
    "rows: 10 ** 15": manifest(put(rows=10**15)),
    "rows: 0": manifest(put(rows=0)),
    "rows: 39": manifest(put(rows=39)),
    "rows: true": manifest(put(rows="many")),
    "part_count: 10 ** 12": manifest(put(part_count=10**12)),
    "part_count: -1": manifest(put(part_count=-1)),
    "parts: ..": manifest(put(parts="..")),
    "parts: an absolute path": manifest(put(parts="/etc")),
    "parts: of null bytes": manifest(put(parts="a\x00b")),
    "parts: 5,000 characters": manifest(put(parts="a" * 5000)),
    "class_shares: nan": lambda folder: text(folder, '"class_shares": [', '"class_shares": [NaN, '),
    "class_shares: of 9": manifest(put(class_shares=[9, 9, 9])),
    "class_shares: negative": manifest(put(class_shares=[-1, 1, 1])),
    "unreadable: rows beyond": manifest(put(unreadable=[10**9])),
    "unreadable: negative": manifest(put(unreadable=[-1])),
    "reasons: of rows beyond": manifest(put(reasons={"99999": "x"}, unreadable=[99999])),
    "adaptive: 1e400": lambda folder: text(folder, '"swap": false', '"swap": false, "adaptive": 1e400'),
    "degenerate rows beyond": manifest(put(degenerate={"source": "x", "rows": {"empty": [10**6]}, "outputs": {"empty": [0.2, 0.3, 0.5]}})),
    "degenerate without outputs": manifest(put(degenerate={"source": "x", "rows": {"empty": [1]}, "outputs": {}})),
    "provenance: nested deep": lambda folder: (folder / "prediction.json").write_text("[" * 200_000) and None,
    "version: 10 ** 30": manifest(put(version=10**30)),
    "a key twice": lambda folder: text(folder, '"rows": 40', '"rows": 40, "rows": 41'),
    "200 MB of spaces": lambda folder: text(folder, '"rows": 40', " " * (200 << 20) + '"rows": 40'),
    "models that hold themselves by ..": lambda folder: (folder / "prediction.json").write_text(json.dumps({"models": {"../p": "x"}, "table": "t", "rows": 40})) and None,
    "models of null bytes": lambda folder: (folder / "prediction.json").write_text(json.dumps({"models": {"a\x00": "x"}, "table": "t", "rows": 40})) and None,
    "models: none": lambda folder: (folder / "prediction.json").write_text(json.dumps({"models": {}, "table": "t", "rows": 40})) and None,
    "a folder": lambda folder: ((folder / "prediction.json").unlink(), (folder / "prediction.json").mkdir())[1],
    "UTF-16": lambda folder: (folder / "prediction.json").write_bytes((folder / "prediction.json").read_text().encode("utf-16")) and None,
}  # fmt: skip


def text(folder: Path, old: str, new: str) -> None:
    path = folder / "prediction.json"
    content = path.read_text()
    assert old in content, old
    path.write_text(content.replace(old, new))


for label, change in MANIFESTS.items():
    PART.add("prediction.json", label, prediction(change, "merge", "p"), "p")
for label in ("a list", "parts: ..", "rows: 10 ** 15", "provenance: nested deep", "version: 10 ** 30"):
    PART.add("prediction.json", f"{label}: predict", prediction(MANIFESTS[label], "predict"), check=as_before, heavy=True)  # fmt: skip
for label, change in {
    "merged.json a list": manifest(lambda content: [1], "merged.json"),
    "merged.json cut": lambda folder: cut(folder / "merged.json"),
    "failed: -5": manifest(put(failed=-5), "merged.json"),
}.items():

    def reported(folder: Path, world: World, change: Any = change) -> Words:
        world.copy("t.csv", folder)
        world.copy("own", folder)
        change(folder / "own")
        return ["report", "own", "--labels", "t.csv", "--out", "r"]

    PART.add("merged.json", label, reported, "merged.json", check=lambda f, _: assert_page(f))


def assert_page(folder: Path) -> None:
    assert "log loss" in (folder / "r/index.html").read_text()


for label, options in {
    "weights of nan": ["--weights", "nan", "1"],
    "weights of 1e400": ["--weights", "1e400", "1"],
    "weights of 0": ["--weights", "0", "0"],
    "weights below 0": ["--weights", "-1", "2"],
    "weights too many": ["--weights", *"1" * 3],
}.items():
    PART.add("options", label, lambda f, w, o=options: [w.copy("own", f), "ensemble", "own", "own/predictions.csv", "--out", "e.csv", *o][1:], "weights")  # fmt: skip
