"""FlexAttention over packed rows: torch's own compiled kernels, for GPUs on which flash-attn is not installed.

Which keys a query sees is one stretch, whatever the rows' bounds, causality and windows are: `first` and `last` of each
query say it, and one mask function serves all layers and models. What depends on the lengths is worked out on the host
and copied once, so nothing waits for the GPU.

A kernel is compiled for each length (dynamic ones are compiled anew for each batch, pytorch#189952), so the tokens are
padded to one of few lengths; a token of the padding sees itself alone. Dong et al. 2024, arXiv:2412.05496.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tiebreak.attention.packed_sdpa import attend_by_hand
from tiebreak.cluster.transfer import to_device

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

log = logging.getLogger(__name__)

BLOCK = 128
"""Queries, and keys, of a block that a kernel skips as a whole; FlexAttention's own default."""
SHORTEST = 512
"""Of the padded lengths. Its blocks are a multiple of four, so that all index tensors begin where kernels like it."""
MOST_KERNELS = 64
"""Compiled for one function: by length, with gradients and without. torch would stop at 8."""
TABLES = [f"{whole}{of}_{what}" for of in ("kv", "q") for whole in ("", "full_") for what in ("num_blocks", "indices")]
"""Of a BlockMask, in the order of `block_mask`."""
TRIED, NEAR = 256, 0.03
"""Tokens of a trial, and how far its result may be from exact arithmetic, over the largest number."""


@dataclass(frozen=True)
class FlexRows:
    """The rows of a packed batch; a mask is made where the first layer asks for it, and kept for the others."""

    lengths: list[int]
    device: torch.device
    masks: dict[tuple[bool, int | None], "BlockMask"] = field(default_factory=dict)

    @property
    def padded(self) -> int:
        """Tokens of the batch and of its padding."""
        return padded_length(sum(self.lengths))

    def mask(self, causal: bool, window: int | None) -> "BlockMask":
        """Which keys each query sees, as `visible_keys` has it."""
        window = None if window is None or window >= max(self.lengths) else window
        if (causal, window) not in self.masks:
            first, last = visible_keys(self.lengths, self.padded, causal, window)
            self.masks[causal, window] = block_mask(first, last, self.device)
        return self.masks[causal, window]


def padded_length(tokens: int) -> int:
    """The next of 512, 1024, 1536, 2048, 3072, 4096, 6144, ...: two for each doubling."""
    power = max(SHORTEST, 1 << (tokens - 1).bit_length())
    return power * 3 // 4 if power > 2 * SHORTEST and tokens <= power * 3 // 4 else power


def visible_keys(lengths: list[int], padded: int, causal: bool, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last key that each of `padded` queries sees, int32; in the padding its own.

    Args:
        lengths: tokens of each row, one row after another.
        padded: queries, the padding behind all rows included.
        causal: whether a query sees no later key.
        window: tokens that a decoder's query sees, its own included; an encoder's sees less than so many to each side.
    """
    ends = np.cumsum(lengths)
    place = np.arange(padded)
    rest = padded - ends[-1]
    first = np.concatenate([(ends - lengths).repeat(lengths), place[padded - rest :]])
    last = np.concatenate([(ends - 1).repeat(lengths), place[padded - rest :]])
    if causal:
        last = place
    if window is not None:
        first, last = np.maximum(first, place - window + 1), np.minimum(last, place + window - 1)
    return first.astype(np.int32), last.astype(np.int32)


def block_mask(first: np.ndarray, last: np.ndarray, device: torch.device) -> "BlockMask":
    """FlexAttention's mask of the keys from `first` to `last` of each query (T,), T a multiple of `BLOCK`.

    Both grow with the query, so the keys that the queries of a block see are one stretch too.
    """
    from torch.nn.attention.flex_attention import BlockMask

    count = len(first) // BLOCK
    lows, highs = first.reshape(count, BLOCK), last.reshape(count, BLOCK)
    begins = np.arange(count) * BLOCK
    seen = (begins + BLOCK > lows.min(1)[:, None]) & (begins <= highs.max(1)[:, None])
    whole = (begins >= lows.max(1)[:, None]) & (begins + BLOCK <= highs.min(1)[:, None] + 1)
    partly = seen & ~whole
    pieces = [first, last]
    for table in (partly, whole, partly.T, whole.T):
        pieces += [table.sum(1), np.argsort(~table, axis=1, kind="stable").ravel()]  # how many, and which, these first
    bounds = np.cumsum([0, *map(len, pieces)])
    there = to_device(np.concatenate(pieces).astype(np.int32), device)
    from_key, to_key, *tables = (there[begin:end] for begin, end in pairwise(bounds.tolist()))
    shaped = [t.view(1, 1, count) if len(t) == count else t.view(1, 1, count, count) for t in tables]

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key >= from_key[query]) & (key <= to_key[query])

    named: dict[str, Any] = dict(zip(TABLES, shaped, strict=True))
    return BlockMask((len(first), len(first)), **named, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)


def soft_cap(most: float) -> Callable[..., torch.Tensor]:
    """A change of scores to most * tanh(score / most) (Gemma 2 report, section 2), as FlexAttention takes it."""

    def capped(score: torch.Tensor, *place: torch.Tensor) -> torch.Tensor:
        return most * torch.tanh(score / most)

    return capped


@lru_cache(maxsize=1)
def compiled() -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled for each shape; never run uncompiled, which would make the whole table of scores."""
    import torch._dynamo
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_KERNELS)
    function: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return function


