"""FSDP2: weights, gradients and optimizer state cut over the ranks, gathered layer by layer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from tiebreak.cluster.ranks import Ranks
from tiebreak.config import FsdpSettings
from tiebreak.engines.base import Engine, Moments
from tiebreak.engines.hand_out import groups_of, hand_out
from tiebreak.models.preference import PreferenceModel


def shard(model: PreferenceModel, ranks: Ranks, settings: FsdpSettings, handed_out: bool) -> None:
    """Cut a model's parameters over all ranks in place: the embedding, each layer, and the rest.

    Must come before the optimizer is made, since the parameters become DTensors. A decoder that runs under
    bf16 autocast gathers embedding and layers in bf16, half the traffic; gradients are reduced in fp32, and
    the head stays fp32. Hidden states keep their dtype, so the mathematics is that of the other engines.
    Encoders gather in fp32: a LayerNorm wants its weights in its input's dtype.

    Args:
        model: changed in place.
        ranks: this process among the job's.
        settings: the recipe's.
        handed_out: whether rank 0 alone has the weights; else they are on every rank's device.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    common: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": settings.reshard_after_forward}
    if settings.cpu_offload:
        common["offload_policy"] = CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda")
    policy: dict[str, Any] = {}
    if model.autocast is not None and model.is_decoder:
        policy = {"param_dtype": model.autocast, "reduce_dtype": torch.float32, "cast_forward_inputs": False}
    embedding = model.classifier.get_input_embeddings()
    dtype = embedding.weight.dtype if policy else None

    def cut(group: nn.Module) -> None:
        if group is embedding:
            fully_shard(group, mp_policy=MixedPrecisionPolicy(**policy, output_dtype=dtype), **common)
        elif group is model:
            fully_shard(group, **common)
        else:
            fully_shard(group, mp_policy=MixedPrecisionPolicy(**policy), **common)

    if handed_out:
        hand_out(model, ranks, cut)
        return
    for group in groups_of(model):
        cut(group)


def drop_gathered(model: PreferenceModel) -> None:
    """Free weights that are whole after a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class FSDPEngine(Engine):
    """Every rank holds its shard of weights, gradients and optimizer state; `shard` has cut the model."""

    name = "fsdp"
    sharded = True

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Reduce the gradients in the last micro-batch alone."""
        self.module.set_requires_gradient_sync(last)
        yield

    def get_weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """Gather the full weight."""
        return _full(parameter.detach())

    get_frozen = get_weight

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set every trained parameter, in the model's order."""
        drop_gathered(self.model)  # or the next forward pass would take those of before
        super().load_weights(weights)

    def set_weight(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        """Set this rank's shard of the weight."""
        parameter.copy_(_like(value, parameter))

    def get_moments(self, parameter: nn.Parameter) -> Moments:
        """Gather the full optimizer state."""
        return {key: _full(value) for key, value in super().get_moments(parameter).items()}

    def _part_of(self, parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
        return _like(value, parameter)


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A full tensor, cut as the parameter is, on the device of the parameter's own part: the host's when offloaded."""
    assert isinstance(parameter, DTensor)
    mesh, placements = parameter.device_mesh, parameter.placements
    whole = DTensor.from_local(tensor.to(mesh.device_type), mesh, [Replicate()] * mesh.ndim, run_check=False)
    part = whole.redistribute(placements=placements).to_local().to(parameter.to_local().device, copy=True)
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())
