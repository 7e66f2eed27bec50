"""Public suites in local files: each is known by its columns, and its rows become items with two or more answers."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from tiebreak.errors import UserError
from tiebreak.labels import TIE
from tiebreak.plurals import plural
from tiebreak.tables.cells import CellError
from tiebreak.tables.containers import open_rows, printable
from tiebreak.tables.layouts import chosen_is_b, find_layout
from tiebreak.tables.rows import Forms, Pair, Problem, read_pair
from tiebreak.tables.table import OnBadRow

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One row of a suite.

    Attributes:
        place: file and row, for messages and ids.
        prompt: its turns.
        answers: two or more, each as its turns.
        label: of two answers: 0, 1 or 2 (a tie); None where the suite says nothing, and for more answers.
        correct: of more answers, how many are: these come first.
        subset: the part of the suite.
        marks: what else the suite's score needs, by the suite's own column names.
    """

    place: str
    prompt: list[str]
    answers: list[list[str]]
    label: int | None
    correct: int
    subset: str
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """How a suite's file looks.

    Attributes:
        name: for people.
        of: where it is published.
        needs: columns that tell it.
        subset: the column that names the part of the suite; empty: the file's name does.
        marks: further columns that its score needs.
        lacks: columns that tell it from another table with the same ones.
        ties: whether its labels may be ties, so that a judge's tie is a verdict too.
    """

    name: str
    of: str
    needs: frozenset[str]
    subset: str = ""
    marks: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset()
    ties: bool = False


FORMS = (
    Form(
        "RewardBench 2",
        "allenai/reward-bench-2",
        frozenset({"id", "prompt", "chosen", "rejected", "subset", "num_correct"}),
        "subset",
        ("id",),
    ),
    Form("RewardBench", "allenai/reward-bench", frozenset({"prompt", "chosen", "rejected", "subset"}), "subset"),
    Form("JudgeBench", "ScalerLab/JudgeBench", frozenset({"question", "response_A", "response_B", "label"}), "source"),
    Form("LLMBar", "princeton-nlp/LLMBar", frozenset({"input", "output_1", "output_2", "label"})),
    Form(
        "MT-bench",
        "lmsys/mt_bench_human_judgments",
        frozenset({"conversation_a", "conversation_b", "judge", "turn", "winner"}),
        "turn",
        ("judge",),
        lacks=frozenset({"tstamp"}),  # Chatbot Arena's conversations
        ties=True,
    ),
    Form(
        "Auto-J",
        "GAIR-NLP/auto-j",
        frozenset({"prompt", "response 1", "response 2", "label"}),
        "scenario",
        ties=True,
    ),
    Form(
        "PandaLM",
        "WeOpenML/PandaLM",
        frozenset({"instruction", "response1", "response2", "annotator1"}),
        "",
        ("annotator1", "annotator2", "annotator3"),
        ties=True,
    ),
)
"""In this order: RewardBench's columns are among those of RewardBench 2. docs/bench.md shows them as a table."""


@dataclass(frozen=True)
class Suite:
    """The items of one suite, of one or more files; `bad` rows could not be read."""

    form: Form
    files: list[str]
    items: list[Item]
    bad: int = 0


@dataclass(frozen=True)
class Game:
    """A comparison that a judge is asked for: answers `first` and `second` of an item, as A and B."""

    item: int
    first: int
    second: int


def read_suites(files: Sequence[Path], on_bad_row: OnBadRow = "fail") -> list[Suite]:
    """Read the suites of some files; files of one suite are its parts.

    Args:
        files: tables of any container.
        on_bad_row: `fail`, or `skip` to leave unreadable rows out.

    Raises:
        UserError: a file of no known suite, or unreadable rows under `fail`.
    """
    found: dict[str, Suite] = {}
    for path in files:
        columns, rows = open_rows(path)
        form = next((f for f in FORMS if f.needs <= set(columns) and not f.lacks & set(columns)), None)
        if form is None:
            known = ", ".join(form.name for form in FORMS)
            raise UserError(
                f"{path}: its columns ({printable(', '.join(columns))}) are those of no suite that is known ({known}); "
                "tiebreak predict --labels auto scores any labelled table"
            )
        read = [_read(form, path, number, cells) for number, cells in rows]
        problems = [row for row in read if isinstance(row, Problem)]
        if problems and on_bad_row == "fail":
            raise UserError(
                f"{problems[0]} ({plural(len(problems), 'bad row')} of {form.name}); correct the file, or leave such "
                "rows out with --on-bad-row=skip"
            )
        items = [row for row in read if isinstance(row, Item)]
        if not items:
            raise UserError(f"{path}: no readable rows of {form.name}")
        before = found.get(form.name, Suite(form, [], []))
        bad = before.bad + len(problems)
        found[form.name] = Suite(form, [*before.files, str(path)], [*before.items, *items], bad)
    return list(found.values())


