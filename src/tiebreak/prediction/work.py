"""Who computes which part: every process takes the next free one, until none is left or held by another.

The processes share nothing but the folder: they may be ranks of a job, tasks of an array or commands typed on several
machines, and may come, die and come back at any time.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tiebreak.leases import SUFFIX, folder_time, has_expired, held
from tiebreak.prediction.parts import Part, cut_into_parts, part_index, part_path, write_part

POLL_S = 0.1
LONGEST_POLL_S = 2.0
SAY_EVERY_S = 10.0


class Job:
    """One model's prediction: its parts and how to compute one.

    Args:
        folder: of the parts. seal: what each carries.
        blocks: rows of each block; lengths: tokens of each row.
        compute: the part of some blocks.
        lease_s: seconds after which a silent process's part is taken over.
    """

    def __init__(
        self,
        folder: Path,
        seal: dict[str, str],
        blocks: Sequence[np.ndarray],
        lengths: np.ndarray,
        compute: Callable[[Sequence[np.ndarray]], Part],
        lease_s: float,
    ) -> None:
        self.folder, self.seal, self.blocks, self.lease_s = folder, seal, blocks, lease_s
        self._compute = compute
        self.parts = cut_into_parts(len(blocks))
        of_block = np.array([lengths[rows].sum(dtype=np.int64) for rows in blocks])
        self.tokens = np.array([of_block[part.start : part.stop].sum() for part in self.parts])
        self.done: set[int] = set()

    @property
    def whole(self) -> bool:
        """Whether every part was there at the last look."""
        return len(self.done) == len(self.parts)

    @property
    def tokens_done(self) -> int:
        return int(self.tokens[sorted(self.done)].sum()) if self.done else 0

    def look(self) -> set[str]:
        """Look which parts are done; the names of the leases that are held."""
        names = {entry.name for entry in os.scandir(self.folder)}
        found = {index for name in names if (index := part_index(name)) is not None}
        self.done = {index for index in found if index < len(self.parts)}
        return {name for name in names if name.endswith(SUFFIX)}

    def compute_one(self) -> bool:
        """Compute one part that nobody has done or holds; False if there is none."""
        with self._claimed() as index:
            if index is None:
                return False
            part = self._compute([self.blocks[block] for block in self.parts[index]])
            if not part_path(self.folder, index).is_file():  # else our lease expired, and another was faster
                write_part(self.folder, index, part, self.seal)
            self.done.add(index)
        return True

    @contextmanager
    def _claimed(self) -> Iterator[int | None]:
        """Hold the lease of a free part. The longest rows come first: what runs out of memory does so at once."""
        leases, now = self.look(), None
        for index in range(len(self.parts) - 1, -1, -1):
            if index in self.done:
                continue
            path = part_path(self.folder, index).with_suffix(SUFFIX)
            if path.name in leases:
                now = folder_time(self.folder) if now is None else now
                if not has_expired(path, self.lease_s, now):
                    continue
            with held(path, self.lease_s) as mine:
                if mine and not part_path(self.folder, index).is_file():  # done since we looked
                    yield index
                    return
        yield None


class Progress:
    """Says how far all processes together have come, and about how long it still takes."""

    def __init__(self, jobs: Sequence[Job], say: Callable[[str], None]) -> None:
        for job in jobs:
            job.look()
        self._jobs, self._say = jobs, say
        self._total = sum(int(job.tokens.sum()) for job in jobs)
        self._told = 0
        self._begin()

    def _begin(self) -> None:
        self._began = self._said = time.monotonic()
        self._before = sum(job.tokens_done for job in self._jobs)

    def tell(self) -> None:
        """After a part: at the second, at the last, and now and then between; the first loads the model too."""
        self._told += 1
        if self._told == 1:
            self._begin()
            return
        now = time.monotonic()
        done, parts = sum(len(job.done) for job in self._jobs), sum(len(job.parts) for job in self._jobs)
        if not (self._told == 2 or done == parts or now - self._said >= SAY_EVERY_S):
            return
        self._said = now
        tokens, seconds = sum(job.tokens_done for job in self._jobs), now - self._began
        rate = (tokens - self._before) / max(seconds, 1e-9)
        left = (self._total - tokens) / max(rate, 1e-9)
        self._say(
            f"part {done:,}/{parts:,}  {tokens / max(1, self._total):.0%} of the tokens  {seconds:.0f} s, "
            f"{rate:,.0f} tokens/s over all processes, about {left:.0f} s left"
        )


def work(jobs: Sequence[Job], first: int, say: Callable[[str], None]) -> None:
    """Compute parts until every job has all of its own, whoever made them.

    Args:
        first: the job to begin with, counted on from the last: processes with different numbers share the jobs.
    """
    start = first % len(jobs)
    order = [*jobs[start:], *jobs[:start]]
    progress, pause = Progress(jobs, say), POLL_S
    while True:
        for job in order:
            while job.compute_one():
                progress.tell()
                pause = POLL_S
        if all(job.whole for job in jobs):
            return
        time.sleep(pause)  # others hold what is left: they finish it, or their leases expire
        pause = min(2 * pause, LONGEST_POLL_S)
