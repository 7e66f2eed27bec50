"""Files of answers: two systems' answers to the same prompts, or several candidates for each prompt."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.errors import UserError
from tiebreak.plurals import plural
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.containers import SNIFFED_ROWS, open_rows
from tiebreak.tables.rows import Pair, Problem, read_pair, recognise

ANSWERS = ("response", "answer", "output", "completion")
"""Names that a column of answers may have."""
MOST_CANDIDATES = 1_000
CANDIDATES = ("responses", "answers", "candidates")
"""Names that a column of several answers may have, each cell a list or a JSON array of strings."""
Predict = Callable[[Sequence[tuple[Any, Any, Any]]], np.ndarray]
"""Probabilities (n, 3) of A, B and a tie of comparisons (prompt, answer A, answer B), both orders looked at."""
Turns = list[str]


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt, each as its turns, with its row's id if the file has ids."""

    row_id: str | None
    prompt: Turns
    text: Turns


def read_answers(path: Path) -> list[Answer]:
    """Read a file with the columns `prompt` and `response` (or `answer`, `output`, `completion`), and perhaps `id`.

    Raises:
        UserError: other columns, or a row that cannot be read.
    """
    columns, _ = open_rows(path)
    name = next((name for name in ANSWERS if name in columns), None)
    if name is None or "prompt" not in columns:
        raise UserError(f"{path}: answers need the columns prompt and response (or {', '.join(ANSWERS[1:])})")
    pairs = _read_pairs(path, lambda cells: {"response_a": cells.get(name), "response_b": cells.get(name)})
    return [Answer(pair.id if "id" in columns else None, pair.prompt, pair.response_a) for pair in pairs]


def _read_pairs(path: Path, answers: Callable[[Mapping[str, Any]], dict[str, Any]]) -> list[Pair]:
    """Each row as a pair, whose two answers are made from its cells."""
    _, rows = open_rows(path)
    found: list[tuple[int, dict[str, Any]]] = []
    for number, cells in rows:
        if isinstance(cells, str):
            raise UserError(f"{path}, row {number}: {cells}; correct the file")
        row_id = number if cells.get("id") is None else cells["id"]
        found.append((number, {"id": row_id, "prompt": cells.get("prompt"), **answers(cells)}))
    if not found:
        raise UserError(f"{path}: the table has a header but no rows: give one with answers")
    forms, pairs = recognise([cells for _, cells in islice(found, SNIFFED_ROWS)]), []
    for number, cells in found:
        pair = read_pair(path.name, number, cells, forms, Counter())
        if isinstance(pair, Problem):
            raise UserError(f"{pair}; correct the file")
        pairs.append(pair)
    return pairs


def join_answers(first: Path, second: Path) -> tuple[list[tuple[Turns, Turns, Turns]], list[str]]:
    """The prompts that both files answer, with both answers, and what is to be said of the others.

    Rows are joined by id where both files have ids, else by prompt, the first row of a prompt with the first and so on.

    Raises:
        UserError: files that cannot be read, ids that occur twice or whose prompts differ, or no prompt in common.
    """
    files = [read_answers(path) for path in (first, second)]
    by_id = all(answers[0].row_id is not None for answers in files)
    keyed = [_by_key(answers, by_id, path) for answers, path in zip(files, (first, second), strict=True)]
    common = [key for key in keyed[0] if key in keyed[1]]
    if not common:
        raise UserError(
            f"{first} and {second} have no {'id' if by_id else 'prompt'} in common: give two files of "
            "answers to the same prompts"
        )
    for key in common if by_id else []:
        if normalise_prompt(keyed[0][key].prompt) != normalise_prompt(keyed[1][key].prompt):
            raise UserError(f"{first} and {second}: the row {key} has another prompt in each; number them alike")
    notes = [
        f"{plural(len(answers) - len(common), 'row')} of {path.name} without a counterpart left out"
        for answers, path in zip(keyed, (first, second), strict=True)
        if len(answers) > len(common)
    ]
    return [(keyed[0][key].prompt, keyed[0][key].text, keyed[1][key].text) for key in common], notes


def _by_key(answers: Sequence[Answer], by_id: bool, path: Path) -> dict[str, Answer]:
    seen: Counter[str] = Counter()
    keyed: dict[str, Answer] = {}
    for answer in answers:
        key = str(answer.row_id) if by_id else normalise_prompt(answer.prompt)
        seen[key] += 1
        if by_id and seen[key] > 1:
            raise UserError(f"{path}: the id {key} occurs twice; give each row an id of its own")
        keyed[key if by_id else f"{key}\n{seen[key]}"] = answer
    return keyed


def read_candidates(path: Path) -> list[tuple[Turns, list[Turns]]]:
    """The prompts of a file, each with its candidates: rows of one prompt, or a column that lists them.

    Raises:
        UserError: a file that cannot be read, or a prompt with one candidate only.
    """
    columns, _ = open_rows(path)
    listed = next((name for name in CANDIDATES if name in columns), None)
    grouped: dict[str, tuple[Turns, list[Turns]]] = {}
    if listed is None:
        for answer in read_answers(path):
            grouped.setdefault(normalise_prompt(answer.prompt), (answer.prompt, []))[1].append(answer.text)
        found = list(grouped.values())
    else:
        lists: list[list[Turns]] = []

        def keep(cells: Mapping[str, Any]) -> dict[str, Any]:
            lists.append(_list_of(cells.get(listed), path, len(lists) + 1, str(listed)))
            return {"response_a": None, "response_b": None}

        found = [(pair.prompt, texts) for pair, texts in zip(_read_pairs(path, keep), lists, strict=True)]
    for prompt, texts in found:
        if len(texts) < 2:
            raise UserError(f"{path}: one candidate only for the prompt {' '.join(prompt)[:60]!r}; give at least two")
        if len(texts) > MOST_CANDIDATES:
            raise UserError(
                f"{path}: {len(texts):,} candidates for the prompt {' '.join(prompt)[:60]!r}, each of which is "
                f"compared with every other: give at most {MOST_CANDIDATES:,}"
            )
    return found


def _list_of(cell: Any, path: Path, number: int, name: str) -> list[Turns]:
    """The candidates of a cell: a list of strings, or of lists of turns."""
    try:
        values = json.loads(cell) if isinstance(cell, str) else cell
        return [[str(turn or "") for turn in ([value] if isinstance(value, str) else value)] for value in values]
    except (TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path}, row {number}: {name} is {str(cell)[:60]!r}, and should be a list of answers: write it as JSON, "
            'like ["one answer", "another"]'
        ) from None
