"""How attention on a CPU is cut: tiles of queries against the keys that they see, and pieces of work of whole tiles."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

QUERIES = {False: 256, True: 128}
"""Of a tile at most, where queries see all keys, and where they see the earlier ones alone."""
KEYS = 1_024
"""Of a full tile over all its heads, about: so many scores stay in a core's cache beside their operands."""
PIECES = 12
"""At least, where there are as many heads: on few threads none is without work for long. Fixed, as `SHARES` is."""
SHARES = 4
"""Into so many the rows are cut, beside the heads. A fixed number: sums over shares are the same on any machine."""


@dataclass(frozen=True)
class Rule:
    """Which keys a query sees, and what becomes of its scores.

    Args:
        scale: of the products of queries and keys.
        causal: whether a query sees no later key.
        window: tokens that a decoder's query sees, its own included; an encoder's sees less than so many to each side.
        softcap: scores become `softcap * tanh(score / softcap)` (Gemma 2 report, section 2).
        dropout: share of the weights that are zeroed.
    """

    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Distances:
    """DeBERTa's two terms of a score of query i and key j: q_i.keys[s] + k_j.queries[s], with s the slot of i and j.

    Args:
        keys: (heads, slots, head_dim), with the scale in them.
        queries: (heads, slots, head_dim), likewise.
        slots: (length, length) int64.
    """

    keys: torch.Tensor
    queries: torch.Tensor
    slots: torch.Tensor


@dataclass(frozen=True)
class Tile:
    """Queries `first` to `last` of some heads of one row, against keys `begin` to `end`.

    `start` is its place in a flat tensor of all tiles' scores.
    """

    row: int
    heads: slice
    first: int
    last: int
    begin: int
    end: int
    start: int

    @property
    def queries(self) -> tuple[int, slice, slice]:
        """Index into (n, heads, length, head_dim)."""
        return self.row, self.heads, slice(self.first, self.last)

    @property
    def keys(self) -> tuple[int, slice, slice]:
        """Index into (n, heads, length, head_dim)."""
        return self.row, self.heads, slice(self.begin, self.end)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Heads, queries, keys."""
        return self.heads.stop - self.heads.start, self.last - self.first, self.end - self.begin

    def of(self, kept: torch.Tensor | None) -> torch.Tensor | None:
        """This tile's part (heads, queries, keys) of a flat tensor of all tiles."""
        return None if kept is None else kept[self.start : self.start + math.prod(self.shape)].view(self.shape)


@dataclass(frozen=True)
class Piece:
    """Some heads of some rows, whose tiles one thread goes through; `share` is the rows' number among `SHARES`."""

    number: int
    share: int
    heads: slice
    rows: list[list[Tile]]


def cut_pieces(shape: torch.Size, lengths: list[int], rule: Rule) -> tuple[list[Piece], int]:
    """Every query of every head and row once, and how many scores that makes."""
    n, heads, length, _ = shape
    queries = QUERIES[rule.causal]
    share = -(-n // SHARES)
    together = min(queries * KEYS // (min(queries, length) * length), heads * -(-n // share) // PIECES)
    together = max(1, together)
    pieces: list[Piece] = []
    start = 0
    for number, first in reversed(list(enumerate(range(0, n, share)))):  # the longest rows, which are the last, first
        for head in range(0, heads, together):
            group, rows = slice(head, min(head + together, heads)), []
            for row in range(first, min(first + share, n)):
                rows.append(list(_tiles(row, group, lengths[row], rule, start)))
                start = rows[-1][-1].start + math.prod(rows[-1][-1].shape)
            pieces.append(Piece(len(pieces), number, group, rows))
    return pieces, start


def _tiles(row: int, heads: slice, real: int, rule: Rule, start: int) -> Iterator[Tile]:
    """Every query of some heads of a row of `real` tokens once."""
    queries = QUERIES[rule.causal]
    for first in range(0, real, queries):
        last = min(first + queries, real)
        begin, end = 0, last if rule.causal else real
        if rule.window is not None:
            begin, end = max(0, first - rule.window + 1), min(end, last + rule.window - 1)
        tile = Tile(row, heads, first, last, begin, end, start)
        start += math.prod(tile.shape)
        yield tile
