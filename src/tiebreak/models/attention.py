"""Which attention runs: decided in one place, with the reason."""

import importlib.util
from dataclasses import dataclass

import torch
from transformers import AttentionInterface, PreTrainedConfig

from tiebreak.compatibility import Backend, find_family
from tiebreak.errors import UserError
from tiebreak.models import deberta
from tiebreak.models.packed_sdpa import attend_packed

PACKED_SDPA = "tiebreak_packed"  # transformers refuses names with "sdpa" for families without its own
AttentionInterface.register(PACKED_SDPA, attend_packed)

IMPLEMENTATIONS = {"flash": "flash_attention_2", "packed-sdpa": PACKED_SDPA, "packed-deberta": "eager"}
"""What transformers calls a backend; the others have the same name there."""
PADDED = ("eager", "sdpa")


@dataclass(frozen=True)
class Attention:
    """The chosen backend, and why."""

    backend: Backend
    reason: str

    @property
    def packed(self) -> bool:
        """Whether batches are packed."""
        return self.backend not in PADDED

    @property
    def implementation(self) -> str:
        """The backend in transformers' words."""
        return IMPLEMENTATIONS.get(self.backend, self.backend)


def choose_attention(config: PreTrainedConfig, wanted: str, device: torch.device) -> Attention:
    """Choose the attention backend of a model; tiebreak.compatibility has refused what would be wrong.

    Args:
        config: of the model.
        wanted: the recipe's `model.attention`: `auto`, `flash`, `packed-sdpa` (or `rows`, its former name), which means
            the family's own packed attention, `eager` or `sdpa`.
        device: that the model will run on.

    Raises:
        UserError: a backend that this model or machine cannot run.
    """
    family = find_family(config.model_type)
    packed = family.packed if config.model_type != "deberta-v2" or deberta.can_pack(config) else None
    flash = family.flash and device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    if wanted == "flash":
        if not flash:
            raise UserError("model.attention is flash, but there is no GPU with flash-attn here: set it to auto")
        return Attention("flash", "set by the recipe")
    if wanted in ("packed-sdpa", "rows"):
        if packed is None:
            raise UserError(
                f"model.attention is {wanted}, but no attention over packed rows is known for {config.model_type}: "
                "set it to auto"
            )
        return Attention(packed, "set by the recipe")
    if wanted != "auto":
        return Attention("sdpa" if wanted == "sdpa" else "eager", "set by the recipe")
    if packed is None:
        return Attention("eager", f"no attention over packed rows is known for {config.model_type}")
    if flash:
        return Attention("flash", "flash-attn is installed")
    reason = "flash-attn needs a GPU and the gpu extra" if family.flash else "flash-attn has no relative positions"
    return Attention(packed, reason)
