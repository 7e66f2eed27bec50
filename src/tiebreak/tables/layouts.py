"""What public preference tables look like: each layout is known by its columns, and its rows become Kaggle's.

A layout's reader takes one raw row and gives cells named as Kaggle names them: `prompt`, `response_a`, `response_b`
(lists with a string for each turn, or raw cells) and, where the row has them, `winner`, `model_a`, `model_b` and
`language`; `tiebreak.tables.open_table` adds the id. The layouts of a file are tried in order; docs/tables.md shows
`LAYOUTS` as a table.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiebreak.labels import TIE
from tiebreak.tables.cells import CellError, normalise_prompt
from tiebreak.tables.conversations import read_conversation, read_dialogue, read_sides
from tiebreak.tables.winner import LABEL_COLUMNS

Cells = Mapping[str, object]
Counts = Counter[str]
KAGGLE = frozenset({"prompt", "response_a", "response_b"})


@dataclass(frozen=True)
class Layout:
    """A kind of table.

    Attributes:
        name: for messages.
        of: public tables of this kind.
        needs: columns that a table of this kind has. lacks: columns that it has not.
        read: raw row -> Kaggle's cells; None where they are Kaggle's already.
        ids: columns that may hold a row's id; the first that a table has does. Without any, rows are numbered.
        labelled: whether every such table has labels, under columns of its own.
    """

    name: str
    of: str
    needs: frozenset[str]
    read: Callable[[Cells, Counts], dict[str, object]] | None
    lacks: frozenset[str] = frozenset()
    ids: tuple[str, ...] = ("id",)
    labelled: bool = False

    def fits(self, columns: Sequence[str]) -> bool:
        """Whether a table with these columns is of this kind."""
        return self.needs <= set(columns) and not self.lacks & set(columns)

    def id_column(self, columns: Sequence[str]) -> str | None:
        """The column with a table's ids; None where the rows' numbers are the ids."""
        return next((name for name in self.ids if name in columns), None)


def find_layout(columns: Sequence[str]) -> Layout | None:
    """The first layout that fits a table's columns, or None."""
    return next((layout for layout in LAYOUTS if layout.fits(columns)), None)


def chosen_is_b(prompt: Sequence[str]) -> bool:
    """On which side a chosen answer stands: by a hash of its prompt, so that no side wins by its place."""
    return bool(hashlib.blake2b(normalise_prompt(prompt).encode(errors="replace"), digest_size=1).digest()[0] & 1)


def _arena(cells: Cells, counts: Counts) -> dict[str, object]:
    """Two whole conversations; of MT-bench, up to the judged round."""
    prompt, a, b = read_sides(cells["conversation_a"], cells["conversation_b"], counts)
    rounds = _round(cells.get("turn"), len(prompt))
    return {
        "prompt": prompt[:rounds],
        "response_a": a[:rounds],
        "response_b": b[:rounds],
        **_kept(cells, "winner", "model_a", "model_b", "language"),
    }


def _round(turn: object, rounds: int) -> int:
    """How many rounds were judged: those up to `turn`."""
    text = str(turn)
    if text.isdecimal() and 1 <= int(text) <= rounds:
        return int(text)
    if turn is None or not rounds:
        return rounds
    raise CellError(f"turn is {text[:20]}, and the conversation has {rounds}")


def _helpsteer(cells: Cells, counts: Counts) -> dict[str, object]:
    prompt, earlier = read_conversation(cells["context"], counts)
    strength = _number("overall_preference", cells.get("overall_preference"))
    winner = None if strength is None else TIE if strength == 0 else int(strength > 0)
    return {
        "prompt": prompt,
        "response_a": [*earlier[:-1], _answer("response1", cells)],
        "response_b": [*earlier[:-1], _answer("response2", cells)],
        "winner": winner,
        **_kept(cells, "language"),
    }


