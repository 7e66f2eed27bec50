"""Losses, summed over rows in fp32: the loop divides by the step's row count."""

import torch
from torch.nn import functional as F

from tiebreak.training.batches import Batch


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum of the rows' -log softmax(logits)[label], in nats; logits (n, 3)."""
    losses = F.cross_entropy(logits.float(), batch.labels, reduction="none")
    return (losses * batch.weights).sum()
