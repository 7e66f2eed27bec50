"""Name the rank that stalls: collective operations only say that somebody did.

Every rank's thread leaves signs of life in the job's key-value store: a count that rises, the step and what the
rank is at. A rank that has stood still for too long reads them all, says who is at fault, and ends the job; that
works for a hung NCCL kernel too, which never returns to raise anything.
"""

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from types import TracebackType

import torch.distributed as dist

from tiebreak.cluster.ranks import Ranks

STAGES = ("reading rows", "computing", "evaluating", "saving")
"""In the order in which a rank passes them within a step."""
SHOWN = 8
ANSWER_S = 10.0
STALLED = 1
"""Exit code of a job of several ranks in which one made no progress for `train.timeout_s` seconds."""


@dataclass
class Heartbeat:
    """What a rank last said: its host, a count of its signs, the step and stage, and since when it stands there."""

    host: str
    count: int = 0
    step: int = 0
    stage: str = STAGES[0]
    seconds: float = 0.0


class HangWatchdog:
    """Watches a job of several ranks; a single process needs none.

    Args:
        timeout_s: how long a rank may stand at one place.
    """

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        self.ranks, self.timeout_s = ranks, timeout_s
        self._own = Heartbeat(os.uname().nodename)
        self._since = time.monotonic()
        self._ended = threading.Event()
        self._every = min(5.0, timeout_s / 10)
        if ranks.world > 1:
            self._store = dist.PrefixStore("watch", dist.distributed_c10d._get_default_store())
            for work in (self._sign, self._guard):
                threading.Thread(target=work, daemon=True, name="watch").start()

    def at(self, step: int, stage: str) -> None:
        """Note how far the main thread has come; costs nothing."""
        self._own.step, self._own.stage, self._since = step, stage, time.monotonic()

    def __enter__(self) -> "HangWatchdog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _sign(self) -> None:
        while not self._ended.is_set():  # the first at once: who dies early is named too
            self._own.count += 1
            self._own.seconds = time.monotonic() - self._since
            try:
                self._store.set(str(self.ranks.rank), json.dumps(asdict(self._own)))
            except RuntimeError:  # the store's host has gone: the guard says so if it matters
                return
            self._ended.wait(self._every)

    def _guard(self) -> None:
        while not self._wait():
            if time.monotonic() - self._since > self.timeout_s:
                asker = threading.Thread(target=self._report, daemon=True)
                asker.start()
                asker.join(ANSWER_S + 4 * self._every)
                if asker.is_alive():
                    self._say("rank 0, which keeps the job's store, does not answer")
                os._exit(STALLED)

    def _wait(self) -> bool:
        """Wait until the next look; return whether the watch is over.

        Time in which the whole process was stopped, as Slurm does to a job that it suspends, does not count.
        """
        before = time.monotonic()
        over = self._ended.wait(self._every)
        stopped = time.monotonic() - before - self._every
        if stopped > self._every:
            self._since = min(time.monotonic(), self._since + stopped)
        return over

    def _report(self) -> None:
        try:
            first = self._read()
            time.sleep(3 * self._every)
            second = self._read()
            if self._store.add("reported", 1) == 1:
                self._say(describe(first, second))
            else:
                time.sleep(self._every)  # let the rank that reports finish before a launcher ends it
        except RuntimeError as error:
            self._say(f"the job's store does not answer ({str(error).splitlines()[0]}): rank 0 has ended")

    def _read(self) -> list[Heartbeat | None]:
        keys = [str(rank) for rank in range(self.ranks.world)]
        return [Heartbeat(**json.loads(self._store.get(key))) if self._store.check([key]) else None for key in keys]

    def _say(self, text: str) -> None:
        told = f"no progress for {self.timeout_s:g} s: {text}"
        way = "tiebreak preflight, under the same launcher, tries the nodes and their network"
        print(f"tiebreak: error: {told}; {way}", file=sys.stderr, flush=True)


def describe(first: list[Heartbeat | None], second: list[Heartbeat | None]) -> str:
    """Say who is at fault, from two readings of all ranks' signs some seconds apart.

    A rank whose count stands still is dead, stopped or cut off; if all live, it is those furthest behind.
    """
    dead = [rank for rank, (a, b) in enumerate(zip(first, second, strict=True)) if a is None or b is None or a == b]
    if dead:
        return f"no sign of life from {_listed(dead, second)}"
    signs = [sign for sign in second if sign is not None]
    places = [(sign.step, STAGES.index(sign.stage)) for sign in signs]
    behind = [rank for rank, place in enumerate(places) if place == min(places)]
    if len(behind) == len(signs):
        return f"every rank lives and stands at {_place(signs[0])}: a collective hangs, look at the network"
    ahead = signs[places.index(max(places))]
    return f"{_listed(behind, second)}; the others wait at {_place(ahead)}"


def _listed(ranks: list[int], signs: list[Heartbeat | None]) -> str:
    listed = []
    for rank in ranks[:SHOWN]:
        sign = signs[rank]
        listed.append(f"rank {rank}" + (f" ({sign.host}, last at {_place(sign)})" if sign else " (never heard of)"))
    return ", ".join(listed) + (f" and {len(ranks) - SHOWN} more" if len(ranks) > SHOWN else "")


def _place(sign: Heartbeat) -> str:
    return f"step {sign.step}, {sign.stage}"
