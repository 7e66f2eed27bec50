"""Adapters added to their layers' weights, for predictions: a layer is one product then, not three.

A quantised layer becomes one of the forward passes' own precision. The sum is made in fp32 and rounded once, so in bf16
a merged judge is another rounding of the same function.
"""

from typing import Any

import torch
from torch import nn

from tiebreak.models.preference import PreferenceModel


@torch.no_grad()
def merge_for_prediction(judge: PreferenceModel) -> None:
    """Replace every layer that has an adapter by a plain one, in place; the judge cannot be trained or saved then."""
    from peft.tuners.lora import LoraLayer

    dtype = judge.autocast or torch.float32
    for name, module in list(judge.network.named_modules()):
        if isinstance(module, LoraLayer):
            path, _, leaf = name.rpartition(".")
            setattr(judge.network.get_submodule(path), leaf, _merged(module, dtype))


def _merged(layer: Any, dtype: torch.dtype) -> nn.Linear:
    from peft.utils.integrations import dequantize_module_weight

    base = layer.get_base_layer()
    weight = dequantize_module_weight(base).float()
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter).float()
    with torch.device("meta"):
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=base.bias is not None)
    plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.detach().to(dtype), requires_grad=False)
    return plain
