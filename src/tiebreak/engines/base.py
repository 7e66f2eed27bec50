"""The seam between the training loop and what runs it: one process, DDP or DeepSpeed."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tiebreak.cluster.ranks import Ranks
from tiebreak.models.judge import Judge

OptimizerState = dict[str, dict[str, torch.Tensor]]
"""Per parameter name its optimizer tensors: exp_avg, exp_avg_sq (full shapes, fp32) and step."""


class Engine:
    """One process without a wrapper; the other engines override what differs.

    Gradients are averaged over ranks, so a loss is scaled by the world size beforehand to be summed.

    Attributes:
        judge: the bare model, whose `named_parameters()` name everything saved.
        module: what to call for a forward pass.
        optimizer: its `param_groups` take the learning rates.
    """

    name = "single"

    def __init__(self, judge: Judge, optimizer: torch.optim.Optimizer, ranks: Ranks, max_grad_norm: float | None):
        self.judge = judge
        self.module: Any = judge
        self.optimizer: Any = optimizer
        self.ranks = ranks
        self.max_grad_norm = max_grad_norm

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around one forward and backward; `last` ends the accumulation and reduces the gradients."""
        yield

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> float:
        """Clip, update, clear; returns the global gradient norm before clipping.

        With a norm that is not finite the weights stay as they are.
        """
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        found = torch.nn.utils.clip_grad_norm_(self.trainable().values(), limit)
        norm = float(found.full_tensor() if isinstance(found, DTensor) else found)
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks (in place)."""
        if self.ranks.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: object) -> list:
        """Every rank's value, by rank."""
        if self.ranks.world == 1:
            return [value]
        gathered: list = [None] * self.ranks.world
        dist.all_gather_object(gathered, value)
        return gathered

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name, in the model's order."""
        return {name: p for name, p in self.judge.named_parameters() if p.requires_grad}

    def whole_judge(self, rebuild: Callable[[], Judge]) -> Judge:
        """The judge to save on rank 0, its parameters full tensors; every rank must call this.

        Args:
            rebuild: makes an untrained twin, for engines whose own judge holds a part only.
        """
        return self.judge

    def weights(self) -> dict[str, torch.Tensor]:
        """Full trained weights by name; every rank must call this."""
        return {name: p.detach() for name, p in self.trainable().items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trainable().items():
                parameter.copy_(weights[name])

    def optimizer_state(self) -> OptimizerState:
        """Full optimizer state by parameter name; every rank must call this."""
        return {name: dict(self.optimizer.state[p]) for name, p in self.trainable().items() if self.optimizer.state[p]}

    def load_optimizer_state(self, state: OptimizerState) -> None:
        for name, parameter in self.trainable().items():
            if name in state:
                self.optimizer.state[parameter] = {
                    key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                    for key, value in state[name].items()
                }
