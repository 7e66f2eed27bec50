"""A row's texts as the token ids that a judge reads: cut to the limit, joined with the template's pieces.

Nothing here imports more than the standard library: `tiebreak.export.lite` runs it without torch, transformers and
pyarrow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from tiebreak.data.templates import Template
from tiebreak.data.truncation import Turns, cut_turns, join_turns
from tiebreak.errors import UserError

PIECES = ("head", "before_first", "before_second", "tail", "turn")
Encode = Callable[[list[str]], list[list[int]]]
"""Token ids of each of several texts."""
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Frame:
    """What a template takes of every row: token ids of its fixed pieces, their total, and what is left for the text."""

    pieces: dict[str, list[int]]
    sides: bool
    length: int
    budget: int


@dataclass(frozen=True)
class CutRow:
    """A row that fits.

    Attributes:
        parts: token ids of prompt and both answers, separators included.
        turns: the same turn by turn, without separators.
        truncated: whether something was left out.
    """

    parts: list[list[int]]
    turns: list[Turns]
    truncated: bool


def fit_frame(encode: Encode, template: Template, max_tokens: int) -> Frame:
    """Tokenise the fixed pieces of a template, in which special tokens count, and see what room they leave.

    Raises:
        UserError: less than three tokens.
    """
    pieces = dict(zip(PIECES, encode([getattr(template, name) for name in PIECES]), strict=True))
    length = (1 + template.sides) * sum(len(pieces[name]) for name in PIECES if name != "turn")
    if max_tokens - length < 3:
        raise UserError(f"data.max_tokens is {max_tokens}, but the template alone takes {length} tokens: raise it")
    return Frame(pieces, template.sides, length, max_tokens - length)


def cut_row(whole: Sequence[Turns], frame: Frame, policy: str, prompt_cap: int) -> CutRow:
    """Cut a row to the room that its frame leaves; under `sides` a row holds its prompt twice.

    Args:
        whole: token ids of prompt, first and second answer, turn by turn.
        frame: of the template.
        policy: as in `tiebreak.data.truncation.cut_turns`, and so is `prompt_cap`.
        prompt_cap: most tokens of the prompt under `tail-trim`.
    """
    separator, budget = frame.pieces["turn"], frame.budget
    turns = cut_turns(whole, budget, policy, separator, prompt_cap)
    kept = [join_turns(part, separator) for part in turns]
    while frame.sides and (excess := sum(map(len, kept)) + len(kept[0]) - frame.budget) > 0:
        budget -= excess
        turns = cut_turns(whole, budget, policy, separator, prompt_cap)
        kept = [join_turns(part, separator) for part in turns]
    full = sum(len(tokens) for part in whole for tokens in part)
    full += len(separator) * sum(len(part) - 1 for part in whole)
    return CutRow(kept, turns, sum(map(len, kept)) < full)


def arrange(
    pieces: Mapping[str, Sequence[int]], sides: bool, parts: Sequence[Piece], swapped: bool
) -> list[list[Sequence[int] | Piece]]:
    """The token ids to join for a row's text, or for each of its two sides.

    Args:
        pieces: the template's, by name.
        sides: whether each answer is a text of its own.
        parts: prompt and both answers, separators included.
        swapped: the order B, A.
    """
    prompt, a, b = parts
    first, second = (b, a) if swapped else (a, b)
    begin: list[Sequence[int] | Piece] = [pieces["head"], prompt, pieces["before_first"]]
    if sides:
        return [[*begin, answer, pieces["tail"]] for answer in (first, second)]
    return [[*begin, first, pieces["before_second"], second, pieces["tail"]]]


def encode_plain(texts: list[str], encode: Encode, names: Sequence[str], taken: Set[int]) -> Iterator[list[int]]:
    """Yield the token ids of users' texts, in which the name of a special token is only text.

    Some vocabularies hold their special tokens as ordinary pieces too; such texts are encoded again with a space
    inside the name.

    Args:
        texts: of users.
        encode: takes no special token for one.
        names: of all special tokens.
        taken: their ids, without that of unknown pieces.
    """
    for text, ids in zip(texts, encode(texts) if texts else [], strict=True):
        if not taken.isdisjoint(ids):
            for name in names:
                text = text.replace(name, f"{name[:1]} {name[1:]}")
            ids = [token for token in encode([text])[0] if token not in taken]
        yield ids
