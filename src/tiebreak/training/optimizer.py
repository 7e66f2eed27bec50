"""AdamW over named groups, and the learning rate of a step."""

import math

import torch
from torch import nn

from tiebreak.config import TrainSettings
from tiebreak.models.loading import HEADS


def build_optimizer(judge: nn.Module, train: TrainSettings) -> torch.optim.AdamW:
    """AdamW with up to four groups: backbone and head, each with and without weight decay.

    Matrices decay; norms, biases and other vectors do not. Each group keeps its peak rate as `peak`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in judge.named_parameters():
        if parameter.requires_grad:
            head = any(part in HEADS for part in name.split("."))
            groups.setdefault((head, parameter.ndim >= 2), []).append(parameter)
    described = []
    for (head, decays), parameters in sorted(groups.items()):
        peak = train.head_lr if head and train.head_lr is not None else train.lr
        decay = train.weight_decay if decays else 0.0
        described.append({"params": parameters, "lr": peak, "peak": peak, "weight_decay": decay})
    return torch.optim.AdamW(described, betas=train.betas, eps=train.eps)


def lr_factor(step: int, steps: int, warmup: float, schedule: str) -> float:
    """The share of the peak rate at a step (from 0): linear warm-up, then cosine or linear to zero."""
    warm = math.ceil(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
