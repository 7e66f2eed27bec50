"""A packed batch, and how its rows are laid side by side for attention.

A packed batch is one long sequence of n rows. Everything but attention works token by token; attention
must not look across rows. For it the rows are gathered into groups of like length, padded on the right,
and what comes out is scattered back.

Nothing here waits for a GPU: all that depends on the lengths is worked out on the host, copied once, and
has shapes that the host knows.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from tiebreak.cluster.transfer import to_device

MOST_PADDING = 1.25
"""A group's padded size over its tokens, at most: above it a group is split."""
LENGTHS_ROUNDED = {"cuda": 16}
"""A group's length is a multiple of this, by type of device. The GPU's fused kernels want a bias whose rows begin at
multiples of 8 or 16 entries, and copy any other; and there are fewer shapes."""


@dataclass(frozen=True)
class LengthGroup:
    """Rows attended together: the tokens of each, and which entries (n, length) are tokens, not padding."""

    lengths: list[int]
    real: torch.Tensor

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the group is long."""
        return self.lengths[0] < self.length

    @property
    def length(self) -> int:
        """Entries of each row, padding included."""
        return self.real.shape[1]


@dataclass(frozen=True)
class Packing:
    """How a packed batch of T tokens falls into groups, which hold P entries together, padding included.

    Attributes:
        groups: the shortest rows first.
        index: (P,) int64, the token of each entry; padding repeats the last token of its row.
        restore: (T,) int64, the entry of each token.
        padding: (P,) bool.
        pooled_tokens: (n,) int64, the tokens that the last layer returns, if not all: see `last_layer`.
    """

    groups: list[LengthGroup]
    index: torch.Tensor
    restore: torch.Tensor
    padding: torch.Tensor
    pooled_tokens: torch.Tensor | None = None

    @classmethod
    def of(cls, lengths: list[int], device: torch.device, pooled_tokens: torch.Tensor | None = None) -> "Packing":
        """Group rows of the given lengths, whose tokens stand one after another."""
        ends = np.cumsum(lengths)
        starts = ends - lengths
        entries, groups, multiple = [], group_by_length(lengths), LENGTHS_ROUNDED.get(device.type, 1)
        for rows in groups:
            real = np.take(lengths, rows)[:, None]
            offsets = np.arange(-(-real[-1, 0] // multiple) * multiple)
            entries.append((starts[rows][:, None] + np.minimum(offsets, real - 1)).ravel())
        index = np.concatenate(entries)
        restore = np.empty_like(index, shape=ends[-1])
        # The first entry of a token is its own, as padding stands behind the token that it repeats: it is set last.
        restore[index[::-1]] = np.arange(len(index))[::-1]
        index_there, restore_there = to_device(np.concatenate([index, restore]), device).split([len(index), ends[-1]])
        padding = torch.ones(len(index), dtype=torch.bool, device=device).index_fill_(0, restore_there, False)
        real_there = (~padding).split([len(part) for part in entries])
        members = [
            LengthGroup([lengths[row] for row in rows], real.unflatten(0, (len(rows), -1)))
            for rows, real in zip(groups, real_there, strict=True)
        ]
        return cls(members, index_there, restore_there, padding, pooled_tokens)

    @property
    def padded(self) -> bool:
        """Whether any entry is padding."""
        return len(self.padding) > len(self.restore)

    def gather(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(T, ...) in the packed order -> for each group (n, length, ...)."""
        gathered: tuple[torch.Tensor, ...] = _Gather.apply(states, self)  # type: ignore[no-untyped-call]
        return gathered

    def scatter(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """For each group (n, length, ...) -> (T, ...) in the packed order."""
        scattered: torch.Tensor = _Scatter.apply(self, *outputs)  # type: ignore[no-untyped-call]
        return scattered

    def lay_out(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take every entry's token: (T, ...) -> for each group (n, length, ...), no gradients."""
        return self._cut(states.index_select(0, self.index))

    def pick(self, outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Take every token's entry: for each group (n, length, ...) -> (T, ...), no gradients."""
        return torch.cat([output.flatten(0, 1) for output in outputs]).index_select(0, self.restore)

    def _cut(self, entries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = entries.split([group.real.numel() for group in self.groups])
        return tuple(part.unflatten(0, group.real.shape) for part, group in zip(parts, self.groups, strict=True))


def group_by_length(lengths: list[int]) -> list[np.ndarray]:
    """Rows of like length together, the shortest first, with `MOST_PADDING` in each group."""
    order = np.argsort(lengths, kind="stable")
    cuts, members, total = [0], 0, 0
    for place, length in enumerate(np.take(lengths, order).tolist()):
        if members and length * (members + 1) > MOST_PADDING * (total + length):
            cuts.append(place)
            members, total = 0, 0
        members, total = members + 1, total + length
    return [order[first:last] for first, last in pairwise([*cuts, len(lengths)])]


class _Gather(torch.autograd.Function):
    """Padding gets no gradient back: nothing that attends to tokens sees it, and no one reads what it attends to.

    So the way back picks tokens' entries. What autograd would do, adding up all entries of a token, takes a sort or
    atomics on a GPU, whose order changes, and one thread on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, packing: Packing) -> tuple[torch.Tensor, ...]:
        ctx.packing = packing
        return packing.lay_out(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.packing.pick(grads), None


class _Scatter(torch.autograd.Function):
    """The other way; the gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, packing: Packing, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.packing = packing
        return packing.pick(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        packing: Packing = ctx.packing
        entries = grad.index_select(0, packing.index)
        if packing.padded:
            entries.masked_fill_(packing.padding.view(-1, *(1 for _ in grad.shape[1:])), 0)
        return None, *packing._cut(entries)
