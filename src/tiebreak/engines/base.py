"""The seam between the training loop and what runs it: one process, DDP, DeepSpeed or FSDP2."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from tiebreak.cluster.ranks import Ranks
from tiebreak.models.preference import PreferenceModel

T = TypeVar("T")
Moments = dict[str, torch.Tensor]
"""A parameter's optimizer state: exp_avg and exp_avg_sq of its full shape, fp32, and the count `step`."""


class Engine:
    """One process without a wrapper; the other engines override what differs.

    Gradients are averaged over ranks, so a loss is scaled by the world size beforehand to be summed.

    Attributes:
        model: the bare model, whose `named_parameters()` name everything saved.
        module: what to call for a forward pass.
        optimizer: its `param_groups` take the learning rates.
        sharded: whether no rank holds all trained weights, so that each writes a share of them.
    """

    name = "single"
    sharded = False

    def __init__(
        self, model: PreferenceModel, optimizer: torch.optim.Optimizer, ranks: Ranks, max_grad_norm: float | None
    ):
        self.model = model
        self.module: Any = model
        self.optimizer: Any = optimizer
        self.ranks = ranks
        self.max_grad_norm = max_grad_norm

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Hold around one forward and backward; `last` ends the accumulation and reduces the gradients."""
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss, a scalar, to those of the step."""
        loss.backward()

    def step(self, totals: torch.Tensor) -> tuple[list[float], float]:
        """Sum the ranks' totals, clip, update, clear: a step's one wait for the device.

        Args:
            totals: (k,) float64 of this rank, the loss first.

        Returns:
            Their sums over all ranks, and the global gradient norm before clipping. Where that or the loss is not
            finite the weights stay as they are.
        """
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        clipped = torch.nn.utils.clip_grad_norm_(self.trainable().values(), limit)
        clipped = clipped.full_tensor() if isinstance(clipped, DTensor) else clipped
        *sums, norm = torch.cat([self.sum(totals), clipped.detach().to(totals)[None]]).tolist()
        if math.isfinite(sums[0]) and math.isfinite(norm):
            self.optimizer.step()
        self.clear()
        return sums, norm

    def clear(self) -> None:
        """Let the next step's gradients begin at nothing."""
        self.optimizer.zero_grad(set_to_none=True)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks (in place)."""
        if self.ranks.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Gather every rank's value, by rank; every rank must call this."""
        if self.ranks.world == 1:
            return [value]
        gathered = [value] * self.ranks.world
        dist.all_gather_object(gathered, value)
        return gathered

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, in the model's order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def gathered_weights(self, frozen: Collection[str]) -> dict[str, torch.Tensor] | None:
        """Return full tensors in the host's memory, of the trained parameters by name; every rank calls this.

        Args:
            frozen: names of parameters that are not trained and wanted too.

        Returns:
            On rank 0; None on the others.
        """
        trained, gathered = self.trainable(), {}
        for name, parameter in self.model.named_parameters():  # one full tensor at a time
            if name in trained or name in frozen:
                weight = self.get_weight(parameter) if name in trained else self.get_frozen(parameter)
                if self.ranks.first:
                    gathered[name] = weight.detach().to("cpu", copy=True)
        return gathered if self.ranks.first else None

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set every trained parameter, in the model's order."""
        with torch.no_grad():
            for name, parameter in self.trainable().items():
                self.set_weight(parameter, weights[name].to(self.ranks.device))

    def load_moments(self, moments: Callable[[str], Moments]) -> None:
        """Set every parameter's optimizer state; an empty one means that it had made no step."""
        for name, parameter in self.trainable().items():
            if values := moments(name):
                self.set_moments(parameter, values)

    # What an engine that cuts parameters or optimizer states overrides. Every rank calls these, for the same
    # parameter at a time.

    def get_weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return the full weight, as the optimizer has it."""
        return parameter.detach()

    def get_frozen(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return the full tensor of a parameter that is not trained."""
        return parameter.detach()

    def set_weight(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        """Set the weight from the full one."""
        parameter.copy_(value)

    def get_moments(self, parameter: nn.Parameter) -> Moments:
        """Return the full optimizer state; empty before the first step."""
        return {key: torch.as_tensor(value) for key, value in self.optimizer.state[parameter].items()}

    def set_moments(self, parameter: nn.Parameter, values: Moments) -> None:
        """Set the optimizer state from the full one."""
        torchs = isinstance(self.optimizer, torch.optim.AdamW)
        paged = getattr(self.optimizer, "is_paged", False)
        state: dict[str, Any] = {}
        for key, value in values.items():
            if paged and key in ("state1", "state2"):  # in memory that goes to the host and comes back, as at the start
                state[key] = self.optimizer.get_state_buffer(parameter, value.dtype).copy_(value)
            elif key != "step":
                state[key] = self._part_of(parameter, value)
            else:
                state[key] = value.to(step_device(self.optimizer, parameter), copy=True) if torchs else int(value)
        self.optimizer.state[parameter] = state

    def _part_of(self, parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
        """What this rank keeps of a full moment."""
        return value.to(parameter.device, copy=True)


def step_device(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> torch.device:
    """Where torch's AdamW keeps a parameter's count of steps: on the host, but beside it when fused."""
    return parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
