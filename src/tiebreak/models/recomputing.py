"""Activation checkpointing: a layer keeps its input alone, and runs again in the backward pass."""

from typing import Any

from tiebreak.config import ModelSettings


def recompute_activations(network: Any, settings: ModelSettings) -> None:
    """Let every layer of a classifier, with or without adapters, run again in the backward pass.

    bitsandbytes' 8-bit layers keep their inputs beside autograd's own saved tensors, where the usual checkpointing does
    not see and so does not free them: for these the layer's first pass runs without autograd (`use_reentrant`), which
    needs an input that has gradients.

    Args:
        network: transformers' classifier, with its adapters; changed in place.
        settings: the recipe's model.
    """
    eight_bits = settings.method == "qlora" and settings.bits == 8
    if eight_bits:
        network.enable_input_require_grads()
    network.gradient_checkpointing_enable({"use_reentrant": eight_bits})
