"""Exact attention by tiles of queries, for what the fused kernels of a CPU do not have: soft-capping, windows, sinks.

The table of scores, length x length for each head, is written to memory and read again by every step between its two
matrix products. Here one tile of it, a few queries against all keys that they see, is made, used and dropped while it
is in the cache; the backward pass makes it again (Dao et al. 2022, arXiv:2205.14135; a row of a tile is whole, so its
softmax is the plain one). Memory grows with the length, not with its square.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

QUERIES = 128
"""Of a tile."""
SCORES = 1 << 17
"""Of a tile over all its heads, about: what stays in a core's cache beside its operands (512 KiB in fp32)."""


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


def attend_tiled(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    rule: Rule,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend within padded rows; gradients reach all tensors.

    Args:
        query: (n, heads, length, head_dim).
        key: (n, key heads, length, head_dim); the heads are a multiple of the key heads.
        value: (n, key heads, length, its own head_dim).
        lengths: tokens of each of the n rows; padding stands behind them, and its outputs mean nothing.
        rule: of the scores.
        sinks: (heads,) one more logit of each softmax, whose weight goes nowhere (gpt-oss's model card, 2025).

    Returns:
        (n, heads, length, the value's head_dim), in the type of the query, or autocast's.
    """
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # as for the fused kernels: rotated queries and keys come in fp32
        query, key, value = (states.to(torch.get_autocast_dtype(kind)) for states in (query, key, value))
    if (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    seed = int(torch.randint(2**62, ())) if rule.dropout else 0
    with torch.autocast(kind, enabled=False):
        attended: torch.Tensor = _Tiled.apply(query, key, value, sinks, lengths, rule, seed)  # type: ignore[no-untyped-call]
    return attended


@dataclass(frozen=True)
class _Tile:
    """Queries `first` to `last` of some heads of one row, against keys `begin` to `end`; `real` tokens has the row."""

    row: int
    heads: slice
    first: int
    last: int
    begin: int
    end: int
    real: int

    @property
    def queries(self) -> tuple[int, slice, slice]:
        """Index into (n, heads, length, head_dim)."""
        return self.row, self.heads, slice(self.first, self.last)

    @property
    def keys(self) -> tuple[int, slice, slice]:
        """Index into (n, heads, length, head_dim)."""
        return self.row, self.heads, slice(self.begin, self.end)


def _tiles(shape: torch.Size, lengths: list[int], rule: Rule) -> Iterator[_Tile]:
    """Every query of every row and head once."""
    _, heads, length, _ = shape
    for row, real in enumerate(lengths):
        for first in range(0, length, QUERIES):
            last = min(first + QUERIES, length)
            begin, end = 0, last if rule.causal else length
            if rule.window is not None:
                begin, end = max(0, first - rule.window + 1), min(end, last + rule.window - 1)
            together = max(1, SCORES // ((last - first) * (end - begin)))
            for head in range(0, heads, together):
                yield _Tile(row, slice(head, min(head + together, heads)), first, last, begin, end, real)


class _Tiled(torch.autograd.Function):
    """Tiles forth, and once more back."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        sinks: torch.Tensor | None,
        lengths: list[int],
        rule: Rule,
        seed: int,
    ) -> torch.Tensor:
        query, key, value = (states.contiguous() for states in (query, key, value))
        attended = query.new_empty(*query.shape[:-1], value.shape[-1])
        generator = torch.Generator(query.device).manual_seed(seed)
        for tile in _tiles(query.shape, lengths, rule):
            weights, _ = _weights(_scores(tile, query, key, rule)[0], sinks, tile)
            if rule.dropout:
                weights = weights * _kept(weights, rule.dropout, generator)
            torch.bmm(weights, value[tile.keys], out=attended[tile.queries])
        ctx.save_for_backward(query, key, value, sinks, attended)
        ctx.rest = lengths, rule, seed
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, attended = ctx.saved_tensors
        lengths, rule, seed = ctx.rest
        # What a score's gradient loses to its softmax: the sum of weights times their gradients, dropout or not.
        share = (grad * attended).sum(-1, keepdim=True)
        d_query, d_key, d_value = (torch.zeros_like(states) for states in (query, key, value))
        d_sinks = None if sinks is None else torch.zeros_like(sinks)
        generator = torch.Generator(query.device).manual_seed(seed)
        for tile in _tiles(query.shape, lengths, rule):
            scores, capped = _scores(tile, query, key, rule)
            weights, sunk = _weights(scores, sinks, tile)
            d_attended = grad[tile.queries]
            d_scores, kept = d_attended @ value[tile.keys].transpose(-1, -2), weights
            if rule.dropout:
                mask = _kept(weights, rule.dropout, generator)
                kept = weights * mask
                d_scores.mul_(mask)
            d_value[tile.keys].baddbmm_(kept.transpose(-1, -2), d_attended)
            d_scores.sub_(share[tile.queries]).mul_(weights)
            if d_sinks is not None and sunk is not None:
                d_sinks[tile.heads] -= (sunk * share[tile.queries]).sum((1, 2))
            if capped is not None:
                d_scores = torch.ops.aten.tanh_backward(d_scores, capped)
            d_query[tile.queries].baddbmm_(d_scores, key[tile.keys], alpha=rule.scale)
            d_key[tile.keys].baddbmm_(d_scores.transpose(-1, -2), query[tile.queries], alpha=rule.scale)
        return d_query, d_key, d_value, d_sinks, None, None, None


def _scores(
    tile: _Tile, query: torch.Tensor, key: torch.Tensor, rule: Rule
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A tile's scores (heads, queries, keys), of unseen keys the lowest number; their tanh if soft-capped."""
    scores = (query[tile.queries] * (rule.scale / (rule.softcap or 1.0))) @ key[tile.keys].transpose(-1, -2)
    capped = None
    if rule.softcap is not None:
        capped = scores.tanh_()
        scores = capped * rule.softcap
    low = torch.finfo(scores.dtype).min
    queries = torch.arange(tile.first, tile.last, device=scores.device)
    if rule.causal:
        scores[..., tile.first - tile.begin :].masked_fill_(queries > queries[:, None], low)
    elif tile.real < tile.end:
        scores[..., max(tile.real - tile.begin, 0) :] = low
    if rule.window is not None and tile.end - tile.begin > rule.window:
        away = queries[:, None] - torch.arange(tile.begin, tile.end, device=scores.device)
        scores.masked_fill_((away if rule.causal else away.abs()) >= rule.window, low)
    return scores, capped


def _weights(scores: torch.Tensor, sinks: torch.Tensor | None, tile: _Tile) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The softmax of scores, taken in fp32 at least, and what of it the sinks have (heads, queries, 1)."""
    if sinks is not None:
        sunk = sinks[tile.heads, None, None].to(scores.dtype).expand(*scores.shape[:2], 1)
        scores = torch.cat([scores, sunk], -1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    return (weights, None) if sinks is None else (weights[..., :-1], weights[..., -1:])


def _kept(weights: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """What dropout multiplies weights with: 0, or 1 / (1 - dropout)."""
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
