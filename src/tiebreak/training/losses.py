"""Losses, summed over rows in fp32: the loop divides by the step's row count."""

import torch
from torch.nn import functional as F

from tiebreak.training.batches import Batch


def cross_entropy(logits: torch.Tensor, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
    """Sum of the rows' -log softmax(logits)[label], in nats; logits (n, 3).

    Args:
        smoothing: share of the target spread evenly over the classes (Szegedy et al. 2016, arXiv 1512.00567).
    """
    losses = F.cross_entropy(logits.float(), batch.labels, reduction="none", label_smoothing=smoothing)
    return (losses * batch.weights).sum()
