"""Text -> tokens: pairs become the columns of a token table, on their way to the cache or in memory."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiebreak.config import DataSettings
from tiebreak.data.features import extract_features
from tiebreak.data.templates import Template
from tiebreak.data.tokens import PARTS, TokenManifest, Tokens, token_schema
from tiebreak.data.truncation import Turns, cut_turns, join_turns
from tiebreak.errors import UserError
from tiebreak.labels import NO_LABEL
from tiebreak.sample.law import bayes_probabilities, is_sample
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.rows import Pair

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 1_000
PIECES = ("head", "before_first", "before_second", "tail", "turn")


@dataclass(frozen=True)
class Frame:
    """What a template takes of every row: token ids of its fixed pieces, their total, and what is left for the text."""

    pieces: dict[str, list[int]]
    sides: bool
    length: int
    budget: int


def encode_pairs(
    pairs: Sequence[Pair], tokenizer: "PreTrainedTokenizerBase", template: Template, settings: DataSettings
) -> Tokens:
    """Tokenise pairs in memory, without a file and without a cache entry.

    Args:
        pairs: n comparisons, for example from `tiebreak.tables.pairs.as_pairs`.
        tokenizer: of the model, with the template's added tokens.
        template: the fixed pieces around the texts.
        settings: `max_tokens`, `truncation`, `prompt_cap` and `features` are used.

    Returns:
        The same as `prepare` gives for a table of these pairs.

    Raises:
        UserError: `max_tokens` leaves no room for the text.
    """
    import pyarrow as pa

    frame = fit_template(tokenizer, template, settings)
    batches = list(encode_batches(pairs, tokenizer, frame, settings))
    return Tokens(pa.Table.from_batches(batches, token_schema()), token_manifest(frame, settings))


def fit_template(tokenizer: "PreTrainedTokenizerBase", template: Template, settings: DataSettings) -> Frame:
    """Tokenise the fixed pieces of a template and check that they leave room for the text.

    Raises:
        UserError: they do not.
    """
    pieces = fixed_pieces(tokenizer, template)
    length = (1 + template.sides) * sum(len(pieces[name]) for name in PIECES if name != "turn")
    budget = settings.max_tokens - length
    if budget < 3:
        raise UserError(
            f"data.max_tokens is {settings.max_tokens}, but the template alone takes {length} tokens: raise it"
        )
    return Frame(pieces, template.sides, length, budget)


def fixed_pieces(tokenizer: "PreTrainedTokenizerBase", template: Template) -> dict[str, list[int]]:
    """Token ids of the template's fixed pieces, by name."""
    pieces = {name: getattr(template, name) for name in PIECES}
    return {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in pieces.items()}


def token_manifest(frame: Frame, settings: DataSettings, counts: dict[str, int] | None = None) -> TokenManifest:
    """The manifest of a token table."""
    return TokenManifest(
        pieces=frame.pieces, sides=frame.sides, features=list(settings.features), counts=dict(counts or {})
    )


def encode_batches(
    pairs: Sequence[Pair], tokenizer: "PreTrainedTokenizerBase", frame: Frame, settings: DataSettings
) -> Iterator["pa.RecordBatch"]:
    """Yield the columns of `token_schema`, `BATCH_ROWS` pairs at a time."""
    import pyarrow as pa

    schema = token_schema()
    of_sample = is_sample([pair.model_a for pair in pairs])
    for start in range(0, len(pairs), BATCH_ROWS):
        some = pairs[start : start + BATCH_ROWS]
        columns = _token_columns(some, tokenizer, frame, settings) | _row_columns(some)
        columns["features"] = list(extract_features(some, settings.features))
        columns |= _bayes_columns(some, of_sample)
        yield pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _token_columns(
    pairs: Sequence[Pair], tokenizer: "PreTrainedTokenizerBase", frame: Frame, settings: DataSettings
) -> dict[str, list[object]]:
    """Token ids of prompt and answers, cut to the budget; under `sides` a row holds its prompt twice."""
    parts = [part for pair in pairs for part in (pair.prompt, pair.response_a, pair.response_b)]
    encoded = iter(encode_texts([text for part in parts for text in part], tokenizer))
    separator, policy = frame.pieces["turn"], (settings.truncation, frame.pieces["turn"], settings.prompt_cap)
    columns: dict[str, list[object]] = {name: [] for name in (*PARTS, "turns", "length", "truncated")}
    for pair in pairs:
        whole = [[next(encoded) for _ in part] for part in (pair.prompt, pair.response_a, pair.response_b)]
        turns = cut_turns(whole, frame.budget, *policy)
        kept, budget = _join_parts(turns, separator), frame.budget
        while frame.sides and (excess := sum(map(len, kept)) + len(kept[0]) - frame.budget) > 0:
            budget -= excess
            turns = cut_turns(whole, budget, *policy)
            kept = _join_parts(turns, separator)
        for name, tokens in zip(PARTS, kept, strict=True):
            columns[name].append(tokens)
        full = sum(len(tokens) for part in whole for tokens in part)
        full += len(separator) * sum(len(part) - 1 for part in whole)
        columns["truncated"].append(sum(map(len, kept)) < full)
        columns["turns"].append([len(tokens) for part in turns for tokens in part])
        columns["length"].append(frame.length + sum(map(len, kept)) + frame.sides * len(kept[0]))
    return columns


def _join_parts(turns: Sequence[Turns], separator: list[int]) -> list[list[int]]:
    return [join_turns(part, separator) for part in turns]


def _row_columns(pairs: Sequence[Pair]) -> dict[str, object]:
    """What is known of each row beside its tokens."""
    return {
        "id": [pair.id for pair in pairs],
        "label": [NO_LABEL if pair.label is None else pair.label for pair in pairs],
        "group": [prompt_group(pair.prompt) for pair in pairs],
        "unreadable": [pair.unreadable is not None for pair in pairs],
        "chars_a": [sum(map(len, pair.response_a)) for pair in pairs],
        "chars_b": [sum(map(len, pair.response_b)) for pair in pairs],
    }


def _bayes_columns(pairs: Sequence[Pair], of_sample: bool) -> dict[str, object]:
    """The sample's law for each row, not a number for rows that are not of the sample."""
    law = np.full((len(pairs), 3), np.nan)
    if of_sample:
        with contextlib.suppress(ValueError):  # a user's own row among the sample's
            law = bayes_probabilities(*zip(*((p.prompt, p.response_a, p.response_b) for p in pairs), strict=True))
    return {f"bayes_{column}": law[:, column] for column in range(3)}


def encode_texts(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of users' texts, in which the name of a special token is only text.

    Some vocabularies hold their special tokens as ordinary pieces too; such texts are encoded again
    with a space inside the name.
    """
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for index, ids in enumerate(encoded):
        if not special.isdisjoint(ids):
            text = texts[index]
            for name in tokenizer.all_special_tokens:
                text = text.replace(name, f"{name[:1]} {name[1:]}")
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            encoded[index] = [token for token in ids if token not in special]
    return encoded


def prompt_group(prompt: Sequence[str]) -> int:
    """A 63-bit hash of the normalised prompt: rows with equal ones belong into the same fold."""
    digest = hashlib.blake2b(normalise_prompt(prompt).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
