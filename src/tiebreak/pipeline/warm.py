"""Processes that start in milliseconds: forked from one that has imported what takes seconds and done nothing else.

A stage is still a process of its own, which signals, kills and exit codes reach; only the imports are shared.
"""

import contextlib
import gc
import importlib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from tiebreak.preemption import INTERRUPTED, STOP_SIGNALS, stop_at_once
from tiebreak.process import import_bitsandbytes
from tiebreak.terminal import complain

MAIN = Path(__file__).parent.parent / "__main__.py"
HEAVY = (
    *("tiebreak.training.run", "tiebreak.prediction.predict", "tiebreak.prediction.models"),
    *("tiebreak.models.switching", "tiebreak.report.build", "tiebreak.report.page"),
    *("tiebreak.report.card", "tiebreak.report.curves", "tiebreak.report.figures", "tiebreak.evaluation.baselines"),
    *("peft", "transformers.models.gemma2.modeling_gemma2", "transformers.models.llama.modeling_llama"),
    *("transformers.models.deberta_v2.modeling_deberta_v2", "sklearn.linear_model", "scipy.optimize"),
)
"""Modules that stages import sooner or later."""
FORK_SAFE = ("jemalloc_bg_thd",)
"""The thread of pyarrow's memory allocator, which starts itself anew in a child."""


class ForkedCommand:
    """A child that runs `python -m tiebreak` with these words; the part of `subprocess.Popen` that stages need.

    Args:
        words: of the command.
        output: descriptor for what it prints; None for this process's own streams.
        cores: that it may use; None for all of this process.
    """

    def __init__(self, words: Sequence[str], output: int | None = None, cores: Collection[int] | None = None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that arrives in what Python runs after a fork would be lost there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *STOP_SIGNALS))
        self.pid = os.fork()
        self._code: int | None = None
        if self.pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        else:
            if output is not None:
                os.dup2(output, 1)
                os.dup2(output, 2)
            if cores is not None:
                os.sched_setaffinity(0, cores)
            _exit(_run(words, mask))

    def send_signal(self, number: int) -> None:
        """Signal the child, if it has not been waited for."""
        if self._code is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """As `wait`, but None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """Wait for the child; returns its exit code, negative for a signal that ended it."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


@cache
def warm_up() -> bool:
    """Import what stages need, once; returns whether this process may be forked: one thread, no GPU touched."""
    import_bitsandbytes()
    for name in HEAVY:
        with contextlib.suppress(ImportError):  # the stage that needs it reports it
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of each child copies all pages
    return _can_fork()


def _can_fork() -> bool:
    """Whether all threads but this one are of libraries that expect forks: pyarrow's allocator and OpenBLAS's pools."""
    from threadpoolctl import threadpool_info

    try:
        threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    except OSError:  # not Linux
        return False
    pools = sum(pool["num_threads"] - 1 for pool in threadpool_info() if pool["internal_api"] == "openblas")
    others = sum(name not in FORK_SAFE for name in threads) - 1
    return others <= pools and not sys.modules["torch"].cuda.is_initialized()


def _run(words: Sequence[str], mask: Collection[int]) -> int:
    """In the child: the command's exit code, with the signal handlers of a new process."""
    import numpy as np

    stop_at_once()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    np.random.seed()
    sys.argv = ["tiebreak", *words]
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        runpy.run_path(str(MAIN), run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        complain("tiebreak: interrupted")
        return INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit(code: int) -> None:
    """End the child at once: exit handlers are the parent's, and taking all modules apart takes half a second."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)
