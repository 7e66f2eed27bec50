"""Tokens of a table: made once into an Arrow cache, read by every rank.

The cache folder's name is a hash of everything the tokens depend on. Whoever comes first builds it
under a lock, in a temporary folder that is then renamed; the others wait for the rename, outside any
collective, so that no watchdog counts the time.
"""

import contextlib
import copy
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiebreak.config import DataSettings, cache_folder
from tiebreak.data.cells import normalise_prompt
from tiebreak.data.features import measure, signs
from tiebreak.data.plan import index_type
from tiebreak.data.sample import bayes_probabilities, is_sample
from tiebreak.data.table import Pair, Problem, read_table
from tiebreak.data.templates import TEMPLATES, Template
from tiebreak.data.truncation import Turns, cut_turns, join_turns
from tiebreak.errors import UserError
from tiebreak.files import sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 3
BUILD_ROWS = 1_000
ID_ROWS = 65_536
LOCK_STALE_S = 120
POLL_S = 0.2
PIECES = ("head", "before_first", "before_second", "tail", "turn")
PARTS = ("prompt", "response_a", "response_b")
NO_LABEL = -1
COLUMNS = ("labels", "groups", "lengths", "unreadable", "chars", "numbers")


class Tokens:
    """A prepared table. Arrays have one entry per row, in the table's order.

    Attributes:
        labels: int8 (n,), -1 where there is none. groups: int64 (n,), equal
        for equal normalised prompts. lengths: int32 (n,), tokens of the assembled row. unreadable:
        bool (n,). chars: int64 (n, 2), characters of the two answers. numbers: float32 (n, k), the
        features asked for, and signs (k,), theirs under a swap. bayes: float64 (n, 3), the sample's
        law, or None for other tables. problems: the rows left out.
    """

    def __init__(self, folder: Path) -> None:
        import datasets

        self.folder = folder
        self._dataset = datasets.load_from_disk(str(folder))
        meta = json.loads((folder / "tiebreak.json").read_text(encoding="utf-8"))
        self.fixed: dict[str, list[int]] = meta["fixed"]
        self.sides: bool = meta["sides"]
        self.counts: dict[str, int] = meta["counts"]
        self.truncated: int = meta["truncated"]
        self.signs = signs(meta["features"])
        table = self._dataset.data.table
        self._id_chunks = table["id"].chunks
        self._ids: list[str] | None = None
        self.labels, self.groups, self.lengths, self.unreadable, chars_a, chars_b = (
            table[name].to_numpy() for name in ("label", "group", "length", "unreadable", "chars_a", "chars_b")
        )
        self.chars = np.stack([chars_a, chars_b], axis=1)
        known = not any(np.isnan(chunk.to_numpy()).any() for chunk in table["bayes_0"].chunks)
        self.bayes = np.stack([table[f"bayes_{k}"].to_numpy() for k in range(3)], axis=1) if known else None
        self.numbers = np.empty((len(self.labels), 0), dtype=np.float32)
        if len(self.signs):
            self.numbers = table["numbers"].combine_chunks().flatten().to_numpy().reshape(-1, len(self.signs))
        self._parts = {name: [_list_views(chunk) for chunk in table[name].chunks] for name in (*PARTS, "turns")}
        self._starts = np.cumsum([0] + [len(chunk) for chunk in table["id"].chunks])
        self._places = np.arange(len(self.labels), dtype=index_type(len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> list[str]:
        """All ids, listed when first asked for: large tables are better gone through by `iter_ids`."""
        if self._ids is None:
            self._ids = [name for names in self.iter_ids() for name in names]
        return self._ids

    def iter_ids(self) -> Iterator[list[str]]:
        """The ids in order, some thousands at a time, without a list of all."""
        for start in range(0, len(self), ID_ROWS):
            places = self._places[start : start + ID_ROWS]
            of = np.searchsorted(self._starts, places, side="right") - 1
            runs = np.flatnonzero(np.diff(of) | (np.diff(places) != 1)) + 1
            names: list[str] = []
            for first, end in zip([0, *runs], [*runs, len(places)], strict=True):
                chunk = of[first]
                names += self._id_chunks[chunk].slice(places[first] - self._starts[chunk], end - first).to_pylist()
            yield names

    def texts(self, index: int, swapped: bool = False) -> list[np.ndarray]:
        """The tokens, int32, of one row's text, or of its two sides; in the order A, B or, swapped, B, A."""
        chunk, local = self._find(index)
        return self.assemble([_list_at(self._parts[name][chunk], local) for name in PARTS], swapped)

    def turns(self, index: int) -> list[list[np.ndarray]]:
        """The tokens of each turn of prompt, A and B, equally many each, without separators."""
        chunk, local = self._find(index)
        lengths = _list_at(self._parts["turns"][chunk], local).reshape(len(PARTS), -1)
        separator, parts = len(self.fixed["turn"]), []
        for name, mine in zip(PARTS, lengths, strict=True):
            tokens = _list_at(self._parts[name][chunk], local)
            ends = np.cumsum(mine) + separator * np.arange(len(mine))
            parts.append([tokens[end - length : end] for end, length in zip(ends, mine, strict=True)])
        return parts

    def assemble(self, parts: Sequence[np.ndarray], swapped: bool) -> list[np.ndarray]:
        """The text, or the two sides, of a prompt and two answers, each with its separators."""
        prompt, a, b = parts
        first, second = (b, a) if swapped else (a, b)
        fixed = self.fixed
        begin: list = [fixed["head"], prompt, fixed["before_first"]]
        if self.sides:
            pieces = [[*begin, answer, fixed["tail"]] for answer in (first, second)]
        else:
            pieces = [[*begin, first, fixed["before_second"], second, fixed["tail"]]]
        return [np.concatenate(piece).astype(np.int32) for piece in pieces]

    def answers_equal(self, index: int) -> bool:
        """Whether both answers of a row have the same tokens."""
        chunk, place = self._find(index)
        a, b = (_list_at(self._parts[name][chunk], place) for name in PARTS[1:])
        return np.array_equal(a, b)

    def numbers_of(self, rows: np.ndarray, swapped: np.ndarray) -> np.ndarray | None:
        """The features (m, k) of rows (m,) in the given orders (m,); None where there are none."""
        if not len(self.signs):
            return None
        return np.where(swapped[:, None], self.numbers[rows] * self.signs, self.numbers[rows])

    def _find(self, index: int) -> tuple[int, int]:
        """A row's chunk, and its place in it."""
        place = int(self._places[index])
        chunk = int(np.searchsorted(self._starts, place, side="right")) - 1
        return chunk, place - int(self._starts[chunk])

    def row(self, index: int, swapped: bool = False) -> np.ndarray:
        """All tokens (length,) int32 of one row."""
        return np.concatenate(self.texts(index, swapped))

    def select(self, rows: np.ndarray) -> "Tokens":
        """These rows (m,) alone, as a table of their own."""
        part = copy.copy(self)
        part._ids = None
        for name in (*COLUMNS, "_places"):
            setattr(part, name, getattr(self, name)[rows])
        part.bayes = None if self.bayes is None else self.bayes[rows]
        return part

    def join(self, other: "Tokens") -> "Tokens":
        """These rows and then the other's, made with the same tokenizer and template, as one table."""
        both = copy.copy(self)
        both._id_chunks, both._ids = self._id_chunks + other._id_chunks, None
        for name in COLUMNS:
            setattr(both, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        known = self.bayes is not None and other.bayes is not None
        both.bayes = np.concatenate([self.bayes, other.bayes]) if known else None  # type: ignore[list-item]
        both._places = np.concatenate([self._places, self._starts[-1] + other._places])
        both._parts = {name: chunks + other._parts[name] for name, chunks in self._parts.items()}
        both._starts = np.concatenate([self._starts, self._starts[-1] + other._starts[1:]])
        return both

    @property
    def problems(self) -> list[dict]:
        """What was left out, each with file, row, id, reason and raw cells."""
        with open(self.folder / "skipped_rows.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


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
        with _lock(folder.with_suffix(".lock")) as mine:
            if not mine:
                time.sleep(POLL_S)
            elif not (folder / "tiebreak.json").is_file():
                _build(folder, files, tokenizer, TEMPLATES[template], settings, on_bad_row, need_labels, keep_ids, say)
    return Tokens(folder)


def fixed_pieces(tokenizer: "PreTrainedTokenizerBase", template: Template) -> dict[str, list[int]]:
    """Token ids of the template's fixed pieces."""
    pieces = {name: getattr(template, name) for name in PIECES}
    return {name: tokenizer(text, add_special_tokens=False)["input_ids"] for name, text in pieces.items()}


def _build(folder, files, tokenizer, template, settings, on_bad_row, need_labels, keep_ids, say) -> None:
    from datasets import Features, List, Value
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
    features = Features(
        {name: List(Value("int32")) for name in (*PARTS, "turns")}
        | {"numbers": List(Value("float32"))}
        | {"id": Value("string"), "label": Value("int8"), "group": Value("int64"), "length": Value("int32")}
        | {"unreadable": Value("bool"), "chars_a": Value("int64"), "chars_b": Value("int64")}
        | {f"bayes_{k}": Value("float64") for k in range(3)}
    )
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    started, truncated = time.monotonic(), 0
    known_law = is_sample([pair.model_a for pair in table.pairs])
    with ArrowWriter(path=str(temporary / "data.arrow"), features=features) as writer:
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
            law = bayes_probabilities([p.response_a for p in pairs], [p.response_b for p in pairs])
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


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold a lock file if it is free or its holder fell silent; yields whether it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if time.time() - path.stat().st_mtime > LOCK_STALE_S:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        yield False
        return
    done = threading.Event()

    def beat() -> None:
        while not done.wait(LOCK_STALE_S / 8):
            os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        path.unlink(missing_ok=True)


def _list_views(chunk) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of an Arrow list array, without a copy of the memory-mapped file."""
    return chunk.offsets.to_numpy(), chunk.values.to_numpy()


def _list_at(views: tuple[np.ndarray, np.ndarray], index: int) -> np.ndarray:
    offsets, values = views
    return values[offsets[index] : offsets[index + 1]]
