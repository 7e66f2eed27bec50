"""Which attention runs: decided in one place, with the reason."""

import importlib.util
from dataclasses import dataclass

import torch
from transformers import AttentionInterface

from tiebreak.errors import UserError
from tiebreak.models import deberta
from tiebreak.models.packed_sdpa import attend_rows

ROWS = "tiebreak_rows"
AttentionInterface.register(ROWS, attend_rows)

PACKABLE = ("gemma2", "llama", "qwen2", "mistral", "gemma3_text", "bert")
"""Families whose attention is transformers' own interface; DeBERTa has its own."""


@dataclass(frozen=True)
class Attention:
    """The chosen backend: `implementation` in transformers' words, whether batches are packed, and why."""

    implementation: str
    packed: bool
    reason: str


def choose_attention(config, wanted: str, device: torch.device) -> Attention:
    """Choose the attention backend of a model configuration; tiebreak.compatibility has refused wrong ones.

    Args:
        wanted: `auto`, `flash`, `rows` (packed), `eager` or `sdpa` (padded).

    Raises:
        UserError: a backend that this model or machine cannot run.
    """
    encoder = config.model_type == "deberta-v2"
    packable = deberta.can_pack(config) if encoder else config.model_type in PACKABLE
    flash = not encoder and device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    if wanted == "auto":
        if packable and flash:
            return Attention("flash_attention_2", True, "flash-attn is installed")
        if packable:
            why = "DeBERTa's own packed attention" if encoder else "flash-attn needs a GPU and the gpu extra"
            return Attention("eager" if encoder else ROWS, True, why)
        wanted, why = "eager", f"{config.model_type} is not known to run packed"
        return Attention(wanted, False, why)
    if wanted == "flash":
        if not flash:
            raise UserError("model.attention is flash, but there is no GPU with flash-attn here: use auto or rows")
        return Attention("flash_attention_2", True, "asked for")
    if wanted == "rows":
        if not packable:
            raise UserError(f"model.attention is rows, but {config.model_type} is not known to run packed: use auto")
        return Attention("eager" if encoder else ROWS, True, "asked for")
    return Attention(wanted, False, "asked for")
