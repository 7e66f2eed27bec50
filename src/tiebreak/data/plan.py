"""The plan of steps: which rows make a step, and how they are laid on ranks and micro-batches.

A step's rows depend on (seed, epoch, step) alone. Their layout depends on the world size and the
token budget, and changes speed, never the result.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

LAID_AT_ONCE = 512
"""Steps: as fast a step as more of them together, and the first one is not kept waiting for thousands."""


@dataclass(frozen=True)
class Step:
    """One optimizer step: rows (n,), whether each is seen swapped (n,), per rank its micro-batches, and the epoch.

    `micro_batches[rank]` lists arrays of positions into `rows`. Every rank has equally many, so that
    collectives line up; an array may be empty.
    """

    rows: np.ndarray
    swapped: np.ndarray
    micro_batches: list[list[np.ndarray]]
    epoch: int

    def cut(self, pieces: int) -> "Step":
        """The same rows in more micro-batches: each in so many pieces, of a row at least. The result is the same."""
        micro_batches = [
            [part for members in own for part in np.array_split(members, max(1, min(pieces, len(members))))]
            for own in self.micro_batches
        ]
        return replace(self, micro_batches=micro_batches)


class Plan:
    """All steps of a run.

    Args:
        lengths: tokens of each row (n,).
        batch_size: examples per step over all ranks. tokens: most tokens of a micro-batch.
        swap: `never`, `random` (a coin per row and epoch) or `both` (two examples per row).
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        epochs: float,
        seed: int,
        swap: str = "never",
        max_steps: int | None = None,
        world: int = 1,
        tokens: int = 8_192,
    ) -> None:
        self.lengths, self.batch_size, self.seed, self.swap = lengths, batch_size, seed, swap
        self.world, self.tokens = world, tokens
        self.examples = len(lengths) * (2 if swap == "both" else 1)
        self.steps_per_epoch = math.ceil(self.examples / batch_size)
        self.steps = math.ceil(epochs * self.steps_per_epoch)
        if max_steps is not None:
            self.steps = min(self.steps, max_steps)
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._layout: tuple[int, int, np.ndarray, np.ndarray] | None = None

    def step(self, index: int) -> Step:
        """The step of this index, counted from 0 over all epochs."""
        epoch, within = divmod(index, self.steps_per_epoch)
        rows, swapped = self._examples(epoch)
        start = within * self.batch_size
        end = min(start + self.batch_size, self.examples)
        first = within - within % LAID_AT_ONCE
        if self._layout is None or self._layout[:2] != (epoch, first):
            bins, micro = self._lay(rows[first * self.batch_size : (first + LAID_AT_ONCE) * self.batch_size])
            self._layout = (epoch, first, bins, micro)
        _, _, bins, micro = self._layout
        mine = bins[within - first][: end - start]
        order = np.argsort(mine, kind="stable")
        cuts = np.searchsorted(mine[order], np.arange(1, self.world * int(micro[within - first])))
        by_bin = np.split(order, cuts)
        micro_batches = [by_bin[rank :: self.world] for rank in range(self.world)]
        return Step(rows[start:end], swapped[start:end], micro_batches, epoch)

    def _examples(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's examples in order: rows and whether they are swapped."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(self.examples)
            if self.swap == "both":
                rows, swapped = order // 2, order % 2 == 1
            elif self.swap == "random":
                rows, swapped = order, (rng.random(self.examples) < 0.5)[order]
            else:
                rows, swapped = order, np.zeros(self.examples, bool)
            self._epoch = (epoch, rows, swapped)
        return self._epoch[1], self._epoch[2]

    def _lay(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return lay_out(self.lengths[rows], self.batch_size, self.world, self.tokens)


def lay_out(lengths: np.ndarray, batch_size: int, world: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay consecutive steps of `batch_size` examples onto ranks and micro-batches.

    Longest first, each example goes to the least loaded bin (Graham 1969), for all steps at once. A
    step gets as few micro-batches per rank as keep every bin within `tokens`.

    Args:
        lengths: tokens per example (n,), step after step; the last step may be short.
        batch_size: examples per step.
        world: ranks.
        tokens: most tokens of a micro-batch, unless it is one example.

    Returns:
        The bin of each example (steps, batch_size), where bin = micro-batch * world + rank, and the
        micro-batches per rank of each step (steps,). Entries past n are meaningless.
    """
    steps = math.ceil(len(lengths) / batch_size)
    table = np.zeros((steps, batch_size), dtype=np.int32)
    table.reshape(-1)[: len(lengths)] = lengths
    order = np.argsort(-table, axis=1, kind="stable")
    descending = np.take_along_axis(table, order, axis=1)
    micro = np.maximum(1, -(-table.sum(1, dtype=np.int64) // (world * tokens)))
    bins = np.zeros((steps, batch_size), dtype=np.int32)
    open_steps = np.arange(steps)
    while len(open_steps):
        full = []
        for count in np.unique(micro[open_steps]):
            chosen = open_steps[micro[open_steps] == count]
            placed, loads = _least_loaded(descending[chosen], int(count) * world)
            bins[chosen[:, None], order[chosen]] = placed
            # One example per bin is the most that splitting can do.
            full.append(chosen[(loads.max(1) > tokens) & (count * world < batch_size)])
        open_steps = np.concatenate(full)
        micro[open_steps] += 1
    return bins, micro


def _least_loaded(descending: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Place each column's lengths into the least loaded of `bins`; the bins and the final loads."""
    loads = np.zeros((len(descending), bins), dtype=np.int64)
    placed = np.empty(descending.shape, dtype=np.int32)
    every = np.arange(len(descending))
    for column in range(descending.shape[1]):
        least = loads.argmin(1)
        placed[:, column] = least
        loads[every, least] += descending[:, column]
    return placed, loads


def blocks(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Cut rows, sorted by length, into blocks of at most `tokens` tokens (or one row)."""
    # numpy sorts 16 bits by radix, six times as fast as more of them.
    short = lengths.astype(np.uint16) if len(lengths) and lengths.max() < 2**16 else lengths
    # int32 where it can count the rows: the order of 100 million takes half the memory.
    order = np.argsort(short, kind="stable").astype(np.int32 if len(lengths) < 2**31 else np.int64)
    ends = np.cumsum(lengths[order], dtype=np.int64)
    cut, start, done = [], 0, 0
    while start < len(order):
        stop = max(start + 1, int(ends.searchsorted(done + tokens, side="right")))
        cut.append(order[start:stop])
        start, done = stop, int(ends[stop - 1])
    return cut
