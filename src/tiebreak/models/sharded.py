"""What is saved of a model whose parameters are cut over ranks: full tensors, without a second model to put them into.

Nothing here imports torch at module level.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiebreak.config import Recipe
from tiebreak.models.bases import resolve_base

if TYPE_CHECKING:
    import torch

    from tiebreak.models.preference import PreferenceModel

INSIDE = "network."
"""Begins the names of a judge's parameters, and not those of its network."""


def frozen_to_save(judge: "PreferenceModel", recipe: Recipe) -> set[str]:
    """The names of a judge's parameters that its folder must hold though they are not trained.

    All of them in full fine-tuning; beside adapters those of embeddings with more rows than the base's, which peft
    saves.
    """
    named = {name for name, parameter in judge.named_parameters() if not parameter.requires_grad}
    if recipe.model.method == "full":
        return named
    from transformers import AutoConfig

    base = AutoConfig.from_pretrained(resolve_base(recipe.model.base), trust_remote_code=False)
    if base.vocab_size == judge.classifier.config.vocab_size:
        return set()
    embedding = judge.classifier.get_input_embeddings()
    inside = next(name for name, module in judge.named_modules() if module is embedding)
    return {name for name in named if name.startswith(f"{inside}.")}


def state_of(judge: "PreferenceModel", weights: Mapping[str, "torch.Tensor"] | None) -> dict[str, Any]:
    """What `save_pretrained` is told of gathered weights: them and the stored buffers, by the network's names."""
    if weights is None:
        return {}
    stored = set(judge.network.state_dict())
    buffers = {name: buffer.detach().cpu() for name, buffer in judge.network.named_buffers() if name in stored}
    return {"state_dict": buffers | {name.removeprefix(INSIDE): weight for name, weight in weights.items()}}
