"""DeepSpeed ZeRO-1 and ZeRO-2: optimizer states, and gradients, cut over the ranks."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tiebreak.config import TrainSettings
from tiebreak.engines.base import Engine, OptimizerState
from tiebreak.errors import UserError

STAGES = (1, 2)
UNSET = (None, "auto")
MOMENTS = ("exp_avg", "exp_avg_sq")


def read_ds_config(path: Path, train: TrainSettings, world: int) -> dict:
    """A DeepSpeed JSON file made complete from the recipe.

    The recipe owns batch size, clipping, optimizer, schedule and precision; the file owns everything
    else. A field that says otherwise than the recipe is an error, never overridden in silence.

    Raises:
        UserError: naming every such field with both values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; shipped are ds_configs/zero1.json and ds_configs/zero2.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    zero = config.get("zero_optimization") or {}
    problems = []
    if zero.get("stage") not in STAGES:
        problems.append(f"zero_optimization.stage is {zero.get('stage')}; served are {STAGES[0]} and {STAGES[1]}")
    for name in ("offload_optimizer", "offload_param"):
        if (zero.get(name) or {}).get("device", "none") != "none":
            problems.append(f"zero_optimization.{name} is {zero[name]['device']!r}; offloading is not served")
    for name in ("optimizer", "scheduler"):
        if config.get(name) not in UNSET:
            problems.append(f"{name} is {config[name]}; the recipe has AdamW and train.schedule: remove it")
    for name in ("fp16", "bf16"):
        if (config.get(name) or {}).get("enabled") not in (*UNSET, False):
            problems.append(f"{name}.enabled is true; train.precision ({train.precision}) decides: remove it")
    ours = {
        "train_batch_size": (train.batch_size, "train.batch_size"),
        "gradient_clipping": (train.max_grad_norm or 0.0, "train.max_grad_norm"),
    }
    for name, (value, field) in ours.items():
        if config.get(name) not in (*UNSET, value):
            problems.append(f"{name} is {config[name]}, {field} is {value}: remove one of them")
    for name in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        if config.get(name) not in UNSET:
            problems.append(f"{name} is {config[name]}; micro-batches follow train.tokens_per_micro_batch: remove it")
    if problems:
        raise UserError(f"{path} contradicts the recipe:\n" + "\n".join(f"  {problem}" for problem in problems))
    config = {name: value for name, value in config.items() if value not in UNSET}
    # To DeepSpeed every step is one row on each rank: the loop scales the loss by the real counts.
    return config | {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.max_grad_norm or 0.0,
        "steps_per_print": 2**31,
    }


def quieten() -> None:
    """Before DeepSpeed is imported: only what the user can act on is said, and no compiler needed on a CPU."""
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\.\w+. is deprecated", category=FutureWarning)
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    import deepspeed.comm.torch

    deepspeed.utils.logger.setLevel(logging.WARNING)
    # It would compile a shared-memory all-reduce for one node at first use, 50 s and a C++ compiler.
    vars(sys.modules["deepspeed.comm.torch"])["build_shm_op"] = lambda: None


class ZeroEngine(Engine):
    name = "deepspeed"

    def __init__(self, judge, optimizer, ranks, max_grad_norm, config: dict) -> None:
        super().__init__(judge, optimizer, ranks, max_grad_norm)
        quieten()
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if ranks.device.type == "cuda" else "gloo", verbose=False)
        self.module, self.optimizer, _, _ = deepspeed.initialize(model=judge, optimizer=optimizer, config=config)
        self.name = f"zero{config['zero_optimization']['stage']}"

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self.module.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        self.module.backward(loss)

    def step(self) -> float:
        self.module.step()
        return float(self.module.get_global_grad_norm())

    def weights(self) -> dict[str, torch.Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(p) for name, p in self.trainable().items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        super().load_weights(weights)
        for name, parameter in self.trainable().items():
            safe_set_full_fp32_param(parameter, weights[name])

    def optimizer_state(self) -> OptimizerState:
        from deepspeed.utils import safe_get_full_optimizer_state

        step = self._adam_step()
        if step is None:
            return {}
        self._link_states()
        return {
            name: {key: safe_get_full_optimizer_state(p, key) for key in MOMENTS} | {"step": step.clone()}
            for name, p in self.trainable().items()
        }

    def load_optimizer_state(self, state: OptimizerState) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        if not state:
            return
        step = next(iter(state.values()))["step"]
        for flat in self.optimizer.single_partition_of_fp32_groups:
            # A step tensor of its own for each group: a shared one would count every group's step.
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self.optimizer.optimizer.state[flat] = {"step": step.clone()} | moments
        self._link_states()
        for name, parameter in self.trainable().items():
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, state[name][key].to(parameter.device), key)

    def _link_states(self) -> None:
        """Tell each parameter where its moments lie in the flat partitions.

        DeepSpeed 0.19.8 does so once, after the first group's first step, when the other groups have none.
        """
        groups = zip(self.optimizer.bit16_groups, self.optimizer.single_partition_of_fp32_groups, strict=True)
        for parameters, flat in groups:
            for parameter in parameters:
                if parameter._hp_mapping is not None:
                    parameter._hp_mapping.set_optim_state_fragment(flat, self.optimizer.optimizer.state[flat])

    def _adam_step(self) -> torch.Tensor | None:
        steps = [state["step"] for state in self.optimizer.optimizer.state.values() if "step" in state]
        return steps[0] if steps else None
