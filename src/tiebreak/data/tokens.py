"""Tokens of a table, read from an Arrow cache through a mapped file; `prepare` makes it."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tiebreak.data.features import signs
from tiebreak.data.plan import index_type

ID_ROWS = 65_536
PARTS = ("prompt", "response_a", "response_b")
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


def _list_views(chunk) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of an Arrow list array, without a copy of the memory-mapped file."""
    return chunk.offsets.to_numpy(), chunk.values.to_numpy()


def _list_at(views: tuple[np.ndarray, np.ndarray], index: int) -> np.ndarray:
    offsets, values = views
    return values[offsets[index] : offsets[index + 1]]
