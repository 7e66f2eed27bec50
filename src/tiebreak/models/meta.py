"""Models without memory, of a configuration alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tiebreak.errors import UserError
from tiebreak.models.folder import load_or_refuse
from tiebreak.models.guard import count_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_PER_HELD, MORE_THAN_HELD = 3, 1 << 24
"""A base in 4 bits holds two weights in a byte; a fresh head, or rows for new tokens, come to what is held."""


def empty_classifier(
    base: str, config: "PreTrainedConfig", attention: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """transformers' classifier of a configuration on the meta device.

    Args:
        base: its folder or hub name, for messages.
        config: of it.
        attention: in transformers' words.
        dtype: of its weights.
    """
    from transformers import AutoModelForSequenceClassification

    def make() -> Any:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention, dtype=dtype)

    return load_or_refuse(base, make)


def refuse_larger(base: str, config: "PreTrainedConfig") -> None:
    """Raise UserError if a configuration asks for many more weights than a folder holds, before they are allocated."""
    if (held := count_weights(Path(base))) is None:
        return
    wanted = sum(parameter.numel() for parameter in empty_classifier(base, config).parameters())
    if wanted > MOST_PER_HELD * held + MORE_THAN_HELD:
        raise UserError(
            f"{base}: config.json asks for {wanted:,} weights, and the files hold {held:,}: take weights and "
            "configuration of one model"
        )
