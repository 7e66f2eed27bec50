"""Many small pieces of work on a CPU, each on one thread of its own, several at a time.

Torch cuts each operation into as many parts as it has threads, which then wait for one another. An operation on a tile
that fits a core's cache takes less time than that waiting, so here the pieces are dealt to threads, not their insides.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")

_pools: dict[int, ThreadPoolExecutor] = {}
"""By number of threads; threads of an earlier number sleep."""
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def run_pieces(work: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """Call `work` on every piece, without gradients, on as many threads as torch has here.

    Nobody may rely on an order. A piece gives the same bits however many threads there are, but for a lone one, which
    runs as any other code does.

    Args:
        work: writes its results into tensors that no other piece writes to.
        pieces: at least one.
    """
    todo, threads = list(pieces), torch.get_num_threads()
    if threads == 1 or len(todo) == 1:
        with torch.no_grad():
            for piece in todo:
                work(piece)
        return
    inference = torch.is_inference_mode_enabled()

    def run(piece: Piece) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(piece)

    for _ in (_pools.get(threads) or _new_pool(threads)).map(run, todo):
        pass


def _new_pool(threads: int) -> ThreadPoolExecutor:
    """Threads whose operations run on themselves alone."""
    started = threading.Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the process's number at its first call, which would undo the next line
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "pieces", initializer=begin)
    for ready in [pool.submit(int) for _ in range(threads)]:
        ready.result()
    torch.set_num_threads(threads)  # of threads that begin later; those of the pool keep theirs
    _pools[threads] = pool
    return pool
