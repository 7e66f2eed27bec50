"""Rows of the token table -> the tensors of a forward pass."""

from dataclasses import dataclass

import numpy as np
import torch

from tiebreak.data.plan import SWAPPED_CLASS
from tiebreak.data.tokens import Tokens


@dataclass(frozen=True)
class Batch:
    """`tokens` (T,) int64, `lengths` of the n rows' texts, `labels` (n,) int64, and their weight in the loss (n,)."""

    tokens: torch.Tensor
    lengths: list[int]
    labels: torch.Tensor
    weights: torch.Tensor


def make_batch(tokens: Tokens, rows: np.ndarray, swapped: np.ndarray, device: torch.device) -> Batch:
    """The rows (n,) in the given orders (n,); a swapped row gets the swapped label.

    With no rows at all, the table's shortest row stands in with weight zero, so that a rank without
    work takes part in every collective.
    """
    weights = torch.ones(len(rows))
    if len(rows) == 0:
        rows, swapped = np.array([tokens.lengths.argmin()]), np.array([False])
        weights = torch.zeros(1)
    texts = [text for row, swap in zip(rows, swapped, strict=True) for text in tokens.texts(int(row), bool(swap))]
    labels = np.maximum(tokens.labels[rows], 0).astype(np.int64)
    labels = np.where(swapped, SWAPPED_CLASS[labels], labels)
    return Batch(
        torch.from_numpy(np.concatenate(texts)).to(device, torch.int64),
        [len(text) for text in texts],
        torch.from_numpy(labels).to(device),
        weights.to(device),
    )
