"""A judge that chooses: between two answers or two systems, or the best of several candidates."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiebreak.decisions.answers import join_answers, read_candidates
from tiebreak.decisions.comparing import Comparison, rank_candidates, summarise
from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.outputs import refuse_over
from tiebreak.storage import make_folder
from tiebreak.tables.table import read_table
from tiebreak.verdict import Text

if TYPE_CHECKING:
    from tiebreak.api import Judge

SUFFIXES = (".csv", ".jsonl")


def compare(
    model: "str | Path | Judge", first: Text | Path, second: Text | Path | None = None, *, prompt: Text = None
) -> Comparison:
    """Compare two answers to a prompt, or two systems by their answers to many, looking at both answer orders.

    Args:
        model: a judge, or the folder of one.
        first: with `prompt` an answer, else a file of answers (`prompt`, `response`, perhaps `id`); or, without
            `second`, a table of pairs, whose answers A are the first system's and B the second's.
        second: the other answer or file.
        prompt: a string, or a list of strings with one entry per turn.

    Raises:
        UserError: no judge there, or files that cannot be used.

    Example:
        >>> compare(judge, "4", "5", prompt="What is 2+2?").rows
        1
    """
    if prompt is not None:
        return summarise(_predict(load_judge(model), [(prompt, first, second)]), [_turns(prompt)], ("first", "second"))
    notes: list[str] = []
    files = [Path(str(name)) for name in (first, second) if name is not None]
    if len(files) == 1:
        table = read_table(files)
        rows, names = [(pair.prompt, pair.response_a, pair.response_b) for pair in table.pairs], ("A", "B")
    else:
        rows, notes = join_answers(*files)
        names = (files[0].name, files[1].name) if files[0].name != files[1].name else (str(files[0]), str(files[1]))
    return summarise(_predict(load_judge(model), rows), [row[0] for row in rows], names, notes)


@dataclass(frozen=True)
class Choice:
    """The best candidate of a prompt.

    Attributes:
        prompt: its turns.
        answer: the best one's turns.
        index: its place among the candidates, from 0.
        scores: of every candidate: the mean over the others of P(it is preferred) + P(tie) / 2.
    """

    prompt: list[str]
    answer: list[str]
    index: int
    scores: list[float]


def best_of(
    model: "str | Path | Judge",
    candidates: str | Path | Sequence[tuple[Text, Sequence[Text]]],
    *,
    out: str | Path | None = None,
) -> list[Choice]:
    """Choose the best of several candidates for each prompt, comparing each with every other in both orders.

    Args:
        model: a judge, or the folder of one.
        candidates: a file with a row for each candidate (`prompt`, `response`) or for each prompt (`prompt`,
            `responses`: a list); or (prompt, answers) in memory. k candidates take k (k - 1) looks.
        out: a .csv or .jsonl file with a row for each prompt.

    Raises:
        UserError: no judge there, a file that cannot be used, or a prompt with one candidate.

    Example:
        >>> best_of(judge, [("What is 2+2?", ["4", "5", "four"])])[0].index in (0, 1, 2)
        True
    """
    if out is not None and Path(out).suffix not in SUFFIXES:
        raise UserError(f"--out {out}: give a name that ends in {' or '.join(SUFFIXES)}")
    if out is not None and isinstance(candidates, (str, Path)):
        refuse_over(out, [candidates])
    given: list[tuple[list[str], list[list[str]]]]
    if isinstance(candidates, (str, Path)):
        given = read_candidates(Path(candidates))
    else:
        given = [(_turns(prompt), [_turns(answer) for answer in answers]) for prompt, answers in candidates]
    if few := [prompt for prompt, answers in given if len(answers) < 2]:
        raise UserError(f"one candidate only for the prompt {' '.join(few[0])[:60]!r}; give at least two")
    games = [(prompt, a, b) for prompt, answers in given for a, b in combinations(answers, 2)]
    scores = rank_candidates([len(answers) for _, answers in given], _predict(load_judge(model), games))
    chosen = [
        Choice(prompt, answers[best], best, each)
        for (prompt, answers), each in zip(given, scores, strict=True)
        for best in [int(np.argmax(each))]
    ]
    if out is not None:
        make_folder(Path(out).parent)
        write_atomically(Path(out), _lines(chosen) if Path(out).suffix == ".jsonl" else _table(chosen))
    return chosen


def load_judge(model: "str | Path | Judge") -> "Judge":
    """A judge itself, or that of a folder; a folder that holds none is told before torch is imported."""
    if not isinstance(model, (str, Path)):
        return model
    from tiebreak.models.folder import find_model_folder

    find_model_folder(model)  # before torch is imported
    from tiebreak.api import Judge

    return Judge.load(model)


def _predict(judge: "Judge", rows: Sequence[tuple[Any, Any, Any]]) -> np.ndarray:
    return judge.predict(rows, swap=True)


def _turns(text: Text) -> list[str]:
    return [text or ""] if text is None or isinstance(text, str) else [turn or "" for turn in text]


def _plain(turns: list[str]) -> str | list[str]:
    """One turn as a string, several as they are."""
    return turns[0] if len(turns) == 1 else turns


def _lines(chosen: Sequence[Choice]) -> str:
    rows = (
        {"prompt": _plain(c.prompt), "response": _plain(c.answer), "index": c.index, "scores": c.scores} for c in chosen
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(chosen: Sequence[Choice]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt", "response", "index", "score", "candidates"])
    for c in chosen:
        texts = [_plain(turns) for turns in (c.prompt, c.answer)]
        cells = [text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for text in texts]
        writer.writerow([*cells, c.index, f"{c.scores[c.index]:.6f}", len(c.scores)])
    return text.getvalue()
