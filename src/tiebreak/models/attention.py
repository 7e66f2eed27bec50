"""Which attention runs: decided in one place, with the reason."""

from dataclasses import dataclass

import torch
from transformers import AttentionInterface, PreTrainedConfig

from tiebreak.compatibility import Backend, find_family
from tiebreak.errors import UserError
from tiebreak.models import deberta
from tiebreak.models.flash import attend_flash, find_flash
from tiebreak.models.packed_sdpa import attend_packed

# transformers has ideas of its own about names with "sdpa" and "flash", and makes no masks for names it does not know
PACKED_SDPA, VARLEN = "tiebreak_packed", "tiebreak_varlen"
AttentionInterface.register(PACKED_SDPA, attend_packed)
AttentionInterface.register(VARLEN, attend_flash)

IMPLEMENTATIONS = {"flash": VARLEN, "packed-sdpa": PACKED_SDPA, "packed-deberta": "eager"}
"""What transformers calls a backend; the others have the same name there."""
PADDED = ("eager", "sdpa")
AMPERE = (8, 0)


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


def choose_attention(
    config: PreTrainedConfig, wanted: str, device: torch.device, precision: torch.dtype = torch.float32
) -> Attention:
    """Choose the attention backend of a model; tiebreak.compatibility has refused what would be wrong.

    Args:
        config: of the model.
        wanted: the recipe's `model.attention`: `auto`, `flash`, `packed-sdpa` (or `rows`, its former name), which means
            the family's own packed attention, `eager` or `sdpa`.
        device: that the model will run on.
        precision: of its hidden states.

    Raises:
        UserError: a backend that this model or machine cannot run.
    """
    family = find_family(config.model_type)
    packed = family.packed if config.model_type != "deberta-v2" or deberta.can_pack(config) else None
    no_flash = why_no_flash(config, device, precision)
    if wanted == "flash":
        if no_flash:
            raise UserError(f"model.attention is flash, but {no_flash}: set it to auto")
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
    return Attention(packed, no_flash) if no_flash else Attention("flash", find_flash()[1])


def why_no_flash(config: PreTrainedConfig, device: torch.device, precision: torch.dtype) -> str | None:
    """Why flash-attn cannot run a model here, from its own checks (flash_api.cpp of 2.8.3); None if it can."""
    if not find_family(config.model_type).flash:
        return "flash-attn has no relative positions"
    if device.type != "cuda":
        return "there is no GPU for flash-attn here"
    if precision not in (torch.float16, torch.bfloat16):
        return "flash-attn computes in bf16 and fp16 alone"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "flash-attn needs a GPU of compute capability 8.0 or more"
    if getattr(config, "attn_logit_softcapping", None) and getattr(config, "attention_dropout", 0.0):
        return "flash-attn has no dropout beside soft-capping"
    found, why = find_flash()
    return None if found else why