def _read(form: Form, path: Path, number: int, cells: Raw | str) -> Item | Problem:
    if isinstance(cells, str):
        return Problem(path.name, number, None, cells)
    try:
        return _many(form, path, number, cells) if "num_correct" in form.needs else _two(form, path, number, cells)
    except CellError as error:
        return Problem(path.name, number, None, str(error))
    except KeyError as error:
        return Problem(path.name, number, None, f"no {error.args[0]}")


def _two(form: Form, path: Path, number: int, cells: Raw) -> Item:
    """Two answers, read by the layout of such tables."""
    layout = find_layout(list(cells))
    if layout is None or layout.read is None:
        raise CellError("cells are absent")
    read = layout.read(cells, Counter())
    pair = read_pair(path.name, number, {**read, "id": number}, Forms(), Counter())
    if not isinstance(pair, Pair):
        raise CellError(pair.reason)
    if pair.label is None:
        raise CellError("no label")
    if absent := [name for name in form.marks if cells[name] is None]:
        raise CellError(f"no {absent[0]}")
    subset = cells.get(form.subset) if form.subset else _part_of(path)
    marks = {name: str(cells[name]) for name in form.marks}
    answers = [pair.response_a, pair.response_b]
    return Item(_place(path, number), pair.prompt, answers, pair.label, 0, str(subset or ""), marks)


def _many(form: Form, path: Path, number: int, cells: Raw) -> Item:
    """Correct and wrong answers to one prompt."""
    chosen, rejected = _texts("chosen", cells["chosen"]), _texts("rejected", cells["rejected"])
    if not isinstance(cells["prompt"], str):
        raise CellError("prompt is not a text")
    marks = {name: str(cells[name]) for name in form.marks}
    subset = str(cells["subset"])
    if subset == TIES and not re.fullmatch(r"(ref|tied):.+", marks["id"]):
        raise CellError(f"the id is {marks['id'][:30]!r}; rows of {TIES} are ref:NUMBER or tied:NUMBER")
    answers = [[text] for text in (*chosen, *rejected)]
    return Item(_place(path, number), [cells["prompt"]], answers, None, len(chosen), subset, marks)


TIES = "Ties"
"""The subset of RewardBench 2 that has more than one correct answer."""


def _texts(name: str, cell: object) -> list[str]:
    """A list of texts, itself or as JSON."""
    try:
        value = json.loads(cell) if isinstance(cell, str) else cell
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise CellError(f"{name} is not a list of texts")
    return value


def _part_of(path: Path) -> str:
    """The part of a suite that a file holds: LLMBar's are all called dataset.json, in folders with the parts' names."""
    name = path.name.partition(".")[0]
    return path.resolve().parent.name if name == "dataset" else re.sub(r"-\d{5}-of-\d{5}$", "", name)


def _place(path: Path, number: int) -> str:
    return f"{path.name}, row {number}"


def games_of(suite: Suite) -> list[Game]:
    """The comparisons of a suite: every pair of an item's answers; of more than two, on sides by the prompt's hash."""
    games = []
    for number, item in enumerate(suite.items):
        turned = chosen_is_b(item.prompt)
        for i, j in combinations(range(len(item.answers)), 2):
            swapped = item.correct > 0 and turned == bool((i + j) % 2)
            games.append(Game(number, j, i) if swapped else Game(number, i, j))
    return games


def label_of(item: Item, game: Game) -> int | None:
    """Who is better in a game: 0 for its first answer, 1 for its second, 2 for a tie; None where nobody says.

    Of more than two answers two correct ones are a tie, and of two wrong ones nobody says which is better.
    """
    if not item.correct:
        return item.label
    right = game.first < item.correct, game.second < item.correct
    return {(True, True): TIE, (True, False): 0, (False, True): 1}.get(right)


def as_pairs_of(suites: Sequence[Suite]) -> Iterator[Pair]:
    """Every game as a row for a judge, its id made of the suite's name, the item and the answers."""
    for suite in suites:
        short = suite.form.name.lower().replace(" ", "").replace("-", "")
        for game in games_of(suite):
            item = suite.items[game.item]
            row_id = f"{short}:{game.item + 1}:{game.first + 1}-{game.second + 1}"
            a, b = item.answers[game.first], item.answers[game.second]
            yield Pair(row_id, item.prompt, a, b, label_of(item, game), file=item.place)
