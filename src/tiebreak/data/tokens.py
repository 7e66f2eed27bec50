"""A token table: what the model reads of each row, from an Arrow table in memory or a mapped file of the cache."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from tiebreak.data.features import swap_signs
from tiebreak.data.fitting import arrange
from tiebreak.manifests import Manifest, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, SKIPPED = "cache.json", "skipped_rows.jsonl"
ID_ROWS = 65_536
PARTS = ("prompt", "response_a", "response_b")
COLUMNS = ("labels", "groups", "lengths", "unreadable", "chars", "features")
NUMPY = {"double": "float64", "float": "float32"}
"""numpy's names of Arrow's types, where they differ."""


class TokenManifest(Manifest):
    """What a token table was made with."""

    pieces: dict[str, list[int]]
    """Token ids of the template's fixed pieces, by name."""
    sides: bool
    """Whether a row is two texts, one for each answer."""
    features: list[str]
    """Groups of numeric features beside the tokens."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Unusual encodings of the source tables that were handled, by kind."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the other files of the entry; earlier versions kept none."""


def token_schema() -> "pa.Schema":
    """Columns of a token table and their types."""
    import pyarrow as pa

    columns: dict[str, pa.DataType] = {name: pa.list_(pa.int32()) for name in (*PARTS, "turns")}
    columns |= {"features": pa.list_(pa.float32()), "id": pa.string(), "label": pa.int8(), "group": pa.int64()}
    columns |= {"length": pa.int32(), "unreadable": pa.bool_(), "truncated": pa.bool_()}
    columns |= {"chars_a": pa.int64(), "chars_b": pa.int64()}
    columns |= {f"bayes_{column}": pa.float64() for column in range(3)}
    return pa.schema(columns)


