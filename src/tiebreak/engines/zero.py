"""DeepSpeed ZeRO: optimizer states (1), gradients (2) and parameters (3) cut over the ranks."""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tiebreak.cluster.ranks import Ranks
from tiebreak.engines.base import Engine, Moments, step_device
from tiebreak.engines.hand_out import hand_out
from tiebreak.models.preference import PreferenceModel

MOMENTS = ("exp_avg", "exp_avg_sq")


def quieten() -> None:
    """Import DeepSpeed without its information messages, and without the compiler that it asks for on a CPU."""
    import deepspeed
    import deepspeed.comm.torch

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # It would compile a shared-memory all-reduce for one node at first use, 50 s and a C++ compiler.
    vars(sys.modules["deepspeed.comm.torch"])["build_shm_op"] = lambda: None


def start(ranks: Ranks) -> None:
    """Let DeepSpeed find the process group and this rank's device."""
    quieten()
    import deepspeed

    if ranks.device.type == "cuda":  # DeepSpeed takes the GPU of this number, which a task may not see
        os.environ["LOCAL_RANK"] = str(ranks.device.index)
    deepspeed.init_distributed(dist_backend="nccl" if ranks.device.type == "cuda" else "gloo", verbose=False)


def cut(model: PreferenceModel, ranks: Ranks, config: dict[str, Any]) -> None:
    """Hand a model out as ZeRO-3 cuts it (tiebreak.engines.hand_out)."""
    from deepspeed.runtime.zero import Init

    hand_out(model, ranks, lambda group: Init(module=group, config_dict_or_path=config, dtype=torch.float32))


class ZeroEngine(Engine):
    """ZeRO-1 and ZeRO-2: every rank has the weights, and the optimizer's part of a flat fp32 copy of each group."""

    def __init__(
        self,
        model: PreferenceModel,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks,
        max_grad_norm: float | None,
        config: dict[str, Any],
    ) -> None:
        super().__init__(model, optimizer, ranks, max_grad_norm)
        import deepspeed

        self.module, self.optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self.name = f"zero{config['zero_optimization']['stage']}"

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Tell DeepSpeed whether this micro-batch ends the accumulation."""
        self.module.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Let DeepSpeed add the gradients of a loss, a scalar, and reduce them as its stage does."""
        self.module.backward(loss)

    def step(self, totals: torch.Tensor) -> tuple[list[float], float]:
        """Sum the ranks' totals, and let DeepSpeed clip and update unless their loss is not finite."""
        sums = self.sum(totals).tolist()
        if not math.isfinite(sums[0]):
            return sums, math.nan
        self.module.step()
        return sums, float(self.module.get_global_grad_norm())

    def get_weight(self, parameter: nn.Parameter) -> torch.Tensor:
        """Gather the full fp32 weight."""
        from deepspeed.utils import safe_get_full_fp32_param

        weight: torch.Tensor = safe_get_full_fp32_param(parameter)
        return weight

    def set_weight(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        """Set the weight, and this rank's part of its fp32 copy."""
        from deepspeed.utils import safe_set_full_fp32_param

        parameter.copy_(value)
        safe_set_full_fp32_param(parameter, value)

    def get_moments(self, parameter: nn.Parameter) -> Moments:
        """Gather the full optimizer state; empty before the first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self._state(parameter)
        if "step" not in state:
            return {}
        self._link(parameter)
        return {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS} | {"step": state["step"].clone()}

    def set_moments(self, parameter: nn.Parameter, values: Moments) -> None:
        """Set this rank's part of the optimizer state."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self._make_room(parameter, values["step"])
        self._link(parameter)
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, values[key].to(parameter.device), key)

    def _flat(self, parameter: nn.Parameter) -> torch.Tensor:
        """This rank's part of the flat fp32 copy of the parameter's group."""
        for members, flat in zip(
            self.optimizer.bit16_groups, self.optimizer.single_partition_of_fp32_groups, strict=True
        ):
            if any(member is parameter for member in members):
                part: torch.Tensor = flat
                return part
        raise KeyError("the parameter is not trained")

    def _state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.optimizer.optimizer.state[self._flat(parameter)]
        return state

    def _make_room(self, parameter: nn.Parameter, step: torch.Tensor) -> None:
        """Optimizer state of a flat part that has made no step yet.

        Each has a `step` of its own: a shared tensor would count once for every part.
        """
        if "step" not in (state := self._state(parameter)):
            flat = self._flat(parameter)
            on = step_device(self.optimizer.optimizer, flat)
            state |= {"step": step.to(on, copy=True)} | {key: torch.zeros_like(flat) for key in MOMENTS}

    def _link(self, parameter: nn.Parameter) -> None:
        """Tell a parameter where its moments lie in the flat part.

        DeepSpeed 0.19.8 does so once, after the first group's first step, when the other groups have none.
        """
        if parameter._hp_mapping is not None:  # type: ignore[attr-defined]
            parameter._hp_mapping.set_optim_state_fragment(self._flat(parameter), self._state(parameter))  # type: ignore[attr-defined]


class Zero3Engine(ZeroEngine):
    """ZeRO-3: parameters too are cut, and may live in the host's memory."""

    sharded = True

    def get_frozen(self, parameter: nn.Parameter) -> torch.Tensor:
        """Gather the full tensor of a parameter that is not trained."""
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def set_weight(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        """Set this rank's part of the weight and of its fp32 copy."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_local_fp32_param

        with GatheredParameters([parameter], modifier_rank=0):
            if self.ranks.first:
                parameter.copy_(value)
        safe_set_local_fp32_param(parameter, self._part(parameter, value))

    def set_moments(self, parameter: nn.Parameter, values: Moments) -> None:
        """Set this rank's part of the optimizer state."""
        from deepspeed.utils import safe_set_local_optimizer_state

        self._make_room(parameter, values["step"])
        for key in MOMENTS:
            safe_set_local_optimizer_state(parameter, self._part(parameter, values[key]), key)

    def _flat(self, parameter: nn.Parameter) -> torch.Tensor:
        group, _, _ = self.optimizer.grad_position[self.optimizer.get_param_id(parameter)]
        flat: torch.Tensor = self.optimizer.fp32_partitioned_groups_flat[group]
        return flat

    def _link(self, parameter: nn.Parameter) -> None:
        """Do nothing: ZeRO-3 finds its states by itself."""

    def _part(self, parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
        """This rank's part of a full tensor, padded with zeros where the ranks do not divide it.

        DeepSpeed's own setters of full tensors read beyond the end there.
        """
        size = int(parameter.ds_tensor.numel())  # type: ignore[attr-defined]
        padded = torch.nn.functional.pad(value.flatten(), (0, size * self.ranks.world - value.numel()))
        return padded[size * self.ranks.rank :][:size]
