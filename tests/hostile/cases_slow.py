"""Text of which the work must grow in proportion: 1 MB of one character, of a few, of anything."""

import csv
import json
import random
from pathlib import Path

from collecting import Make, Part, predicted, prints, rows
from harness import Words, World

PART = Part("slow")
MILLION = 1_000_000
random.seed(5)
TEXTS = {
    "blanks": " ",
    "line ends": "\n",
    "dots": ".",
    "hashes": "#",
    "ticks": "`",
    "stars": "*",
    "dashes": "- ",
    "pipes": "| ",
    "digits": "1",
    "numbered": "1. ",
    "brackets": "[",
    "opened and closed": "[](",
    "angles": "<",
    "quotes": '"',
    "backslashes": "\\",
    "ands": "&",
    "letters": "a",
    "syllables": "aeiou",
    "marks that combine": "e\u0301",
    "emoji": "\U0001f468\u200d\U0001f469\u200d",
    "sorry": "I'm sorry, but as an AI ",
    "tags": "<a",
    "line ends and blanks": "\n ",
    "carriage returns": "\r",
    "links": "http://a",
    "commas": ", ",
    "tables": "|-",
    "fences": "```\n",
}
RANDOM = "".join(random.choices("ab \n.#*`[]()<>|-_1\"'\\!?:/\u00e9\U0001f600", k=MILLION))


def whole(piece: str) -> str:
    return (piece * (MILLION // len(piece) + 1))[:MILLION]


def table(folder: Path, text: str, count: int = 36, plain: bool = False) -> None:
    """Rows of short texts, one of which is long in prompt and both answers."""
    cell = (lambda value: value) if plain else (lambda value: json.dumps([value]))
    with open(folder / "x.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "model_a", "model_b", "prompt", "response_a", "response_b", "winner"])
        for number in range(count):
            cells = [text, text[1:], text] if number == 3 else [f"question {number}", "yes " * number, "no"]
            writer.writerow([number, f"m{number % 3}", f"m{(number + 1) % 3}", *map(cell, cells), ["model_a", "model_b"][number // 3 % 2]])  # fmt: skip


def long(text: str, *words: str, plain: bool = False) -> Make:
    def make(folder: Path, world: World) -> Words:
        table(folder, text, plain=plain)
        for name in ("judge", "featured"):
            if (world.folder / name).exists():
                (folder / name).symlink_to(world.folder / name)
        if "x.pred" in words:
            lines = [f"{number},0.2,0.3,0.5" for number in range(36)]
            (folder / "x.pred.csv").write_text(
                "\n".join(["id,winner_model_a,winner_model_b,winner_tie", *lines]) + "\n"
            )
        return [word.replace("x.pred", "x.pred.csv") for word in words]

    return make


REPORT = ["report", "x.pred", "--labels", "x.csv", "--out", "r", "--resamples", "100"]
STYLE = ["leaderboard", "--data", "x.csv", "--out", "l", "--control", "length,style,readability,position"]


def reported(folder: Path, _: object) -> None:
    assert "log loss" in (folder / "r/index.html").read_text()


def listed(folder: Path, _: object) -> None:
    assert (folder / "l/leaderboard.csv").read_text().count("\n") >= 3


for label, piece in {**TEXTS, "random text": RANDOM}.items():
    text = piece if piece is RANDOM else whole(piece)
    PART.add("check", label, long(text, "check", "x.csv"), "x.csv", check=prints("36"))
    PART.add("features", label, long(text, *STYLE), "x.csv", check=listed)
    if label in ("blanks", "line ends", "numbered", "fences", "sorry", "random text", "tags", "letters", "ands"):
        PART.add("report", label, long(text, *REPORT), "x.csv", check=reported)
        PART.add("baseline", label, long(text, "baseline", "x.csv", "--folds", "2"), "x.csv", check=prints("prior"))
        PART.add("plain cells", label, long(text, "convert", "x.csv", "--out", "o.csv", plain=True), "x.csv", check=rows("o.csv", 36))  # fmt: skip
    if label in ("letters", "blanks", "emoji", "random text", "marks that combine"):
        words = ["predict", "--model", "judge", "--data", "x.csv", "--out", "p"]
        PART.add("predict", label, long(text, *words), "x.csv", check=predicted("p/predictions.csv", "x.csv"), heavy=True)  # fmt: skip
        words = ["train", "--recipe", "demo-deberta", "--data", "x.csv", "--out", "run", "--valid", "none",
                 "--set", "train.max_steps=1", "--set", "data.features=[length,style,readability,turns]"]  # fmt: skip
        PART.add("train with features", label, long(text, *words), "x.csv", check=lambda f, _: trained(f), heavy=True)


def trained(folder: Path) -> None:
    assert (folder / "run/model/model.safetensors").is_file()


def many_turns(folder: Path, _: World) -> Words:
    turns = json.dumps(["a"] * 100_000)
    cells = json.dumps({"id": "1", "prompt": turns, "response_a": turns, "response_b": turns, "winner": "tie"})
    (folder / "x.jsonl").write_text(f"{cells}\n" * 1)
    return ["check", "x.jsonl"]


PART.add("turns", "100,000 turns", many_turns, "x.jsonl", check=prints("1"))
