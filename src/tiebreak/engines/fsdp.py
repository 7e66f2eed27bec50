"""FSDP2: weights, gradients and optimizer state cut over the ranks, gathered layer by layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tiebreak.cluster.ranks import Ranks
from tiebreak.engines.base import Engine, OptimizerState
from tiebreak.models.judge import Judge


def shard(judge: Judge, ranks: Ranks) -> None:
    """Cut a judge's parameters over all ranks in place: one group for each layer, one for the rest.

    Must come before the optimizer is made, since the parameters become DTensors.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for layer in layers(judge):
        fully_shard(layer, mesh=mesh)
    fully_shard(judge, mesh=mesh)


def layers(judge: Judge) -> list[nn.Module]:
    """The backbone's transformer layers."""
    backbone = getattr(judge.classifier, judge.classifier.base_model_prefix)
    return list(backbone.encoder.layer if hasattr(backbone, "encoder") else backbone.layers)


class FSDPEngine(Engine):
    name = "fsdp"

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self.module.set_requires_gradient_sync(last)
        yield

    def whole_judge(self, rebuild: Callable[[], Judge]) -> Judge:
        weights = self.weights()
        if not self.ranks.first:
            return self.judge
        twin = rebuild()
        with torch.no_grad():
            for name, parameter in twin.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        return twin

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: _full(weight) for name, weight in super().weights().items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        trainable = self.trainable()
        super().load_weights({name: _like(value, trainable[name]) for name, value in weights.items()})

    def optimizer_state(self) -> OptimizerState:
        whole = super().optimizer_state()
        return {name: {key: _full(value) for key, value in state.items()} for name, state in whole.items()}

    def load_optimizer_state(self, state: OptimizerState) -> None:
        trainable = self.trainable()
        for name, values in state.items():
            parameter = trainable[name]
            self.optimizer.state[parameter] = {
                key: value.clone() if key == "step" else _like(value, parameter) for key, value in values.items()
            }


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A full tensor, cut as the parameter is."""
    if not isinstance(parameter, DTensor):
        return tensor.to(parameter.device, copy=True)
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
