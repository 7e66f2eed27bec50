"""flash-attn over packed rows: called directly, as it takes rows of any length as they are.

Its own function is asked rather than transformers' wrapper, which looks at the positions of each batch to find out
whether it is packed, and so waits for the GPU.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.utils.import_utils import is_flash_attn_2_available

from tiebreak.compatibility import OLDEST_FLASH, is_new_flash

HUB_KERNEL = ("kernels-community/flash-attn2", 4)
"""A build of flash-attn 2 for the package `kernels`: its repository, and the version for torch 2.10 and newer."""


@lru_cache(maxsize=1)
def find_flash() -> tuple[Callable[..., Any] | None, str]:
    """Find `flash_attn_varlen_func`: flash-attn's where it is installed, else the one that `kernels` has fetched.

    Returns:
        The function, or None, and where it is from, or why there is none.
    """
    if is_flash_attn_2_available():  # not so with flash-attn 4 alone
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

        found = version("flash-attn")
        if not is_new_flash(found):
            return None, f"flash-attn {found} is older than {OLDEST_FLASH} (make gpu)"
        return flash_attn_varlen_func, f"flash-attn {found}"
    if find_spec("kernels") is None:
        return None, "flash-attn 2 is not installed (make gpu)"
    repository, number = HUB_KERNEL
    try:
        from kernels import get_kernel  # type: ignore[import-not-found,unused-ignore]

        return get_kernel(repository, version=number).flash_attn_varlen_func, f"{repository} of kernels"
    except Exception as error:  # no network, no build for this GPU, another interface: each has an error of its own
        return None, f"flash-attn 2 is not installed (make gpu), and kernels has no {repository}: {error}"


def attend_flash(
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
        attention_mask: unused, None.
        kwargs: `cu_seq_lens_q` (n + 1,) int32, where the n rows begin and end, `max_length_q` (int), `scaling`,
            `dropout`, and where the model has them `softcap` and `sliding_window` (tokens that a decoder sees, its own
            included; an encoder sees less than so many to each side).

    Returns:
        The attended values (1, T, heads, head_dim), and None for the weights.
    """
    run, why = find_flash()
    assert run is not None, why
    kind = query.device.type
    # Rotated queries and keys may come in fp32: as for the fused kernels, autocast's type is meant.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    query, key, value = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    bounds, longest, window = kwargs["cu_seq_lens_q"], kwargs["max_length_q"], kwargs.get("sliding_window")
    near = (window - 1, window - 1) if window is not None and window < longest else (-1, -1)
    attended = run(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        dropout_p=kwargs.get("dropout") or 0.0,
        softmax_scale=kwargs.get("scaling"),
        causal=getattr(module, "is_causal", True),
        window_size=near,  # both ends are seen
        softcap=kwargs.get("softcap") or 0.0,
        deterministic=os.environ.get("FLASH_ATTENTION_DETERMINISTIC", "0") == "1",  # transformers' switch
    )
    return attended[None], None
