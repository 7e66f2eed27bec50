"""fp16, where a GPU has no bf16: half the bytes of fp32 and several times its rate, up to 65,504.

A row whose hidden states grow beyond that has no finite logits, and is computed again in fp32, with the same weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tiebreak.attention.backends import HALF_ALONE, Attention
from tiebreak.compatibility import find_family
from tiebreak.models.preference import PreferenceModel


@contextmanager
def in_fp32(judge: PreferenceModel) -> Iterator[None]:
    """Let a judge in fp16 or bf16 compute in fp32, for inference; its weights stay as they are.

    A layer's weights are converted while it runs, so that one layer at a time has them twice. 8-bit layers, which
    quantise their inputs in fp16, stay as they are.
    """
    attention, autocast = judge.attention, judge.autocast
    replaced = []
    for module in judge.network.modules():
        if (forward := _fp32_forward(module)) is not None:
            module.forward = forward
            replaced.append(module)
    judge.autocast = None
    if attention.backend in HALF_ALONE and (packed := find_family(judge.classifier.config.model_type).packed):
        judge.attention = Attention(packed, "fp32")
        judge.classifier.set_attn_implementation(judge.attention.implementation)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward  # the class's again
        judge.autocast = autocast
        if judge.attention is not attention:
            judge.attention = attention
            judge.classifier.set_attn_implementation(attention.implementation)


def _fp32_forward(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a module in half precision computes, in fp32; None where it does so by itself."""
    weight: Any = module._parameters.get("weight")  # its own: an adapter shows that of the layer that it wraps
    bias: Any = getattr(module, "bias", None)
    if (state := getattr(weight, "quant_state", None)) is not None:
        return lambda inputs: F.linear(inputs.float(), _dequantise(weight, state), _float(bias))
    if not isinstance(weight, nn.Parameter) or weight.dtype not in (torch.float16, torch.bfloat16):
        return None
    if isinstance(module, nn.Linear):
        return lambda inputs: F.linear(inputs.float(), weight.float(), _float(bias))
    if isinstance(module, nn.Embedding):
        of_its_class: Any = type(module).forward  # which may scale what it looks up
        return lambda tokens: of_its_class(module, tokens).float()
    if isinstance(module, nn.LayerNorm):
        shape, eps = module.normalized_shape, module.eps
        return lambda inputs: F.layer_norm(inputs.float(), shape, weight.float(), _float(bias), eps)
    return None  # RMSNorms of transformers: fp32 states by half weights are fp32


def _dequantise(weight: Any, state: Any) -> torch.Tensor:
    """A 4-bit layer's matrix."""
    from bitsandbytes.functional import dequantize_4bit

    matrix: torch.Tensor = dequantize_4bit(weight.data, state)
    return matrix.float()


def _float(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()