def _number(name: str, value: object) -> float | None:
    """A number, or None where the cell is empty."""
    if value is None or str(value).strip() == "":
        return None
    try:
        number = float(str(value))
    except ValueError:
        raise CellError(f"{name} is {str(value)[:40]!r}, not a number") from None
    if not abs(number) <= 3:
        raise CellError(f"{name} is {value}, not from -3 to 3")
    return number


def _numbered(a: str, b: str, prompt: str, extra: str = "") -> Callable[[Cells, Counts], dict[str, object]]:
    """Reader of tables with one text a column: two answers under these names, a prompt and what is added to it."""

    def read(cells: Cells, counts: Counts) -> dict[str, object]:
        text = _joined(cells.get(prompt), cells.get(extra))
        answers = {"response_a": [_answer(a, cells)], "response_b": [_answer(b, cells)]}
        return {"prompt": [text], **answers, **_kept(cells, *LABEL_COLUMNS, "model_a", "model_b")}

    return read


def _pandalm(cells: Cells, counts: Counts) -> dict[str, object]:
    """Three annotators say 1, 2 or 0 for a tie: their majority; without one, a tie."""
    row = _numbered("response1", "response2", "instruction", "input")(cells, counts)
    votes = [str(value) for name, value in cells.items() if name.startswith("annotator") and value is not None]
    if bad := [vote for vote in votes if vote not in ("0", "1", "2")]:
        raise CellError(f"an annotator says {bad[0][:20]!r}, not 0, 1 or 2")
    leading = Counter(votes).most_common(2)
    if leading:
        split = len(leading) > 1 and leading[0][1] == leading[1][1]
        row["winner"] = {"1": 0, "2": 1, "0": TIE}["0" if split else leading[0][0]]
    return row


def _llmbar(cells: Cells, counts: Counts) -> dict[str, object]:
    """The label says which output is better: 1 or 2."""
    row = _numbered("output_1", "output_2", "input")({**cells, "label": None}, counts)
    label = str(cells["label"])
    if label not in ("1", "2"):
        raise CellError(f"label is {label[:20]!r}, not 1 or 2")
    return {**row, "winner": int(label) - 1}


def _judgebench(cells: Cells, counts: Counts) -> dict[str, object]:
    """The label says which response is right: `A>B` or `B>A`."""
    row = _numbered("response_A", "response_B", "question")({**cells, "label": None}, counts)
    label = str(cells["label"]).replace(" ", "")
    if label not in ("A>B", "B>A"):
        raise CellError(f"label is {label[:20]!r}, not A>B or B>A")
    return {**row, "winner": int(label == "B>A")}


def _shp(cells: Cells, counts: Counts) -> dict[str, object]:
    first = str(cells["labels"])
    if first not in ("0", "1"):
        raise CellError(f"labels is {first[:20]!r}, not 1 (A preferred) or 0")
    row = _numbered("human_ref_A", "human_ref_B", "history")(cells, counts)
    return {**row, "winner": 1 - int(first)}


def _chosen(cells: Cells, counts: Counts) -> dict[str, object]:
    """A chosen and a rejected answer, as texts, messages or whole conversations, with or without a prompt beside."""
    chosen, rejected = _conversation_cells(cells)
    if isinstance(chosen, str) and isinstance(rejected, str) and chosen.lstrip().startswith("Human:"):
        (prompt, best), (_, worst) = read_dialogue(chosen), read_dialogue(rejected)
    else:
        prompt, best, worst = read_sides(chosen, rejected, counts)
    swapped = chosen_is_b([turn or "" for turn in prompt])
    row: dict[str, object] = {"prompt": prompt}
    names = (cells.get("chosen_model"), cells.get("rejected_model"))
    sides = ((worst, names[1]), (best, names[0])) if swapped else ((best, names[0]), (worst, names[1]))
    for side, (answer, name) in zip("ab", sides, strict=True):
        row |= {f"response_{side}": answer} | ({f"model_{side}": name} if name else {})
    return row | {"winner": int(swapped)} | _kept(cells, "language")


