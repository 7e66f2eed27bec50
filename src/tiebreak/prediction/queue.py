"""Parts to compute: every process takes the next free one, until none is left or held by another.

The processes share nothing but the folder: they may be ranks of a job, tasks of an array or commands typed on several
machines, and may come, die and come back at any time.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tiebreak.data.prediction_manifest import Provenance
from tiebreak.leases import SUFFIX, folder_time, has_expired, held
from tiebreak.prediction.parts import Part, cut_into_parts, part_index, part_path, write_part

log = logging.getLogger(__name__)

POLL_S = 0.1
MAX_POLL_S = 2.0
REPORT_EVERY_S = 10.0


class PartQueue:
    """The parts of one model's prediction.

    Args:
        folder: of the parts.
        provenance: that each part carries.
        blocks: rows of each block.
        lengths: tokens of each row.
        compute: computes the part of some blocks.
        lease_s: seconds after which a silent process's part is taken over.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Provenance,
        blocks: Sequence[np.ndarray],
        lengths: np.ndarray,
        compute: Callable[[Sequence[np.ndarray]], Part],
        lease_s: float,
    ) -> None:
        self.folder, self.provenance, self.blocks, self.lease_s = folder, provenance, blocks, lease_s
        self._compute = compute
        self.parts = cut_into_parts(len(blocks))
        of_block = np.array([lengths[rows].sum(dtype=np.int64) for rows in blocks])
        self.tokens = np.array([of_block[part.start : part.stop].sum() for part in self.parts])
        self.done: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether every part was there at the last `refresh`."""
        return len(self.done) == len(self.parts)

    @property
    def tokens_done(self) -> int:
        """Tokens of the finished parts."""
        return int(self.tokens[sorted(self.done)].sum()) if self.done else 0

    def refresh(self) -> set[str]:
        """List the folder: note the finished parts, and return the file names of leases that are held."""
        names = {entry.name for entry in os.scandir(self.folder) if entry.is_file(follow_symlinks=False)}
        indices = {index for file_name in names if (index := part_index(file_name)) is not None}
        self.done = {index for index in indices if index < len(self.parts)}
        return {file_name for file_name in names if file_name.endswith(SUFFIX)}

    def compute_one(self) -> bool:
        """Compute one part that nobody has finished or holds; return False if there is none."""
        with self._claimed() as index:
            if index is None:
                return False
            part = self._compute([self.blocks[block] for block in self.parts[index]])
            if not part_path(self.folder, index).is_file():  # else our lease expired, and another was faster
                try:
                    write_part(self.folder, index, part, self.provenance)
                except FileNotFoundError:
                    if not self.folder.is_dir():
                        raise
                    return True  # so late that what we were writing was swept; the next look at the folder tells
            self.done.add(index)
        return True

    @contextmanager
    def _claimed(self) -> Iterator[int | None]:
        """Hold the lease of a free part. The longest rows come first: what runs out of memory does so at once."""
        leases, now = self.refresh(), None
        for index in range(len(self.parts) - 1, -1, -1):
            if index in self.done:
                continue
            path = part_path(self.folder, index).with_suffix(SUFFIX)
            if path.name in leases:
                now = folder_time(self.folder) if now is None else now
                if not has_expired(path, self.lease_s, now):
                    continue
            with held(path, self.lease_s) as mine:
                if mine and not part_path(self.folder, index).is_file():  # finished since the folder was listed
                    yield index
                    return
        yield None


class Progress:
    """Logs how far all processes together have come, and the time left."""

    def __init__(self, queues: Sequence[PartQueue]) -> None:
        for queue in queues:
            queue.refresh()
        self._queues = queues
        self._total = sum(int(queue.tokens.sum()) for queue in queues)
        self._computed = 0
        self._begin()

    def _begin(self) -> None:
        self._began = self._reported = time.monotonic()
        self._before = sum(queue.tokens_done for queue in self._queues)

    def count_part(self) -> None:
        """Count a part; log the second, the last, and now and then one between; the first loads the model too."""
        self._computed += 1
        if self._computed == 1:
            self._begin()
            return
        now = time.monotonic()
        done, parts = sum(len(queue.done) for queue in self._queues), sum(len(queue.parts) for queue in self._queues)
        if not (self._computed == 2 or done == parts or now - self._reported >= REPORT_EVERY_S):
            return
        self._reported = now
        tokens, seconds = sum(queue.tokens_done for queue in self._queues), now - self._began
        rate = (tokens - self._before) / max(seconds, 1e-9)
        left = (self._total - tokens) / max(rate, 1e-9)
        log.info(
            f"part {done:,}/{parts:,}  {tokens / max(1, self._total):.0%} of the tokens  {seconds:.0f} s, "
            f"{rate:,.0f} tokens/s over all processes, about {left:.0f} s left"
        )


def compute_parts(queues: Sequence[PartQueue], first: int) -> None:
    """Compute parts until every queue is finished, whoever computed them.

    Args:
        queues: one of each model.
        first: index of the queue to begin with, modulo their number: processes with different ones share the models.
    """
    start = first % len(queues)
    order = [*queues[start:], *queues[:start]]
    progress, pause = Progress(queues), POLL_S
    while True:
        for queue in order:
            while queue.compute_one():
                progress.count_part()
                pause = POLL_S
        if all(queue.finished for queue in queues):
            return
        time.sleep(pause)  # others hold what is left: they finish it, or their leases expire
        pause = min(2 * pause, MAX_POLL_S)
