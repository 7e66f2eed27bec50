"""DeepSpeed's JSON file, checked against the recipe and made complete from it."""

import importlib.util
import reprlib
from pathlib import Path
from typing import Any

from tiebreak.config import TrainSettings
from tiebreak.errors import UserError
from tiebreak.files import absent
from tiebreak.structured import read_json

STAGES = (1, 2, 3)
OFFLOADS = ("offload_optimizer", "offload_param")
UNSET = (None, "auto")
SECTIONS = ("zero_optimization", "fp16", "bf16", "tensorboard", "wandb", "comet")
MONITORS = {"tensorboard": "tensorboard", "wandb": "wandb", "comet": "comet_ml"}
"""DeepSpeed's monitors that need a package; it imports them while it starts, without a question."""


def read_ds_config(path: Path, train: TrainSettings, world: int) -> dict[str, Any]:
    """Read a DeepSpeed JSON file and complete it from the recipe.

    The recipe owns batch size, clipping, optimizer, schedule and precision; the file owns everything
    else. A field that contradicts the recipe is an error; none is overridden silently.

    Raises:
        UserError: naming every such field with both values.
    """
    if not path.is_file():
        raise UserError(f"{absent(path)}; shipped are ds_configs/zero1.json, zero2, zero3 and zero3_offload")
    config = read_json(path)
    _check_form(path, config)
    zero, problems = config.get("zero_optimization") or {}, []
    if zero.get("stage") not in STAGES:
        problems.append(f"zero_optimization.stage is {zero.get('stage')}; supported are 1, 2 and 3")
    for name in OFFLOADS:
        device = (zero.get(name) or {}).get("device", "none")
        if device not in ("none", "cpu"):
            problems.append(f"zero_optimization.{name}.device is {device!r}; supported are 'none' and 'cpu'")
    problems += [f"zero_optimization.{name} is {value}, below 0" for name, value in zero.items() if _below_0(value)]
    if offloads(config) and config.get("zero_force_ds_cpu_optimizer", True):
        problems.append(
            "zero_force_ds_cpu_optimizer is true (DeepSpeed's default when offloading); the recipe's AdamW is torch's: "
            "set it to false, and zero_allow_untested_optimizer to true"
        )
    for name in set_aside(config):
        del config[name]
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
    for name, package in MONITORS.items():
        if (config.get(name) or {}).get("enabled") is True and importlib.util.find_spec(package) is None:
            problems.append(
                f"{name}.enabled is true, but {package} is not installed: remove it (log.jsonl has every step, and "
                "log.to sends them to Weights & Biases, TensorBoard or MLflow)"
            )
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


def _below_0(value: object) -> bool:
    return isinstance(value, (int, float)) and value < 0


def set_aside(config: dict[str, Any]) -> list[str]:
    """Names of the sections whose every value is "auto", as in the files of Hugging Face: they ask for the recipe's.

    An optimizer must also be an Adam; the recipe has no other.
    """
    names = []
    for name, types in {"optimizer": ("adam", "adamw"), "scheduler": None}.items():
        section = config.get(name)
        if not isinstance(section, dict) or not section.keys() <= {"type", "params"}:
            continue
        params = section.get("params")
        auto = isinstance(params, dict) and params and all(value == "auto" for value in params.values())
        if auto and (types is None or str(section.get("type", "adamw")).lower() in (*types, "auto")):
            names.append(name)
    return names


def _check_form(path: Path, config: dict[str, Any]) -> None:
    """Refuse a number or a word in the place of a section."""
    zero = config.get("zero_optimization")
    places = {name: config.get(name) for name in SECTIONS}
    if isinstance(zero, dict):
        places |= {f"zero_optimization.{name}": zero.get(name) for name in OFFLOADS}
    faults = [
        f"  {name} is {reprlib.repr(value)}, not a section {{...}}"
        for name, value in places.items()
        if value is not None and not isinstance(value, dict)
    ]
    if faults:
        raise UserError("\n".join([f"{path} is not in DeepSpeed's form:", *faults]))


def offloads(config: dict[str, Any]) -> bool:
    """Whether optimizer states or parameters live in the host's memory."""
    zero = config.get("zero_optimization") or {}
    return any(
        (zero.get(name) or {}).get("device", "none") != "none" for name in ("offload_optimizer", "offload_param")
    )
