"""DeBERTa's disentangled attention over packed rows, exact.

He et al. 2021 (arXiv:2006.03654), equation 4: the score of query i and key j is
`(q_i.k_j + q_i.pk_s + k_j.pq_s) / sqrt(3 d)` with s = slot(i - j) a log-bucketed distance. Both position
terms use the same slots, so one vector of 2L - 1 distances serves both. Their sum is an additive bias for the fused
attention kernel; on a CPU, rows that are long enough go by tiles.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DisentangledSelfAttention,
    make_log_bucket_position,
)

from tiebreak.attention.packing import Packing
from tiebreak.attention.tiled import attend_tiled
from tiebreak.attention.tiles import Distances, Rule
from tiebreak.cluster.transfer import to_device

TOGETHER = 8
"""Slots begin and end at multiples of it: a GPU's products of half precision go fast for those."""
TILED_FROM = 64
"""Tokens from which tiles are faster on a CPU (benchmarks/attention.py)."""


def can_pack(config: PreTrainedConfig) -> bool:
    """Whether a DeBERTa-v2 configuration has only what `PackedSelfAttention` computes (v3 does)."""
    return (
        getattr(config, "relative_attention", False)
        and set(config.pos_att_type or []) == {"c2p", "p2c"}
        and getattr(config, "share_att_key", False)
        and getattr(config, "conv_kernel_size", 0) == 0
    )


def pack_attention(network: torch.nn.Module) -> None:
    """Patch every attention layer of a DeBERTa to take a `Packing` in place of a mask."""
    for module in network.modules():
        if type(module) is DisentangledSelfAttention:
            module.__class__ = PackedSelfAttention


def packed_backbone(deberta: Any, tokens: torch.Tensor, positions: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Hidden states (1, T, hidden) of packed tokens (1, T), as the model gives for each row alone."""
    hidden: torch.Tensor = deberta.embeddings(input_ids=tokens, position_ids=positions)
    encoder = deberta.encoder
    relative = encoder.get_rel_embedding()
    slots = group_slots(packing, encoder.position_buckets, encoder.max_relative_positions, tokens.device)
    for layer in encoder.layer:
        hidden, _ = layer(hidden, packing, relative_pos=slots, rel_embeddings=relative)
    return hidden


@dataclass(frozen=True)
class Slots:
    """slot(i - j) - first for queries i and keys j of a group of rows, (length, length) int64, below `count`.

    Short rows have only some of the distances, so the embeddings of those alone are multiplied: `count` of them, from
    `first` on.
    """

    index: torch.Tensor
    first: int
    count: int


def group_slots(packing: Packing, buckets: int, most: int, device: torch.device) -> list[Slots]:
    """The slots of each group of rows.

    Each table is spread out from a vector of its 2 length - 1 distances, which is the middle of the longest's.

    Args:
        packing: of the rows.
        buckets: the configuration's `position_buckets`.
        most: its `max_relative_positions`.
        device: of the slots.
    """
    lengths = [group.length for group in packing.groups]
    longest = max(lengths)
    here = distance_slots(longest, buckets, most)
    there, every = to_device(here, device), 2 * (buckets if buckets > 0 else most)
    found = []
    for length in lengths:
        begin, end = longest - length, longest + length - 1
        first = int(here[begin]) // TOGETHER * TOGETHER
        last = min(every, -(-(int(here[end - 1]) + 1) // TOGETHER) * TOGETHER)
        index = (there[begin:end] - first).as_strided((length, length), (1, 1)).flip(1)
        found.append(Slots(index, first, last - first))
    return found


@lru_cache(maxsize=64)
def distance_slots(length: int, buckets: int, most: int) -> np.ndarray:
    """The slot of each distance from 1 - length to length - 1 (2 length - 1,) int64."""
    distance = torch.arange(1 - length, length)
    if buckets > 0 and most > 0:
        distance = make_log_bucket_position(distance, buckets, most)
    span = buckets if buckets > 0 else most
    return (distance.long() + span).clamp(0, 2 * span - 1).numpy()


class PackedSelfAttention(DisentangledSelfAttention):
    """`DisentangledSelfAttention` that also takes a `Packing` as its mask, and then `group_slots`; same parameters."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | Packing,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend within each row of a `Packing` (1, T, width), or as transformers does with its own mask."""
        if not isinstance(attention_mask, Packing):
            stock: Any = super()
            attended, weights = stock.forward(hidden_states, attention_mask, output_attentions, **kwargs)
            return attended, weights
        heads = self.num_attention_heads
        query, key, value = (
            projection(hidden_states)[0].unflatten(-1, (heads, -1))
            for projection in (self.query_proj, self.key_proj, self.value_proj)
        )
        span = self.pos_ebd_size
        relative = self.pos_dropout(kwargs["rel_embeddings"])[: 2 * span]
        scale = (3 * query.shape[-1]) ** -0.5
        position_query, position_key = (
            projection(relative).unflatten(-1, (heads, -1)).transpose(0, 1) * scale
            for projection in (self.query_proj, self.key_proj)
        )
        dropout = self.dropout.p if self.training else 0.0
        gathered = (attention_mask.gather(states) for states in (query, key, value))
        outputs = []
        for group, slots, *states in zip(attention_mask.groups, kwargs["relative_pos"], *gathered, strict=True):
            q, k, v = (each.transpose(1, 2) for each in states)
            used = slice(slots.first, slots.first + slots.count)
            far_keys, far_queries = position_key[:, used], position_query[:, used]
            if q.device.type == "cpu" and q.shape[2] >= TILED_FROM:
                rule, distances = Rule(scale, False, dropout=dropout), Distances(far_keys, far_queries, slots.index)
                attended = attend_tiled(q, k, v, group.lengths, rule, distances=distances)
                outputs.append(attended.transpose(1, 2).flatten(2))
                continue
            bias = self._bias(q, k, far_keys, far_queries, slots.index)
            if group.padded:
                bias.masked_fill_(~group.real[:, None, None, :], torch.finfo(bias.dtype).min)
            attended = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
            outputs.append(attended.transpose(1, 2).flatten(2))
        return attention_mask.scatter(outputs)[None], None

    @staticmethod
    def _bias(
        q: torch.Tensor,
        k: torch.Tensor,
        position_key: torch.Tensor,
        position_query: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """c2p + p2c (n, heads, length, length): entry (i, j) uses slot(i - j).

        Each table has the axis of the gather's inner loop in order, and passes over the large result are few: they,
        not the products, take the time.
        """
        n, heads, length, _ = q.shape
        index = slots.expand(n, heads, length, length)
        c2p = torch.gather(q @ position_key.transpose(-1, -2), -1, index)
        return c2p.add_(torch.gather(position_query @ k.transpose(-1, -2), -2, index))
