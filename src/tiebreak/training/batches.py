"""Rows of the token table -> the tensors of a forward pass and its loss."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiebreak.cluster.transfer import to_device
from tiebreak.data.augment import Augmentation
from tiebreak.data.tokens import Tokens
from tiebreak.labels import NO_LABEL, SWAPPED_CLASS

if TYPE_CHECKING:
    from tiebreak.training.frozen_cache import FrozenStates


@dataclass(frozen=True)
class Batch:
    """`tokens` (T,) int64, `lengths` of the n rows' texts, `labels` (n,) int64, and their weight in the loss (n,).

    A row without a label has -1. `features` (n, k) are the rows' features, `teachers` (t, n, 3) the teachers' logits,
    in the order in which each row is seen. `states` are those of the frozen bottom, if they are kept.
    """

    tokens: torch.Tensor
    lengths: list[int]
    labels: torch.Tensor
    weights: torch.Tensor
    features: torch.Tensor | None = None
    teachers: torch.Tensor | None = None
    states: torch.Tensor | None = None

    @property
    def inputs(self) -> tuple[torch.Tensor, list[int], torch.Tensor | None, torch.Tensor | None]:
        """What the model takes."""
        return self.tokens, self.lengths, self.features, self.states


def make_batch(
    tokens: Tokens,
    rows: np.ndarray,
    swapped: np.ndarray,
    device: torch.device,
    targets: np.ndarray | None = None,
    labelled: bool = True,
    augmentation: Augmentation | None = None,
    epoch: int = 0,
    frozen: "FrozenStates | None" = None,
) -> Batch:
    """Collect the rows (n,) in the given orders (n,); a swapped row gets the swapped label.

    With no rows at all, the table's shortest row stands in with weight zero, so that a rank without
    work takes part in every collective.

    Args:
        tokens: the token table.
        rows: n indices into it.
        swapped: (n,), whether a row is seen as B, A.
        device: of the batch.
        targets: (t, 2, rows of the table, 3): each teacher's logits of each row in the orders A, B and B, A.
        labelled: False leaves the labels out.
        augmentation: changes each row as it is seen in this epoch.
        epoch: from 0.
        frozen: the kept states of the table's rows.
    """
    weights = torch.ones(len(rows))
    if len(rows) == 0:
        rows, swapped = np.array([tokens.lengths.argmin()]), np.array([False])
        weights = torch.zeros(1)
    texts, seen = [], rows.copy()
    for i, (row, swap) in enumerate(zip(rows.tolist(), swapped.tolist(), strict=True)):
        if augmentation is None:
            texts += tokens.input_ids(row, swap)
        else:
            seen[i], made = augmentation.input_ids(row, swap, epoch)
            texts += made
    lengths = [len(text) for text in texts]
    states = None if frozen is None else frozen.of(rows, swapped, lengths)
    features = tokens.features_of(seen, swapped)
    known = tokens.labels[rows].astype(np.int64)
    labels = np.where(swapped, SWAPPED_CLASS[known], known)
    labels[(known == NO_LABEL) | (not labelled)] = NO_LABEL
    seen_targets = None if targets is None else targets[:, swapped.astype(np.int64), rows]
    return Batch(
        to_device(np.concatenate(texts).astype(np.int64), device),
        lengths,
        to_device(labels, device),
        to_device(weights, device),
        None if features is None else to_device(features, device),
        None if seen_targets is None else to_device(seen_targets, device),
        None if states is None else to_device(states, device),
    )
