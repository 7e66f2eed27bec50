"""Text -> tokens: pairs become the columns of a token table, on their way to the cache or in memory."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tiebreak.config import DataSettings
from tiebreak.data.features import extract_features
from tiebreak.data.fitting import Frame, cut_row, encode_plain, fit_frame
from tiebreak.data.templates import Template
from tiebreak.data.tokens import PARTS, TokenManifest, Tokens, token_schema
from tiebreak.labels import NO_LABEL
from tiebreak.sample.law import bayes_probabilities, is_sample
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.rows import Pair

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 1_000


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
    return fit_frame(
        lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"], template, settings.max_tokens
    )


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
    columns: dict[str, list[object]] = {name: [] for name in (*PARTS, "turns", "length", "truncated")}
    for pair in pairs:
        whole = [[next(encoded) for _ in part] for part in (pair.prompt, pair.response_a, pair.response_b)]
        row = cut_row(whole, frame, settings.truncation, settings.prompt_cap)
        for name, tokens in zip(PARTS, row.parts, strict=True):
            columns[name].append(tokens)
        columns["truncated"].append(row.truncated)
        columns["turns"].append([len(tokens) for part in row.turns for tokens in part])
        columns["length"].append(frame.length + sum(map(len, row.parts)) + frame.sides * len(row.parts[0]))
    return columns


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
    """Token ids of users' texts, in which the name of a special token is only text."""

    def encode(some: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(some, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    return list(encode_plain(texts, encode, tokenizer.all_special_tokens, special_ids(tokenizer)))


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Ids of the special tokens, without that of unknown pieces."""
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def prompt_group(prompt: Sequence[str]) -> int:
    """A 63-bit hash of the normalised prompt: rows with equal ones belong into the same fold."""
    digest = hashlib.blake2b(normalise_prompt(prompt).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
