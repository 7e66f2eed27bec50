"""Attention over packed rows without flash-attn: rows of like length share one padded batch.

Padding stands on the right, so no real token attends to it.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tiebreak.attention.packing import Packing
from tiebreak.attention.tiled import attend_tiled
from tiebreak.attention.tiles import Rule
from tiebreak.cluster.machine import AMPERE

# cuDNN makes a plan for each new shape of a batch, and here nearly every group has its own.
torch.backends.cuda.enable_cudnn_sdp(False)

MOST_FLASH_WIDTH = 128
"""Of a head; wider ones have no backward pass in torch's flash kernel on some GPUs."""
TILED_FROM = 96
"""Tokens from which tiles are faster on a CPU (benchmarks/attention.py)."""


def attend_packed(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """A `transformers` attention function for packed batches, exact on any device.

    Args:
        module: the attention layer.
        query: (1, heads, T, head_dim), T the tokens of all rows together.
        key: (1, key heads, T, head_dim).
        value: as key.
        attention_mask: unused, None: `packing` says where rows begin and end.
        kwargs: `packing` (Packing), `scaling`, `dropout`, and where the model has them `softcap`, `sliding_window`
            (tokens that a decoder sees, its own included; an encoder sees less than so many to each side) and `s_aux`
            (heads,), logits that take a share of each softmax and have no value.

    Returns:
        The attended values (1, T, heads, head_dim), and None for the weights.
    """
    packing: Packing = kwargs["packing"]
    scaling, dropout = kwargs.get("scaling"), kwargs.get("dropout") or 0.0
    softcap, window, sinks = kwargs.get("softcap"), kwargs.get("sliding_window"), kwargs.get("s_aux")
    causal = getattr(module, "is_causal", True)
    gathered = (packing.gather(states[0].transpose(0, 1)) for states in (query, key, value))
    outputs = []
    for group, *states in zip(packing.groups, *gathered, strict=True):
        q, k, v = (each.transpose(1, 2) for each in states)
        length = q.shape[-2]
        by_hand = softcap is not None or sinks is not None or (window is not None and length > window)
        if by_hand and q.device.type == "cpu" and length >= TILED_FROM:
            rule = Rule(q.shape[-1] ** -0.5 if scaling is None else scaling, causal, window, softcap, dropout)
            outputs.append(attend_tiled(q, k, v, group.lengths, rule, sinks).transpose(1, 2))
            continue
        mask = None if causal else group.real[:, None, None, :]
        if window is not None and length > window:
            distance = torch.arange(length, device=q.device)
            distance = distance[:, None] - distance
            near = (distance >= 0) & (distance < window) if causal else distance.abs() < window
            mask = near if mask is None else mask & near
        if softcap is None and sinks is None:
            if not takes_key_heads(q, mask):
                k, v = repeat_key_heads(q, k, v)
            attended = F.scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=causal and mask is None, scale=scaling, enable_gqa=True
            )
        else:
            attended = attend_by_hand(q, k, v, mask, causal, scaling, softcap, sinks, dropout)
        outputs.append(attended.transpose(1, 2))
    return packing.scatter(outputs)[None], None


def takes_key_heads(query: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether torch's fused attention surely takes fewer key heads than query heads.

    On a GPU its flash kernel alone does; where that cannot run, the table of scores, length x length, would be made. It
    runs in half precision, without a mask, from compute capability 8.0, and backwards not for the widest heads.

    Args:
        query: (n, heads, length, head_dim).
        mask: of the call.
    """
    if query.device.type != "cuda":
        return True
    half = torch.is_autocast_enabled("cuda") or query.dtype in (torch.float16, torch.bfloat16)
    capable = torch.cuda.get_device_capability(query.device) >= AMPERE
    return mask is None and half and capable and query.shape[-1] <= MOST_FLASH_WIDTH


def repeat_key_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (n, key heads, length, head_dim) with as many heads as the query has."""
    repeats = query.shape[1] // key.shape[1]
    return (key, value) if repeats == 1 else (key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1))


def attend_by_hand(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """softcap * tanh(scores / softcap) before the softmax (Gemma 2 report, section 2), softmax in fp32.

    `sinks` (heads,) are one more logit of each softmax, whose weight goes nowhere (gpt-oss's model card, 2025).
    """
    k, v = repeat_key_heads(q, k, v)
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None and causal:
        length = q.shape[-2]
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    weights = F.dropout(weights if sinks is None else weights[..., :-1], dropout)
    return weights @ v