class Tokens:
    """A prepared table. Arrays have one entry per row, in the table's order.

    Args:
        table: the columns of `token_schema`.
        manifest: what they were made with.
        folder: of the cache, None for a table in memory.

    Attributes:
        labels: int8 (n,), -1 where there is none.
        groups: int64 (n,), equal for equal normalised prompts.
        lengths: int32 (n,), tokens of the assembled row.
        unreadable: bool (n,).
        chars: int64 (n, 2), characters of the two answers.
        features: float32 (n, k), the numeric features asked for.
        swap_signs: float32 (k,), what the features are multiplied with when A and B change places.
        bayes: float64 (n, 3), the sample's law, or None for other tables.
        truncated: rows that did not fit whole.
    """

    def __init__(self, table: "pa.Table", manifest: TokenManifest, folder: Path | None = None) -> None:
        self.folder = folder
        self.fixed, self.sides, self.counts = manifest.pieces, manifest.sides, manifest.counts
        self.swap_signs = swap_signs(manifest.features)
        self._id_chunks: list[pa.Array] = table["id"].chunks
        self._ids: list[str] | None = None
        self.labels, self.groups, self.lengths, self.unreadable, chars_a, chars_b = (
            _column(table, name) for name in ("label", "group", "length", "unreadable", "chars_a", "chars_b")
        )
        self.truncated = int(_column(table, "truncated").sum())
        self.chars = np.stack([chars_a, chars_b], axis=1)
        self.bayes: np.ndarray | None = None
        if not any(np.isnan(_values(chunk)).any() for chunk in table["bayes_0"].chunks):
            self.bayes = np.stack([_column(table, f"bayes_{column}") for column in range(3)], axis=1)
        self.features = np.empty((len(self.labels), 0), dtype=np.float32)
        if len(self.swap_signs):
            flat = table["features"].combine_chunks().flatten()
            self.features = _values(flat).reshape(-1, len(self.swap_signs))
        self._parts = {name: [_list_views(chunk) for chunk in table[name].chunks] for name in (*PARTS, "turns")}
        self._starts = np.cumsum([0] + [len(chunk) for chunk in table["id"].chunks])
        # int32 where it can count the rows: the positions of 100 million take half the memory.
        self._places = np.arange(len(self.labels), dtype=np.int32 if len(self.labels) < 2**31 else np.int64)

    @classmethod
    def read(cls, folder: Path) -> "Tokens":
        """Open a folder of the token cache; its tokens stay in the mapped file."""
        return cls(_map_table(folder), read_manifest(folder / MANIFEST, TokenManifest), folder)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def key(self) -> str:
        """Name of the cache entry, which stands for the whole contents; empty for a table in memory."""
        return self.folder.name if self.folder else ""

    @property
    def ids(self) -> list[str]:
        """All ids, listed at the first call; for large tables use `iter_ids`."""
        if self._ids is None:
            self._ids = [row_id for ids in self.iter_ids() for row_id in ids]
        return self._ids

    def iter_ids(self) -> Iterator[list[str]]:
        """The ids in order, some thousands at a time, without a list of all."""
        for start in range(0, len(self), ID_ROWS):
            places = self._places[start : start + ID_ROWS]
            chunks = np.searchsorted(self._starts, places, side="right") - 1
            runs = np.flatnonzero(np.diff(chunks) | (np.diff(places) != 1)) + 1
            ids: list[str] = []
            for first, end in zip([0, *runs], [*runs, len(places)], strict=True):
                chunk = chunks[first]
                ids += self._id_chunks[chunk].slice(places[first] - self._starts[chunk], end - first).to_pylist()
            yield ids

    def input_ids(self, index: int, swapped: bool = False) -> list[np.ndarray]:
        """Token ids, int32, of one row's text, or of its two sides; in the order A, B or, swapped, B, A."""
        chunk, local = self._locate(index)
        return self.assemble([_list_at(self._parts[name][chunk], local) for name in PARTS], swapped)

    def turns(self, index: int) -> list[list[np.ndarray]]:
        """Token ids of each turn of prompt, A and B, equally many each, without separators."""
        chunk, local = self._locate(index)
        turn_lengths = _list_at(self._parts["turns"][chunk], local).reshape(len(PARTS), -1)
        separator, parts = len(self.fixed["turn"]), []
        for name, lengths in zip(PARTS, turn_lengths, strict=True):
            tokens = _list_at(self._parts[name][chunk], local)
            ends = np.cumsum(lengths) + separator * np.arange(len(lengths))
            parts.append([tokens[end - length : end] for end, length in zip(ends, lengths, strict=True)])
        return parts

    def assemble(self, parts: Sequence[np.ndarray], swapped: bool) -> list[np.ndarray]:
        """Join a prompt and two answers, each with its separators, to the text or two sides that the model reads."""
        texts = arrange(self.fixed, self.sides, parts, swapped)
        return [np.concatenate(pieces).astype(np.int32) for pieces in texts]

    def answers_equal(self, index: int) -> bool:
        """Whether both answers of a row have the same tokens."""
        chunk, local = self._locate(index)
        a, b = (_list_at(self._parts[name][chunk], local) for name in PARTS[1:])
        return np.array_equal(a, b)

    def features_of(self, rows: np.ndarray, swapped: np.ndarray) -> np.ndarray | None:
        """Features (m, k) of rows (m,) in the given orders (m,); None where the table has none."""
        if not len(self.swap_signs):
            return None
        features: np.ndarray = self.features[rows]
        return np.where(swapped[:, None], features * self.swap_signs, features)

    def _locate(self, index: int) -> tuple[int, int]:
        """A row's chunk, and its place in it."""
        place = int(self._places[index])
        chunk = int(np.searchsorted(self._starts, place, side="right")) - 1
        return chunk, place - int(self._starts[chunk])

    def select(self, rows: np.ndarray) -> "Tokens":
        """Take these rows (m,) alone, as a table of their own."""
        part = copy.copy(self)
        part._ids = None
        for name in (*COLUMNS, "_places"):
            setattr(part, name, getattr(self, name)[rows])
        part.bayes = None if self.bayes is None else self.bayes[rows]
        return part

    def join(self, other: "Tokens") -> "Tokens":
        """Append the rows of another table, made with the same tokenizer and template."""
        both = copy.copy(self)
        both._id_chunks, both._ids = self._id_chunks + other._id_chunks, None
        for name in COLUMNS:
            setattr(both, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        both.bayes = None
        if self.bayes is not None and other.bayes is not None:
            both.bayes = np.concatenate([self.bayes, other.bayes])
        both._places = np.concatenate([self._places, self._starts[-1] + other._places])
        both._parts = {name: chunks + other._parts[name] for name, chunks in self._parts.items()}
        both._starts = np.concatenate([self._starts, self._starts[-1] + other._starts[1:]])
        return both

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Rows of the source tables that could not be used, each with file, row, id, reason and raw cells."""
        if self.folder is None:
            return []
        with open(self.folder / SKIPPED, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


def _map_table(folder: Path) -> "pa.Table":
    """The table of a folder that `datasets` has saved, as `datasets` maps it, without the second of its import."""
    import pyarrow as pa

    files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
    maps = [pa.memory_map(str(folder / file["filename"])) for file in files]
    return pa.concat_tables([pa.ipc.open_stream(file).read_all() for file in maps])


def _list_views(chunk: "pa.ListArray") -> tuple[np.ndarray, np.ndarray]:
    """Offsets and values of an Arrow list array, without a copy of the memory-mapped file."""
    return _values(chunk.offsets), _values(chunk.values)


def _column(table: "pa.Table", name: str) -> np.ndarray:
    """A column of numbers or truth values, without a copy where it is one chunk."""
    chunks = [_values(chunk) for chunk in table[name].chunks or table.schema.empty_table()[name].chunks]
    return np.concatenate(chunks) if len(chunks) > 1 else chunks[0]


def _values(array: "pa.Array") -> np.ndarray:
    """An Arrow array without nulls, of numbers without a copy: its own `to_numpy` imports pandas, half a second."""
    kind, part = str(array.type), slice(array.offset, array.offset + len(array))
    if not len(array):
        return np.empty(0, dtype=NUMPY.get(kind, kind))
    data = array.buffers()[1]
    if kind == "bool":
        return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=part.stop, bitorder="little")[part].astype(bool)
    return np.frombuffer(data, dtype=NUMPY.get(kind, kind))[part]


def _list_at(views: tuple[np.ndarray, np.ndarray], index: int) -> np.ndarray:
    """The values of one list."""
    offsets, values = views
    return values[offsets[index] : offsets[index + 1]]
