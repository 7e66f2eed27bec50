"""Exact attention by tiles of queries, for what the fused kernels of a CPU do not have: soft-capping, windows, sinks,
DeBERTa's distances.

The table of scores, length x length for each head, is written to memory and read again by every step between its two
matrix products. Here one tile of it, a few queries against all keys that they see, is made, used and dropped while it
is in the cache; the backward pass makes it again (Dao et al. 2022, arXiv:2205.14135; a row of a tile is whole, so its
softmax is the plain one). Memory grows with the length, not with its square. Heads and rows are dealt to the threads.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from tiebreak.attention.tiles import QUERIES, SHARES, Distances, Piece, Rule, Tile, cut_pieces
from tiebreak.cluster.threads import run_pieces

KEPT_UP_TO = 1_024
"""Tokens of a row up to which the weights wait in memory for the backward pass, which makes longer rows' again."""
SATURATED = 20.0
"""From here on tanh is 1 in fp64 too."""


def attend_tiled(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    rule: Rule,
    sinks: torch.Tensor | None = None,
    distances: Distances | None = None,
) -> torch.Tensor:
    """Attend within padded rows; gradients reach all tensors.

    Args:
        query: (n, heads, length, head_dim).
        key: (n, key heads, length, head_dim); the heads are a multiple of the key heads.
        value: (n, key heads, length, its own head_dim).
        lengths: tokens of each of the n rows; padding stands behind them, and its outputs are zero.
        rule: of the scores.
        sinks: (heads,) one more logit of each softmax, whose weight goes nowhere (gpt-oss's model card, 2025).
        distances: of an encoder whose scores depend on them; not with soft-capping.

    Returns:
        (n, heads, length, the value's head_dim), in the type of the query, or autocast's.
    """
    kind = query.device.type
    far: list[torch.Tensor | None] = [distances.keys, distances.queries] if distances else [None, None]
    if torch.is_autocast_enabled(kind):  # as for the fused kernels: rotated queries and keys come in fp32
        half = torch.get_autocast_dtype(kind)
        query, key, value = (states.to(half) for states in (query, key, value))
        far = [states if states is None else states.to(half) for states in far]
    if (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    seed = int(torch.randint(2**62, ())) if rule.dropout else 0
    slots = distances.slots if distances else None
    with torch.autocast(kind, enabled=False):
        attended: torch.Tensor = _Tiled.apply(query, key, value, sinks, *far, slots, lengths, rule, seed)  # type: ignore[no-untyped-call]
    return attended


@dataclass(frozen=True)
class _Inputs:
    """What scores are made of; see `attend_tiled` and `Distances`."""

    query: torch.Tensor
    key: torch.Tensor
    sinks: torch.Tensor | None
    far_keys: torch.Tensor | None
    far_queries: torch.Tensor | None
    slots: torch.Tensor | None
    rule: Rule

    def by_key(self, row: int, heads: slice) -> torch.Tensor | None:
        """Products of all slots' queries with a row's keys (heads, slots, length), where there are distances."""
        return None if self.far_queries is None else self.far_queries[heads] @ self.key[row, heads].transpose(-1, -2)

    def index(self, tile: Tile) -> torch.Tensor:
        """Slots of a tile (heads, queries, keys)."""
        assert self.slots is not None
        return self.slots[tile.first : tile.last, tile.begin : tile.end].expand(tile.shape)

    def scores(
        self, tile: Tile, by_key: torch.Tensor | None, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A tile's scores (heads, queries, keys), of unseen keys -inf; their tanh, in `out`, if soft-capped."""
        rule, query, key = self.rule, self.query[tile.queries], self.key[tile.keys].transpose(-1, -2)
        capped = None
        if by_key is None or self.far_keys is None:
            scores = torch.bmm(query * (rule.scale / (rule.softcap or 1.0)), key, out=out)
        else:
            index = self.index(tile)
            scores = torch.gather(query @ self.far_keys[tile.heads].transpose(-1, -2), -1, index)
            scores.add_(torch.gather(by_key[..., tile.begin : tile.end], -2, index))
            scores.baddbmm_(query, key, alpha=rule.scale)
        if rule.softcap is not None:
            capped = _tanh(scores)
            scores = capped * rule.softcap
        if rule.causal:
            scores[..., tile.first - tile.begin :].add_(self.later[: tile.last - tile.first, : tile.last - tile.first])
        if rule.window is not None and tile.end - tile.begin > rule.window:
            queries = torch.arange(tile.first, tile.last, device=scores.device)
            away = queries[:, None] - torch.arange(tile.begin, tile.end, device=scores.device)
            scores.masked_fill_((away if rule.causal else away.abs()) >= rule.window, -torch.inf)
        return scores, capped

    @cached_property
    def later(self) -> torch.Tensor:
        """What a causal tile's last scores (queries, queries) get: of later keys -inf."""
        queries = QUERIES[True]
        return self.query.new_full((queries, queries), -torch.inf).triu(1)

    def weights(
        self, scores: torch.Tensor, tile: Tile, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The softmax of scores, taken in fp32 at least, in `out`; what of it the sinks have (heads, queries, 1)."""
        if self.sinks is not None:
            sunk = self.sinks[tile.heads, None, None].to(scores.dtype).expand(*scores.shape[:2], 1)
            scores = torch.cat([scores, sunk], -1)
        wide = torch.promote_types(scores.dtype, torch.float32)
        if wide == scores.dtype and out is not None:
            return torch.softmax(scores, -1, out=out), None
        weights = scores.softmax(-1, dtype=wide).to(scores.dtype)
        if out is not None:
            weights = out.copy_(weights)
        return (weights, None) if self.sinks is None else (weights[..., :-1], weights[..., -1:])


class _Tiled(torch.autograd.Function):
    """Tiles forth, and once more back."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
        sinks, far_keys, far_queries, slots, lengths, rule, seed = rest
        query, key, value = (states.contiguous() for states in (query, key, value))
        inputs = _Inputs(query, key, sinks, far_keys, far_queries, slots, rule)
        attended = query.new_zeros(*query.shape[:-1], value.shape[-1])
        pieces, scores = cut_pieces(query.shape, lengths, rule)
        keep = any(ctx.needs_input_grad) and sinks is None and query.shape[2] <= KEPT_UP_TO
        kept = query.new_empty(scores) if keep else None
        kept_tanh = query.new_empty(scores) if keep and rule.softcap is not None else None

        def work(piece: Piece) -> None:
            generator = torch.Generator(query.device).manual_seed(seed + piece.number)
            for tiles in piece.rows:
                by_key = inputs.by_key(tiles[0].row, piece.heads)
                for tile in tiles:
                    tile_scores, _ = inputs.scores(tile, by_key, tile.of(kept_tanh))
                    weights, _ = inputs.weights(tile_scores, tile, tile.of(kept))
                    if rule.dropout:
                        weights = weights * _drawn(weights, rule.dropout, generator)
                    torch.bmm(weights, value[tile.keys], out=attended[tile.queries])

        run_pieces(work, pieces)
        tensors = (query, key, value, sinks, far_keys, far_queries, slots, attended, kept, kept_tanh)
        ctx.save_for_backward(*tensors)
        ctx.rest = pieces, rule, seed
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, sinks, far_keys, far_queries, slots, attended, kept, kept_tanh = ctx.saved_tensors
        pieces, rule, seed = ctx.rest
        inputs = _Inputs(query, key, sinks, far_keys, far_queries, slots, rule)
        grads = _Gradients(inputs, value, attended, grad, kept, kept_tanh)

        def work(piece: Piece) -> None:
            generator = torch.Generator(query.device).manual_seed(seed + piece.number)
            for tiles in piece.rows:
                grads.of_row(piece, tiles, generator)

        run_pieces(work, pieces)
        return *grads.found(), None, None, None, None


class _Gradients:
    """Of all tensors, added up tile by tile; sinks and distances, which rows share, by shares of the rows."""

    def __init__(
        self,
        inputs: _Inputs,
        value: torch.Tensor,
        attended: torch.Tensor,
        grad: torch.Tensor,
        kept: torch.Tensor | None,
        kept_tanh: torch.Tensor | None,
    ) -> None:
        self.inputs, self.value, self.grad, self.kept, self.kept_tanh = inputs, value, grad, kept, kept_tanh
        # What a score's gradient loses to its softmax: the sum of weights times their gradients, dropout or not.
        self.share = (grad * attended).sum(-1, keepdim=True)
        self.query, self.key, self.of_value = (torch.zeros_like(each) for each in (inputs.query, inputs.key, value))
        self.shared = [
            None if states is None else states.new_zeros(SHARES, *states.shape)
            for states in (inputs.sinks, inputs.far_keys, inputs.far_queries)
        ]

    def found(self) -> list[torch.Tensor | None]:
        """Of query, key, value, sinks, and the distances' keys and queries."""
        shared = [states if states is None else states.sum(0) for states in self.shared]
        return [self.query, self.key, self.of_value, *shared]

    def of_row(self, piece: Piece, tiles: list[Tile], generator: torch.Generator) -> None:
        """Add what some heads of a row give."""
        inputs, heads, row = self.inputs, piece.heads, tiles[0].row
        _, d_far_keys, d_far_queries = self.shared
        by_key = inputs.by_key(row, heads) if self.kept is None else None
        d_by_key = None
        if inputs.far_queries is not None:
            d_by_key = self.key.new_zeros(heads.stop - heads.start, inputs.far_queries.shape[1], self.key.shape[2])
        for tile in tiles:
            d_scores = self._of_scores(piece, tile, by_key, generator)
            query, scale = inputs.query[tile.queries], inputs.rule.scale
            self.query[tile.queries].baddbmm_(d_scores, inputs.key[tile.keys], alpha=scale)
            self.key[tile.keys].baddbmm_(d_scores.transpose(-1, -2), query, alpha=scale)
            if inputs.far_keys is not None and d_far_keys is not None and d_by_key is not None:
                index = inputs.index(tile)
                slots = d_scores.new_zeros(*d_scores.shape[:-1], inputs.far_keys.shape[1])
                slots.scatter_add_(-1, index, d_scores)
                self.query[tile.queries].baddbmm_(slots, inputs.far_keys[heads])
                d_far_keys[piece.share, heads].baddbmm_(slots.transpose(-1, -2), query)
                d_by_key[..., tile.begin : tile.end].scatter_add_(-2, index, d_scores)
        if inputs.far_queries is not None and d_far_queries is not None and d_by_key is not None:
            self.key[row, heads].baddbmm_(d_by_key.transpose(-1, -2), inputs.far_queries[heads])
            d_far_queries[piece.share, heads].baddbmm_(d_by_key, inputs.key[row, heads])

    def _of_scores(
        self, piece: Piece, tile: Tile, by_key: torch.Tensor | None, generator: torch.Generator
    ) -> torch.Tensor:
        """Take a tile's weights, or make them again; add the values' and the sinks' gradients, return the products'."""
        inputs, rule, share = self.inputs, self.inputs.rule, self.share[tile.queries]
        weights, capped, sunk = tile.of(self.kept), tile.of(self.kept_tanh), None
        if weights is None:
            scores, capped = inputs.scores(tile, by_key)
            weights, sunk = inputs.weights(scores, tile)
        d_attended = self.grad[tile.queries]
        d_scores, dropped = d_attended @ self.value[tile.keys].transpose(-1, -2), weights
        if rule.dropout:
            mask = _drawn(weights, rule.dropout, generator)
            dropped = weights * mask
            d_scores.mul_(mask)
        self.of_value[tile.keys].baddbmm_(dropped.transpose(-1, -2), d_attended)
        d_scores.sub_(share).mul_(weights)
        if (d_sinks := self.shared[0]) is not None and sunk is not None:
            d_sinks[piece.share, tile.heads] -= (sunk * share).sum((1, 2))
        return d_scores if capped is None else torch.ops.aten.tanh_backward(d_scores, capped)


def _tanh(values: torch.Tensor) -> torch.Tensor:
    """In place, by expm1: in fp32 to 2e-7 of the value. Torch's own, to 6e-8, takes half as long again on a CPU."""
    if values.dtype in (torch.bfloat16, torch.float16):  # each step would round
        return values.tanh_()
    doubled = values.clamp_(-SATURATED, SATURATED).mul_(2).expm1_()
    return doubled.div_(doubled + 2)


def _drawn(weights: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """What dropout multiplies weights with: 0, or 1 / (1 - dropout)."""
    return torch.empty_like(weights).bernoulli_(1 - dropout, generator=generator).div_(1 - dropout)