def attend_flex(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """A `transformers` attention function for packed batches.

    Args:
        module: the attention layer.
        query: (1, heads, T, head_dim), T the tokens of all rows together.
        key: (1, key heads, T, head_dim).
        value: as key.
        attention_mask: unused, None: `flex` says where rows begin and end.
        kwargs: `flex` (FlexRows), `scaling`, and where the model has them `softcap` and `sliding_window` (as
            `visible_keys` has it).

    Returns:
        The attended values (1, T, heads, head_dim), and None for the weights.
    """
    rows: FlexRows = kwargs["flex"]
    kind, tokens = query.device.type, query.shape[2]
    # Rotated queries and keys may come in fp32: as for the fused kernels, autocast's type is meant.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    behind = (0, 0, 0, rows.padded - tokens)
    query, key, value = (F.pad(states.to(dtype), behind) for states in (query, key, value))
    softcap = kwargs.get("softcap")
    with torch.autocast(kind, enabled=False):  # whose state is part of what a kernel is compiled for
        attended = compiled()(
            query,
            key,
            value,
            score_mod=None if softcap is None else soft_cap(softcap),
            block_mask=rows.mask(getattr(module, "is_causal", True), kwargs.get("sliding_window")),
            scale=kwargs.get("scaling"),
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return attended[:, :, :tokens].transpose(1, 2), None


@lru_cache(maxsize=8)
def try_flex(
    device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, width: int, softcap: float | None
) -> str | None:
    """Run one layer forth and back, as a GPU may lack a compiler, or the shared memory for wide heads (pytorch#198224).

    Args:
        device: the GPU.
        dtype: of queries, keys and values.
        heads: of the queries.
        key_heads: of the keys.
        width: of a head.
        softcap: of the scores; None for none.

    Returns:
        Why FlexAttention cannot be used; None if it gave what exact arithmetic gives.
    """
    log.info("FlexAttention is tried: its kernels are compiled, which may take a minute")
    rows = FlexRows([TRIED // 4, TRIED - TRIED // 4], device)
    layer = nn.Module()
    draw = torch.Generator().manual_seed(0)

    def attend(of_type: torch.dtype, run: Callable[..., torch.Tensor]) -> torch.Tensor:
        draw.manual_seed(0)
        shapes = [(1, count, TRIED, width) for count in (heads, key_heads, key_heads)]
        states = [torch.randn(shape, generator=draw).to(device, of_type).requires_grad_() for shape in shapes]
        attended = run(*states)
        attended.square().sum().backward()
        return torch.cat([torch.as_tensor(t).float().flatten() for t in (attended, *(s.grad for s in states))]).detach()

    def by_flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend_flex(layer, query, key, value, None, flex=rows, softcap=softcap)[0]

    def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        first, last = (
            torch.from_numpy(each).to(device)[:, None] for each in visible_keys(rows.lengths, TRIED, True, None)
        )
        places = torch.arange(TRIED, device=device)
        mask = (places >= first) & (places <= last)
        return attend_by_hand(query, key, value, mask, True, None, softcap, None, 0.0).transpose(1, 2)

    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            found, expected = attend(dtype, by_flex), attend(torch.float32, by_hand)
        if float((found - expected).abs().max()) <= NEAR * float(expected.abs().max()):
            return None
        return "FlexAttention gives other numbers than exact arithmetic here"
    except Exception as error:  # of the compilers, the driver, the kernels: each has an error of its own
        first_line = (str(error).strip().splitlines() or [""])[0]
        return f"FlexAttention does not run here ({type(error).__name__}: {first_line[:120]})"
