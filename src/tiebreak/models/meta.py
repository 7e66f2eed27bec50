"""A model without memory: how much a configuration asks for."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tiebreak.errors import UserError
from tiebreak.models.folder import load_or_refuse
from tiebreak.models.guard import count_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_PER_HELD, MORE_THAN_HELD = 3, 1 << 24
"""A base in 4 bits holds two weights in a byte; a fresh head, or rows for new tokens, come to what is held."""


def refuse_larger(base: str, config: "PreTrainedConfig") -> None:
    """Raise UserError if a configuration asks for many more weights than a folder holds, before they are allocated."""
    from transformers import AutoModelForSequenceClassification

    if (held := count_weights(Path(base))) is None:
        return
    with torch.device("meta"):
        meta = load_or_refuse(base, lambda: AutoModelForSequenceClassification.from_config(config))
    wanted = sum(parameter.numel() for parameter in meta.parameters())
    if wanted > MOST_PER_HELD * held + MORE_THAN_HELD:
        raise UserError(
            f"{base}: config.json asks for {wanted:,} weights, and the files hold {held:,}: take weights and "
            "configuration of one model"
        )
