"""The last layer, computed beyond its attention for the pooled tokens alone: a classifier reads no others.

The attention needs the keys and values of all tokens and is left as it is; of what follows it, most of a layer, only
the pooled tokens' share is computed. Nothing is approximated. It happens inside the layer's own forward, so engines
that shard layers, and activation checkpointing that runs them twice, see the calls that they expect.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from tiebreak.attention.packing import Packing

POOLED = "pooled_tokens"
"""Keyword of a decoder's forward: indices (n,) int64 of the tokens that are pooled."""


def return_pooled_tokens_only(layers: Sequence[nn.Module], decoder: bool) -> bool:
    """Patch the last layer to return the pooled tokens only: (1, T, width) -> (1, n, width).

    A decoder takes their indices as the keyword `POOLED` of its forward, an encoder from `Packing.pooled_tokens`.
    Without them it computes all tokens as before. A second call changes nothing.

    Args:
        layers: all of the backbone, the lowest first.
        decoder: whether they norm first and add the attention to their input, as in Llama, Gemma, Mistral and Qwen2;
            otherwise they are an encoder's, as in BERT and DeBERTa.

    Returns:
        Whether the layers are such, and so were patched.
    """
    last: Any = layers[-1]
    if isinstance(last, _PooledLayer) or getattr(last, "attention_is_hooked", False):
        return True
    if not decoder:
        if not hasattr(last, "attention"):
            return False
        last.attention.register_forward_hook(_keep_packing_pooled, with_kwargs=True)
        last.attention_is_hooked = True
        return True
    if not all(hasattr(layer, "input_layernorm") and hasattr(layer, "self_attn") for layer in layers):
        return False
    for layer in layers[:-1]:
        layer.register_forward_pre_hook(_drop_keyword, with_kwargs=True)
    last.pending = {}
    last.self_attn.register_forward_pre_hook(partial(_attend_to_all, last.pending), with_kwargs=True)
    last.self_attn.register_forward_hook(partial(_keep_pooled, last.pending))
    last.__class__ = type(f"Pooled{type(last).__name__}", (_PooledLayer, type(last)), {})
    return True


def beyond_attention(layer: nn.Module) -> list[nn.Linear]:
    """The matrices of a layer that see the pooled tokens alone."""
    named = layer.named_modules()
    return [m for name, m in named if isinstance(m, nn.Linear) and not name.startswith(("self_attn", "attention"))]


class _PooledLayer:
    """A decoder's layer whose residual stream holds the pooled tokens alone; its attention gets the norm of all.

    `pending` hands the two hooks of its attention what they need, from the start of a forward to that attention.
    """

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, pooled_tokens: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        layer: Any = self
        layer.pending.clear()
        whole: Any = super()
        if pooled_tokens is None:
            return whole.forward(hidden_states, *args, **kwargs)
        layer.pending |= {POOLED: pooled_tokens, "normed": layer.input_layernorm(hidden_states)}
        return whole.forward(hidden_states[:, pooled_tokens], *args, **kwargs)


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _drop_keyword(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    kwargs.pop(POOLED, None)
    return args, kwargs


def _attend_to_all(
    pending: dict[str, torch.Tensor], attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arguments:
    if "normed" in pending:
        kwargs["hidden_states"] = pending.pop("normed")
    return args, kwargs


def _keep_pooled(
    pending: dict[str, torch.Tensor], attention: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (output[0][:, pending.pop(POOLED)], *output[1:]) if POOLED in pending else output


def _keep_packing_pooled(
    attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, ...]
) -> tuple[Any, ...]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Packing) and value.pooled_tokens is not None:
            return (output[0][:, value.pooled_tokens], *output[1:])
    return output
