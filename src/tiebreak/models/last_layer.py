"""The last layer, computed beyond its attention for the pooled tokens alone: a classifier reads no others.

The attention needs the keys and values of all tokens and is left as it is; of what follows it, most of a layer, only
the chosen tokens' share is computed. Nothing is approximated. It happens inside the layer's own forward, so engines
that shard layers, and activation checkpointing that runs them twice, see the calls that they expect.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from tiebreak.models.packed_sdpa import Rows

CHOSEN = "chosen_tokens"
"""The keyword by which a forward of a decoder tells its layers which tokens (n,) int64 are pooled."""


def choose_in_decoder(layers: Sequence[nn.Module]) -> bool:
    """Let a decoder with these layers take `CHOSEN`: its hidden states (1, T, width) then come out as (1, n, width).

    For layers that norm first and add the attention to what came in: Llama, Gemma, Mistral, Qwen2.

    Returns:
        Whether these are such.
    """
    if isinstance(layers[-1], _Chosen):
        return True
    if not all(hasattr(layer, "input_layernorm") and hasattr(layer, "self_attn") for layer in layers):
        return False
    for layer in layers[:-1]:
        layer.register_forward_pre_hook(_drop, with_kwargs=True)
    last: Any = layers[-1]
    last.told = {}
    last.self_attn.register_forward_pre_hook(partial(_attend_to_all, last.told), with_kwargs=True)
    last.self_attn.register_forward_hook(partial(_keep_chosen, last.told))
    last.__class__ = type(f"Chosen{type(last).__name__}", (_Chosen, type(last)), {})
    return True


def choose_in_encoder(layers: Sequence[nn.Module]) -> bool:
    """Let an encoder with these layers obey `Rows.chosen` in the same way; for those of BERT and DeBERTa.

    Returns:
        Whether these are such.
    """
    attention: Any = getattr(layers[-1], "attention", None)
    if attention is None:
        return False
    if not getattr(attention, "chooses", False):
        attention.register_forward_hook(_keep_chosen_of_rows, with_kwargs=True)
        attention.chooses = True
    return True


def beyond_attention(layer: nn.Module) -> list[nn.Linear]:
    """The matrices of a layer that meet the chosen tokens alone."""
    named = layer.named_modules()
    return [m for name, m in named if isinstance(m, nn.Linear) and not name.startswith(("self_attn", "attention"))]


class _Chosen:
    """A decoder's layer of which the chosen tokens alone go on; its attention gets the norm of all."""

    def forward(self, hidden_states: torch.Tensor, *args, chosen_tokens: torch.Tensor | None = None, **kwargs):
        layer: Any = self
        layer.told.clear()
        whole: Any = super()
        if chosen_tokens is None:
            return whole.forward(hidden_states, *args, **kwargs)
        layer.told |= {"chosen": chosen_tokens, "normed": layer.input_layernorm(hidden_states)}
        return whole.forward(hidden_states[:, chosen_tokens], *args, **kwargs)


def _drop(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    kwargs.pop(CHOSEN, None)
    return args, kwargs


def _attend_to_all(told: dict, attention: nn.Module, args: tuple, kwargs: dict[str, Any]):
    if "normed" in told:
        kwargs["hidden_states"] = told.pop("normed")
    return args, kwargs


def _keep_chosen(told: dict, attention: nn.Module, args: tuple, output: tuple) -> tuple:
    return (output[0][:, told.pop("chosen")], *output[1:]) if "chosen" in told else output


def _keep_chosen_of_rows(attention: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple) -> tuple:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Rows) and value.chosen is not None:
            return (output[0][:, value.chosen], *output[1:])
    return output
