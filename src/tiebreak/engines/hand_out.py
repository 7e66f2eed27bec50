"""Give every rank its part of a model whose weights rank 0 alone has read, so that no device holds the whole.

Rank 0 reads the weights into its host's memory, once for the job; the other ranks have the same modules on the meta
device. One group of modules at a time is made whole on every rank's device, from rank 0's, and cut there: a device
holds its parts of the groups before and one whole group, the host what is not handed out yet.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from tiebreak.cluster.ranks import Ranks, agree
from tiebreak.config import Recipe
from tiebreak.engines.base import Engine
from tiebreak.errors import UserError
from tiebreak.models.loading import build_model
from tiebreak.models.packing_proof import prove_packed
from tiebreak.models.preference import PreferenceModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_for_engine(
    recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", ranks: Ranks, precision: torch.dtype, handed_out: bool
) -> PreferenceModel:
    """Build the model to train as `make_engine` wants it; every rank calls this.

    Args:
        recipe: of the training.
        tokenizer: of the base.
        ranks: this process among the job's.
        precision: of a frozen base.
        handed_out: whether rank 0 alone reads the weights (engines.choose.hands_out).

    Raises:
        UserError: as `build_model`, on every rank.
    """
    if not handed_out:
        return build_model(recipe, tokenizer, ranks.device, precision)
    told, model = None, None
    try:
        model = build_model(recipe, tokenizer, ranks.device, precision, "host" if ranks.first else "none")
    except UserError as error:
        told = error
    if (of_first := agree(str(told) if told else None)) is not None:
        raise UserError(of_first)
    if told is not None:
        raise told
    assert model is not None
    described = describe(model)
    if agree(described) != described:
        raise RuntimeError(f"rank {ranks.rank} made another model than rank 0: do all nodes have the same versions?")
    return model


def describe(model: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of each parameter and buffer."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors]


def groups_of(model: PreferenceModel) -> list[nn.Module]:
    """What is made whole and cut at a time: the embedding, each layer, and the model for the rest of it."""
    return [model.classifier.get_input_embeddings(), *model.layers, model]


def hand_out(model: PreferenceModel, ranks: Ranks, cut: Callable[[nn.Module], None]) -> None:
    """Fill a model group by group, each of which is cut before the next is filled.

    Args:
        model: from `build_for_engine`, changed in place: its parameters are others afterwards.
        ranks: this process among the job's.
        cut: called with each group once it is whole on this rank's device.
    """
    filled: set[nn.Module] = set()
    for group in groups_of(model):
        for module in group.modules():
            if module not in filled:
                fill(module, ranks)
        filled |= set(group.modules())
        cut(group)


@torch.no_grad()
def fill(module: nn.Module, ranks: Ranks) -> None:
    """Put rank 0's values into a module's own parameters and buffers, on this rank's device."""
    for name, parameter in module.named_parameters(recurse=False):
        whole = _of_first(parameter.detach(), ranks)
        setattr(module, name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = _of_first(buffer, ranks)


def _of_first(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Rank 0's tensor, on this rank's device."""
    if ranks.first:
        whole = tensor.to(ranks.device).contiguous()
    else:
        whole = torch.empty(tensor.shape, dtype=tensor.dtype, device=ranks.device)
    dist.broadcast(whole.view(-1).view(torch.uint8), 0)  # gloo does not send every dtype
    return whole


def prove(engine: Engine) -> None:
    """Prove packed rows (tiebreak.models.packing_proof) on a model that is cut; every rank calls this.

    Engines gather weights where their module is called, so its call has to give what the proof compares.
    """
    model: Any = engine.model
    model.forward = model.hidden_states
    model.hidden_states = lambda *inputs: engine.module(*inputs)
    try:
        prove_packed(model, engine.ranks.device)
    finally:
        del model.forward, model.hidden_states
