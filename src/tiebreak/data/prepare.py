"""Tokens of a table are made once, into an Arrow cache that every rank reads.

The cache folder's name is a hash of everything the tokens depend on. Whoever comes first builds it under a lease, in a
temporary folder that is then renamed; the others wait for the rename, outside any collective, so that no watchdog
counts the time.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiebreak.config import DataSettings, cache_folder
from tiebreak.data.cells import normalise_prompt
from tiebreak.data.features import measure
from tiebreak.data.table import Pair, Problem, read_table
from tiebreak.data.templates import TEMPLATES, Template
from tiebreak.data.tokens import PARTS, Tokens
from tiebreak.data.truncation import Turns, cut_turns, join_turns
from tiebreak.errors import UserError
from tiebreak.files import sha256
from tiebreak.labels import NO_LABEL
from tiebreak.leases import held
from tiebreak.sample.law import bayes_probabilities, is_sample

if TYPE_CHECKING:
    from datasets import Features
    from transformers import PreTrainedTokenizerBase

FORMAT = 3
BUILD_ROWS = 1_000
LOCK_STALE_S = 120
POLL_S = 0.2
PIECES = ("head", "before_first", "before_second", "tail", "turn")


def prepare(
    files: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    settings: DataSettings,
    on_bad_row: str = "fail",
    need_labels: bool = False,
    keep_ids: bool = False,
    say: Callable[[str], None] = print,
) -> Tokens:
    """The tokens of one or more tables, from the cache or made now.

    Raises:
        UserError: a table that cannot be used, or a limit that leaves no room for the text.
    """
    key = _key(files, tokenizer, template, settings, on_bad_row, need_labels, keep_ids)
    folder = cache_folder() / "tokens" / key
    while not (folder / "tiebreak.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.with_suffix(".lock"), LOCK_STALE_S) as mine:
            if not mine:
                time.sleep(POLL_S)
            elif not (folder / "tiebreak.json").is_file():
                _build(folder, files, tokenizer, TEMPLATES[template], settings, on_bad_row, need_labels, keep_ids, say)
    return Tokens(folder)


def fixed_pieces(tokenizer: "PreTrainedTokenizerBase", template: Template) -> dict[str, list[int]]:
    """Token ids of the template's fixed pieces."""
    pieces = {name: getattr(template, name) for name in PIECES}
    return {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in pieces.items()}


def cache_columns() -> "Features":
    """The columns of the Arrow cache and their types."""
    from datasets import Features, List, Value

    return Features(
        {name: List(Value("int32")) for name in (*PARTS, "turns")}
        | {"numbers": List(Value("float32"))}
        | {"id": Value("string"), "label": Value("int8"), "group": Value("int64"), "length": Value("int32")}
        | {"unreadable": Value("bool"), "chars_a": Value("int64"), "chars_b": Value("int64")}
        | {f"bayes_{k}": Value("float64") for k in range(3)}
    )


def _build(folder, files, tokenizer, template, settings, on_bad_row, need_labels, keep_ids, say) -> None:
    from datasets.arrow_writer import ArrowWriter

    table = read_table(files, on_bad_row, need_labels, keep_ids)
    fixed = fixed_pieces(tokenizer, template)
    around = (1 + template.sides) * sum(len(fixed[name]) for name in PIECES if name != "turn")
    budget = settings.max_tokens - around
    if budget < 3:
        raise UserError(
            f"data.max_tokens is {settings.max_tokens}, but the template alone takes {settings.max_tokens - budget} "
            "tokens: raise it"
        )
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    started, truncated = time.monotonic(), 0
    known_law = is_sample([pair.model_a for pair in table.pairs])
    with ArrowWriter(path=str(temporary / "data.arrow"), features=cache_columns()) as writer:
        for start in range(0, len(table.pairs), BUILD_ROWS):
            pairs = table.pairs[start : start + BUILD_ROWS]
            columns, cut = _encode(pairs, tokenizer, fixed["turn"], budget, settings, template.sides)
            columns["length"] = [around + length for length in columns["length"]]
            columns["numbers"] = list(measure(pairs, settings.features))
            columns |= _law(pairs if known_law else [], len(pairs))
            truncated += cut
            writer.write_batch(columns)
        writer.finalize()
    meta = {"fixed": fixed, "sides": template.sides, "counts": table.counts, "truncated": truncated}
    meta["features"] = settings.features
    _finish(temporary, folder, table.problems, meta)
    seconds = time.monotonic() - started
    say(f"{len(table.pairs):,} rows tokenised in {seconds:.1f} s, {truncated / len(table.pairs):.1%} of them truncated")


