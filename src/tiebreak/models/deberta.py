"""DeBERTa's disentangled attention over packed rows, exact.

He et al. 2021 (arXiv:2006.03654), equation 4: the score of query i and key j is
`(q_i.k_j + q_i.pk_s + k_j.pq_s) / sqrt(3 d)` with s = slot(i - j) a log-bucketed distance. Both position
terms use the same slots, so one vector of 2L - 1 distances serves both, and their sum is an additive bias
for the fused attention kernel.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DisentangledSelfAttention,
    make_log_bucket_position,
)

from tiebreak.models.packed_sdpa import Packing


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
    relative = deberta.encoder.get_rel_embedding()
    for layer in deberta.encoder.layer:
        hidden, _ = layer(hidden, packing, rel_embeddings=relative)
    return hidden


class PackedSelfAttention(DisentangledSelfAttention):
    """`DisentangledSelfAttention` that also takes a `Packing` as its mask; parameters are unchanged."""

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
        outputs = []
        for group in attention_mask.groups:
            q, k, v = (states[group.index].transpose(1, 2) for states in (query, key, value))
            slots = self._slots(q.shape[-2], span, q.device)
            bias = self._bias(q, k, position_key, position_query, slots)
            if group.padded:
                bias.masked_fill_(~group.real[:, None, None, :], torch.finfo(bias.dtype).min)
            attended = F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
            outputs.append(attended.transpose(1, 2).flatten(2))
        return attention_mask.scatter(outputs)[None], None

    def _slots(self, length: int, span: int, device: torch.device) -> torch.Tensor:
        """slot(i - j) (length, length), spread out from the vector of the 2 length - 1 distances."""
        distance = torch.arange(1 - length, length, device=device)
        if self.position_buckets > 0 and self.max_relative_positions > 0:
            distance = make_log_bucket_position(distance, self.position_buckets, self.max_relative_positions)
        slots = (distance.long() + span).clamp(0, 2 * span - 1)
        return slots.as_strided((length, length), (1, 1)).flip(1)

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