def _conversation_cells(cells: Cells) -> tuple[object, object]:
    """What was chosen and rejected, each with the conversation before it where the row has one apart."""
    before: Any = cells.get("prompt", cells.get("conversations"))
    if before is None and "instruction" in cells:
        before = _joined(cells["instruction"], cells.get("input"))
    sides = []
    for name in ("chosen", "rejected"):
        side: Any = cells[name]
        if isinstance(side, dict):
            side = [side]
        if before is None or (isinstance(side, list) and _begins_with_user(side)):
            sides.append(side)
            continue
        if not isinstance(side, (str, list)):
            raise CellError(f"{name}: {type(side).__name__} instead of a text or messages")
        asked = before if isinstance(before, list) else [{"role": "user", "content": before}]
        sides.append([*asked, *(side if isinstance(side, list) else [{"role": "assistant", "content": side}])])
    return sides[0], sides[1]


def _begins_with_user(messages: list[Any]) -> bool:
    roles = [message.get("role", message.get("from")) for message in messages if isinstance(message, dict)]
    return any(role in ("user", "human") for role in roles)


def _joined(text: object, extra: object) -> str:
    """An instruction and its input, a blank line between them."""
    parts = [part for part in (text, extra) if part and part == part]  # PandaLM's file has NaN for no input
    if any(not isinstance(part, str) for part in parts):
        raise CellError(f"the prompt is a {type(parts[0]).__name__}, not text")
    return "\n\n".join(map(str, parts))


def _answer(name: str, cells: Cells) -> str | None:
    value = cells[name]
    if value is not None and not isinstance(value, str):
        raise CellError(f"{name}: {type(value).__name__} instead of text")
    return value


def _kept(cells: Cells, *names: str) -> dict[str, object]:
    return {name: cells[name] for name in names if name in cells}


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


LAYOUTS = (
    Layout("kaggle", "LMSYS 55k and WSDM Cup on Kaggle, and tables of your own", KAGGLE, None),
    Layout(
        "mt-bench",
        "lmsys/mt_bench_human_judgments",
        _needs("conversation_a", "conversation_b", "judge", "turn"),
        _arena,
        lacks=_needs("tstamp"),
    ),
    Layout(
        "arena",
        "lmsys/chatbot_arena_conversations (33k), lmarena-ai/arena-human-preference-100k and -140k",
        _needs("conversation_a", "conversation_b"),
        _arena,
        ids=("id", "question_id"),
    ),
    Layout(
        "helpsteer3",
        "nvidia/HelpSteer3",
        _needs("context", "response1", "response2", "overall_preference"),
        _helpsteer,
        labelled=True,
    ),
    Layout(
        "chosen/rejected",
        "UltraFeedback, HH-RLHF, RewardBench, TRL's and LLaMA-Factory's preference files",
        _needs("chosen", "rejected"),
        _chosen,
        labelled=True,
    ),
    Layout(
        "shp",
        "stanfordnlp/SHP",
        _needs("history", "human_ref_A", "human_ref_B", "labels"),
        _shp,
        labelled=True,
    ),
    Layout(
        "judgebench",
        "ScalerLab/JudgeBench",
        _needs("question", "response_A", "response_B", "label"),
        _judgebench,
        ids=("id", "pair_id"),
        labelled=True,
    ),
    Layout(
        "llmbar",
        "princeton-nlp/LLMBar",
        _needs("input", "output_1", "output_2", "label"),
        _llmbar,
        labelled=True,
    ),
    Layout(
        "auto-j",
        "GAIR-NLP/auto-j",
        _needs("prompt", "response 1", "response 2"),
        _numbered("response 1", "response 2", "prompt"),
    ),
    Layout(
        "pandalm",
        "WeOpenML/PandaLM",
        _needs("instruction", "response1", "response2"),
        _pandalm,
        labelled=True,
    ),
)
