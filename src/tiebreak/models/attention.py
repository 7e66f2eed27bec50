"""Which attention runs: decided in one place, with the reason."""

from dataclasses import dataclass
from importlib.metadata import version

import torch
from transformers import AttentionInterface, PreTrainedConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from tiebreak.compatibility import Backend, find_family
from tiebreak.errors import UserError
from tiebreak.models import deberta
from tiebreak.models.packed_sdpa import attend_packed

PACKED_SDPA = "tiebreak_packed"  # transformers refuses names with "sdpa" for families without its own
AttentionInterface.register(PACKED_SDPA, attend_packed)

IMPLEMENTATIONS = {"flash": "flash_attention_2", "packed-sdpa": PACKED_SDPA, "packed-deberta": "eager"}
"""What transformers calls a backend; the others have the same name there."""
PADDED = ("eager", "sdpa")
AMPERE = (8, 0)
SOFTCAPPING = (2, 6, 3)


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
    return Attention(packed, no_flash) if no_flash else Attention("flash", "flash-attn is installed")


def why_no_flash(config: PreTrainedConfig, device: torch.device, precision: torch.dtype) -> str | None:
    """Why flash-attn cannot run a model here, from its own checks (flash_api.cpp of 2.8.3); None if it can."""
    if not find_family(config.model_type).flash:
        return "flash-attn has no relative positions"
    if device.type != "cuda":
        return "there is no GPU for flash-attn here"
    if not is_flash_attn_2_available():  # nor with flash-attn 4 alone
        return "flash-attn 2 is not installed (make gpu)"
    if precision not in (torch.float16, torch.bfloat16):
        return "flash-attn computes in bf16 and fp16 alone"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "flash-attn needs a GPU of compute capability 8.0 or more"
    if getattr(config, "attn_logit_softcapping", None):
        if tuple(map(int, version("flash-attn").split(".")[:3])) < SOFTCAPPING:
            return f"soft-capping needs flash-attn {'.'.join(map(str, SOFTCAPPING))} or newer"
        if getattr(config, "attention_dropout", 0.0):
            return "flash-attn has no dropout beside soft-capping"
    return None
