"""Which attention runs: decided in one place, with the reason."""

from dataclasses import dataclass

import torch
from transformers import AttentionInterface, PreTrainedConfig

from tiebreak.attention import deberta
from tiebreak.attention.flash import attend_flash, find_flash
from tiebreak.attention.flex import attend_flex, try_flex
from tiebreak.attention.packed_sdpa import attend_packed
from tiebreak.cluster.machine import AMPERE
from tiebreak.compatibility import Backend, find_family
from tiebreak.errors import UserError

# transformers has ideas of its own about names with "sdpa" and "flash", and makes no masks for names it does not know
PACKED_SDPA, VARLEN, FLEX = "tiebreak_packed", "tiebreak_varlen", "tiebreak_flex"
AttentionInterface.register(PACKED_SDPA, attend_packed)
AttentionInterface.register(VARLEN, attend_flash)
AttentionInterface.register(FLEX, attend_flex)

IMPLEMENTATIONS = {"flash": VARLEN, "flex": FLEX, "packed-sdpa": PACKED_SDPA, "packed-deberta": "eager"}
"""What transformers calls a backend; the others have the same name there."""
PADDED = ("eager", "sdpa")
HALF_ALONE = ("flash", "flex")
"""Backends that are taken in bf16 and fp16 alone."""


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
        wanted: the recipe's `model.attention`: `auto`, `flash`, `flex`, `packed-sdpa` (or `rows`, its former name),
            which means the family's own packed attention, `eager` or `sdpa`.
        device: that the model will run on.
        precision: of its hidden states.

    Raises:
        UserError: a backend that this model or machine cannot run.
    """
    family = find_family(config.model_type)
    packed = family.packed if config.model_type != "deberta-v2" or deberta.can_pack(config) else None
    if wanted in HALF_ALONE:
        if why_not := why_neither(config, device, precision) or (WHY_NOT[wanted](config, device, precision)):
            raise UserError(f"model.attention is {wanted}, but {why_not}: set it to auto")
        return Attention("flash" if wanted == "flash" else "flex", "set by the recipe")
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
    if neither := why_neither(config, device, precision):
        return Attention(packed, neither)
    if (no_flash := why_no_flash(config, device, precision)) is None:
        return Attention("flash", find_flash()[1])
    if (no_flex := why_no_flex(config, device, precision)) is None:
        return Attention("flex", no_flash)
    return Attention(packed, f"{no_flash}; {no_flex}")


def why_neither(config: PreTrainedConfig, device: torch.device, precision: torch.dtype) -> str | None:
    """Why neither flash-attn nor FlexAttention is for a model here; None if one of them may be."""
    if not find_family(config.model_type).flash:
        return "flash-attn has no relative positions"
    if device.type != "cuda":
        return "there is no GPU for flash-attn here"
    if precision not in (torch.float16, torch.bfloat16):
        return "flash-attn computes in bf16 and fp16 alone"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "flash-attn needs a GPU of compute capability 8.0 or more"
    return None


def why_no_flash(config: PreTrainedConfig, device: torch.device, precision: torch.dtype) -> str | None:
    """Why flash-attn cannot run a model here, from its own checks (flash_api.cpp of 2.8.3); None if it can."""
    if getattr(config, "attn_logit_softcapping", None) and getattr(config, "attention_dropout", 0.0):
        return "flash-attn has no dropout beside soft-capping"
    found, why = find_flash()
    return None if found else why


def why_no_flex(config: PreTrainedConfig, device: torch.device, precision: torch.dtype) -> str | None:
    """Why FlexAttention cannot run a model here, by a trial; None if it can."""
    if getattr(config, "attention_dropout", 0.0) or getattr(config, "attention_probs_dropout_prob", 0.0):
        return "FlexAttention has no dropout"
    heads = int(config.num_attention_heads)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return try_flex(device, precision, heads, key_heads, width, getattr(config, "attn_logit_softcapping", None))


WHY_NOT = {"flash": why_no_flash, "flex": why_no_flex}
