"""The optimizer over named groups, and the learning rate of a step."""

import math
import re
from typing import Any

import torch
from torch import nn

from tiebreak.config import TrainSettings
from tiebreak.models.heads import is_head

LAYER = re.compile(r"\.layers?\.(\d+)\.")


def build_optimizer(model: nn.Module, train: TrainSettings) -> torch.optim.Optimizer:
    """Make AdamW with a group for each peak rate (kept as `peak`), with and without weight decay.

    Matrices decay; norms, biases and other vectors do not. The head may have a rate of its own, and with
    `layer_decay` each layer's rate is that share of the one above (Howard and Ruder 2018, arXiv 1801.06146).
    `backbone` and `head` of a group say whose parameters it holds.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    depth = 1 + max((layer_of(name) for name, _ in model.named_parameters()), default=0)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    owners: dict[tuple[float, bool], set[str]] = {}
    for name, parameter in named:
        head = is_head(name)
        if head:
            peak = train.head_lr if train.head_lr is not None else train.lr
        else:
            peak = train.lr * train.layer_decay ** (depth - 1 - layer_of(name))
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 may have cut it already
        key = (peak, len(shape) >= 2)
        groups.setdefault(key, []).append(parameter)
        owners.setdefault(key, set()).add("head" if head else "backbone")
    described = [
        {
            "params": members,
            "lr": peak,
            "peak": peak,
            "weight_decay": train.weight_decay if decays else 0.0,
            "backbone": "backbone" in owners[peak, decays],
            "head": "head" in owners[peak, decays],
        }
        for (peak, decays), members in sorted(groups.items(), key=lambda group: group[0])
    ]
    common: dict[str, Any] = {"betas": train.betas, "eps": train.eps}
    if train.optimizer in ("adamw", "adamw-fused"):
        return torch.optim.AdamW(described, fused=train.optimizer == "adamw-fused" or None, **common)
    import bitsandbytes

    kind = bitsandbytes.optim.PagedAdamW8bit if train.optimizer.startswith("paged") else bitsandbytes.optim.AdamW8bit
    return kind(described, **common)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> dict[str, float]:
    """Set every group to this share of its peak rate.

    Returns:
        What the log says of them, both rates of real groups: `lr` of the backbone (under `layer_decay` of its top
        layer) or, if that is frozen, of the head; `head_lr` where the head's differs.
    """
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
        for owner in ("backbone", "head"):
            if group[owner]:
                rates[owner] = max(rates.get(owner, 0.0), group["lr"])
    lr = rates.get("backbone", rates.get("head", 0.0))
    head_lr = rates.get("head", lr)
    return {"lr": lr} if head_lr == lr else {"lr": lr, "head_lr": head_lr}


def layer_of(name: str) -> int:
    """Return the layer that a parameter belongs to, from 0; -1 for the embeddings and what else is below."""
    match = LAYER.search(name)
    return int(match[1]) if match else -1


def lr_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """Return the share of the peak rate at step (from 0): linear warm-up, then cosine or linear decay, or constant."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