def _law(pairs: list[Pair], rows: int) -> dict[str, np.ndarray]:
    """The sample's law for each row, not a number for rows that are not of the sample."""
    law = np.full((rows, 3), np.nan)
    if pairs:
        with contextlib.suppress(ValueError):  # a user's own row among the sample's
            law = bayes_probabilities(
                [p.prompt for p in pairs], [p.response_a for p in pairs], [p.response_b for p in pairs]
            )
    return {f"bayes_{k}": law[:, k] for k in range(3)}


def _encode(pairs: list[Pair], tokenizer, turn: list[int], budget: int, settings: DataSettings, sides: bool):
    """The columns of these pairs, and how many of them were truncated; `sides` hold the prompt twice."""
    texts = [text for pair in pairs for part in (pair.prompt, pair.response_a, pair.response_b) for text in part]
    encoded = iter(encode_texts(texts, tokenizer))
    cut = 0
    columns: dict[str, list] = {name: [] for name in (*PARTS, "turns", "length", "chars_a", "chars_b")}
    for pair in pairs:
        whole = [[next(encoded) for _ in part] for part in (pair.prompt, pair.response_a, pair.response_b)]
        turns = cut_turns(whole, budget, settings.truncation, turn, settings.prompt_cap)
        kept, room = _join_parts(turns, turn), budget
        while sides and (over := sum(map(len, kept)) + len(kept[0]) - budget) > 0:
            room -= over
            turns = cut_turns(whole, room, settings.truncation, turn, settings.prompt_cap)
            kept = _join_parts(turns, turn)
        full = sum(len(tokens) for part in whole for tokens in part)
        full += len(turn) * sum(len(part) - 1 for part in whole)
        cut += sum(map(len, kept)) < full
        for name, tokens in zip(PARTS, kept, strict=True):
            columns[name].append(tokens)
        columns["turns"].append([len(tokens) for part in turns for tokens in part])
        columns["length"].append(sum(map(len, kept)) + sides * len(kept[0]))
        columns["chars_a"].append(sum(map(len, pair.response_a)))
        columns["chars_b"].append(sum(map(len, pair.response_b)))
    columns["id"] = [pair.id for pair in pairs]
    columns["label"] = [NO_LABEL if pair.label is None else pair.label for pair in pairs]
    columns["group"] = [prompt_group(pair.prompt) for pair in pairs]
    columns["unreadable"] = [pair.unreadable is not None for pair in pairs]
    return columns, cut


def _join_parts(turns: Sequence[Turns], turn: list[int]) -> list[list[int]]:
    return [join_turns(part, turn) for part in turns]


def encode_texts(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of users' texts, in which the name of a special token is only text.

    Some vocabularies hold their special tokens as ordinary pieces too; such texts are encoded again
    with a space inside the name.
    """
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for k, ids in enumerate(encoded):
        if not special.isdisjoint(ids):
            text = texts[k]
            for name in tokenizer.all_special_tokens:
                text = text.replace(name, f"{name[:1]} {name[1:]}")
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            encoded[k] = [token for token in ids if token not in special]
    return encoded


def prompt_group(prompt: Sequence[str]) -> int:
    """A 63-bit hash of the normalised prompt: rows with equal ones belong into the same fold."""
    digest = hashlib.blake2b(normalise_prompt(prompt).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _finish(temporary: Path, folder: Path, problems: list[Problem], meta: dict) -> None:
    """Turn the Arrow file into a `datasets` folder, add the side files, and rename it into place."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_file(str(temporary / "data.arrow")).save_to_disk(str(temporary / "table"))
    final = temporary / "table"
    with open(final / "skipped_rows.jsonl", "w", encoding="utf-8", errors="backslashreplace") as lines:
        for problem in problems:
            lines.write(json.dumps(asdict(problem), default=str) + "\n")
    (final / "tiebreak.json").write_text(json.dumps(meta), encoding="utf-8")
    try:
        final.rename(folder)
    except OSError:
        if not (folder / "tiebreak.json").is_file():  # another builder, after a stale lock, was first: as good
            raise
    shutil.rmtree(temporary)


def _key(files, tokenizer, template: str, settings: DataSettings, *rest) -> str:
    digest = hashlib.sha256()
    rules = [FORMAT, asdict(TEMPLATES[template]), settings.max_tokens, settings.truncation, settings.prompt_cap]
    rules += [settings.features, *rest]
    digest.update(json.dumps(rules).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        digest.update(f"\n{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()[:24]
