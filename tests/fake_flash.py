"""A stand-in for flash-attn 2.8.3 on the CPU: its signature, its checks, exact arithmetic."""

from itertools import pairwise

import torch

HALF = (torch.float16, torch.bfloat16)


def varlen(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
    *,
    types=HALF,
):
    """`flash_attn_varlen_func`; the checks are those of flash_api.cpp's mha_varlen_fwd. `types` is the tests' own."""
    for states in (q, k, v):
        assert states.dtype in types, "FlashAttention only support fp16 and bf16 data type"
        assert states.dtype == q.dtype and states.dim() == 3 and states.stride(-1) == 1
    for bounds, longest in ((cu_seqlens_q, max_seqlen_q), (cu_seqlens_k, max_seqlen_k)):
        assert bounds.dtype == torch.int32 and bounds.is_contiguous()
        assert type(longest) is int and longest == int((bounds.numpy()[1:] - bounds.numpy()[:-1]).max())
    assert q.shape[-1] <= 256 and q.shape[1] % k.shape[1] == 0 and k.shape == v.shape
    assert not (softcap and dropout_p), "Softcapping does not support dropout for now"
    assert not dropout_p, "the stand-in has none"
    assert alibi_slopes is None and block_table is None and not return_attn_probs
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    ends, rows = cu_seqlens_q.numpy(), []
    with torch.autocast("cpu", enabled=False):
        for first, last in pairwise(ends):
            query, key, value = (states[first:last].float().transpose(0, 1) for states in (q, k, v))
            key, value = (states.repeat_interleave(q.shape[1] // k.shape[1], 0) for states in (key, value))
            scores = query @ key.transpose(-1, -2) * scale
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            away = torch.arange(last - first)
            away = away[:, None] - away  # the query's place less the key's
            left, right = window_size[0], 0 if causal else window_size[1]
            unseen = ((away > left) if left >= 0 else away < away.min()) | ((-away > right) if right >= 0 else False)
            rows.append((scores.masked_fill(unseen, -torch.inf).softmax(-1) @ value).transpose(0, 1))
    return torch.cat(rows).to(q.dtype)
