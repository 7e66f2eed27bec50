"""Losses, summed over rows in fp32: the loop divides by the step's row count."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from tiebreak.cluster.transfer import to_device
from tiebreak.config import DistillSettings, Recipe
from tiebreak.labels import NO_LABEL
from tiebreak.training.batches import Batch

if TYPE_CHECKING:
    from tiebreak.training.loop import Loss
    from tiebreak.training.teachers import Teachers


def choose_loss(recipe: Recipe, teachers: "Teachers | None") -> "Loss":
    """Choose the loss of a batch: cross-entropy, or with teachers distillation."""
    smoothing = recipe.train.label_smoothing
    if teachers is None:
        return partial(cross_entropy, smoothing=smoothing)
    weights = torch.tensor(teachers.weights, dtype=torch.float32)
    return partial(distillation, settings=recipe.distill, teacher_weights=weights, smoothing=smoothing)


def cross_entropy(logits: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    """Sum the rows' -log softmax(logits)[label], in nats; logits (n, 3). A row without a label adds nothing.

    Args:
        logits: (n, 3).
        batch: with labels and weights (n,).
        smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, arXiv 1512.00567).
    """
    return (label_losses(logits.float(), batch.labels, smoothing) * batch.weights).sum()


def distillation(
    logits: torch.Tensor,
    batch: Batch,
    settings: DistillSettings,
    teacher_weights: torch.Tensor,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum the rows' distillation losses (`distillation_losses`) on logits (n, 3) of a batch with teachers."""
    assert batch.teachers is not None
    weights = to_device(teacher_weights, logits.device)
    losses = distillation_losses(logits.float(), batch.teachers, batch.labels, settings, weights, smoothing)
    return (losses * batch.weights).sum()


def distillation_losses(
    logits: torch.Tensor,
    teachers: torch.Tensor,
    labels: torch.Tensor,
    settings: DistillSettings,
    teacher_weights: torch.Tensor,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Return each row's (ce CE + sum_t v_t (kl T^2 KL_t + cosine (1 - cos_t))) / (ce + sum_t v_t (kl + cosine)).

    KL_t is that of softmax(teacher / T) from softmax(student / T), T^2 as in Hinton et al. 2015 (arXiv 1503.02531);
    cos_t is the cosine of the two rows of three logits. A row without a label has no CE; the divisor stays, so a
    teacher's pull is the same on every row.

    Args:
        logits: the student's (n, 3).
        teachers: (t, n, 3), in the order in which the student saw each row.
        labels: (n,), -1 where there is none.
        settings: ce, kl, cosine and T.
        teacher_weights: v (t,).
        smoothing: as `cross_entropy`.

    Returns:
        (n,), in the dtype of `logits`.
    """
    total = settings.ce * label_losses(logits, labels, smoothing)
    if settings.kl:
        soft = soft_losses(logits, teachers, settings.temperature, settings.soft_loss)
        total = total + settings.kl * settings.temperature**2 * (teacher_weights[:, None] * soft).sum(0)
    if settings.cosine:
        cosines = F.cosine_similarity(logits[None], teachers, dim=-1)
        total = total + settings.cosine * (teacher_weights[:, None] * (1 - cosines)).sum(0)
    return total / (settings.ce + teacher_weights.sum() * (settings.kl + settings.cosine))


def label_losses(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return the rows' cross-entropy (n,), zero where there is no label."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing, ignore_index=NO_LABEL)


def soft_losses(logits: torch.Tensor, teachers: torch.Tensor, temperature: float, kind: str) -> torch.Tensor:
    """Return each teacher's KL divergence or soft-label cross-entropy (t, n) at a temperature; gradients are equal."""
    log_student = F.log_softmax(logits / temperature, dim=-1)[None]
    log_teachers = F.log_softmax(teachers / temperature, dim=-1)
    losses = -(log_teachers.exp() * log_student).sum(-1)
    if kind == "kl":
        losses = losses + (log_teachers.exp() * log_teachers).sum(-1)
    return losses
