"""CUDA tensors without a card or memory: the CUDA build of torch, fake tensors, and a count of the bytes that live.

To be imported under the driver of device.c (`start` in test_simulated_gpu.py), before anything of ours. Kernels of
attention, which torch cannot run without a card, are replaced by functions that make and keep the tensors that they do.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.cuda.amp.common
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from live import Live

DRIVER = ctypes.CDLL(os.environ["LD_PRELOAD"])
ROUNDED = 512
"""Bytes to which CUDA's allocator rounds."""

torch._C._ensureCUDADeviceGuardSet()  # or autograd ends the process
torch.cuda.is_available = lambda: False
torch.cuda.is_bf16_supported = lambda *args, **kwargs: True
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda *args: (9, 0)
torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # or autocast switches itself off


@contextmanager
def backward() -> Iterator[None]:
    """Hold around a backward pass."""
    DRIVER.simulate_devices(64)
    try:
        yield
    finally:
        DRIVER.simulate_devices(0)


class _Kernel(torch.autograd.Function):
    """A fused attention: keeps its inputs, its output and a logarithm for each query and head."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, bias: Any, logs: tuple[int, ...]) -> Any:
        attended = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, bias, attended, query.new_empty(logs, dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        query, key, value, bias, *_ = ctx.saved_tensors
        of_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[3] else None
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), of_bias, None


def flash_attn_varlen_func(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """flash-attn's: (tokens, heads, width) in half precision alone."""
    assert query.dtype == key.dtype == value.dtype and query.dtype in (torch.float16, torch.bfloat16), query.dtype
    return _Kernel.apply(query, key, value, None, (query.shape[1], query.shape[0]))


def scaled_dot_product_attention(q: Any, k: Any, v: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
    """torch's memory-efficient kernel, under autocast as torch has it."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
    return _Kernel.apply(q, k, v, attn_mask, q.shape[:-1])


def install() -> None:
    """Put the stand-ins where torch and we find them."""
    torch.nn.functional.scaled_dot_product_attention = scaled_dot_product_attention
    torch.nn.init._no_grad_trunc_normal_ = lambda tensor, *args, **kwargs: tensor  # it looks at numbers
    from tiebreak.attention import flash

    flash.find_flash = lambda: (flash_attn_varlen_func, "simulated")


def counted() -> Live:
    """A count of the bytes that live, rounded as CUDA's allocator does."""
    return Live(ROUNDED)


def fake() -> FakeTensorMode:
    """The mode in which tensors have no memory."""
    return FakeTensorMode(allow_non_fake_inputs=True)
