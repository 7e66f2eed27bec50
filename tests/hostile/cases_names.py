"""Names that become paths, pages, pictures and spreadsheets."""

import csv
from pathlib import Path

from collecting import Make, Part, read_rows
from harness import Outcome, Words, World

PART = Part("names")
HTML = "<script>alert(1)</script>"
NAMES = {
    "TeX": "$\\frac{1}{0}$ $x_{",
    "TeX that loops": "$" + "{" * 500 + "}" * 500 + "$",
    "HTML": HTML,
    "a quote of HTML": '"><img src=x onerror=alert(1)>',
    "Markdown": "](javascript:alert(1)) **x** | y |\n# z",
    "a formula": "=HYPERLINK(1)+cmd|' /C calc'!A0",
    "underscore first": "_hidden",
    "an emoji and letters that turn": "\U0001f600\u202eabc",
    "4,000 characters": "m" * 4000,
    "braces of format": "{0.__class__} %s %(x)d {} {{",
    "escapes": "\x1b[31mred\x07",
    "blank": "   ",
    "jinja": "{{ 7 * 7 }}{% raw %}",
}


def page(folder: Path, _: Outcome) -> None:
    """Pages hold names as text, never as markup; tables hold no formula."""
    pages = list(folder.glob("*/index.html"))
    assert pages, "no page"
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for markup in (HTML, "<img src=x", "\x1b"):
            assert markup not in text, markup
        assert "log loss" in text or "rating" in text.casefold(), "an empty page"
    for path in folder.glob("l/*.csv"):
        for row in read_rows(path):
            for cell in row.values():
                assert not (cell or "").startswith(("=", "@", "\t", "\r")), f"{path.name}: {cell[:40]!r}"


def judges(name: str) -> Make:
    """A report of two judges, one of which is called this."""

    def make(folder: Path, world: World) -> Words:
        for file in ("t.csv", "own"):
            world.copy(file, folder)
        return ["report", f"{name}=own", "other=own/predictions.csv", "--labels", "t.csv", "--out", "r"]

    return make


def systems(name: str, command: str) -> Make:
    """A table whose systems, and language, are called this."""

    def make(folder: Path, world: World) -> Words:
        world.copy("own", folder)
        given = read_rows(world.folder / "t.csv")
        for number, row in enumerate(given):
            row["language"] = name
            side = "model_a" if number % 2 else "model_b"
            row[side] = name if number % 3 else name + "2"
        with open(folder / "t.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(given[0]))
            writer.writeheader()
            writer.writerows(given)
        if command == "leaderboard":
            return ["leaderboard", "own", "--data", "t.csv", "--out", "l"]
        return ["report", "own", "--labels", "t.csv", "--out", "r"]

    return make


for label, name in NAMES.items():
    if "=" not in name:
        PART.add("judges", label, judges(name), "name", check=page)
    for command in ("report", "leaderboard"):
        PART.add(f"systems in a {command}", label, systems(name, command), "t.csv", check=page)
for label, name in {"..": "..", ".": ".", "--help": "--help", "a path": "../../x", "absolute": "/tmp/x", "empty": ""}.items():  # fmt: skip
    says = {"--help": "help", "": "own"}.get(name, "name")
    PART.add("judges", label, judges(name), says, check=page)


def recipe_named(name: str) -> Make:
    def make(folder: Path, world: World) -> Words:
        world.copy("t.csv", folder)
        (folder / "r.yaml").write_text(
            f"name: {name!r}\ndescription: {HTML!r}\nmodel: {{base: demo-deberta, template: deberta}}\n"
            "train: {max_steps: 1}\ndata: {max_tokens: 64}\n"
        )
        return ["train", "--recipe", "r.yaml", "--data", "t.csv"]

    return make


def inside(folder: Path, _: Outcome) -> None:
    """The run lies below runs/, and its card holds no markup."""
    made = [path.parent for path in folder.rglob("recipe.yaml")]
    assert made and all(path.parent == folder / "runs" for path in made), f"{made}"
    assert HTML not in (made[0] / "model/README.md").read_text()


for name in (
    "..",
    "../../x",
    "/tmp/hostile-x",
    "--help",
    ".",
    "",
    " ",
    "a/b",
    "$(touch pwned)",
    HTML,
    "a\x07b",
    "x" * 300,
    "CON",
):
    PART.add("recipes", repr(name)[:40], recipe_named(name), "name", check=inside, heavy=True)
