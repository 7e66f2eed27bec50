"""The user's mistakes: one message, exit code 2, no traceback."""

import contextlib
import os
import signal
import sys
import time


class UserError(Exception):
    """A mistake the user can mend; the message says what is wrong, where, and what to do."""


def tell(error: UserError) -> int:
    """One message. Ranks beside the first wait a moment: it is about to say the same, and end the job.

    A launcher that ends the others with SIGTERM then gets code 2 of them too, not that of a run that may go on.
    """
    with contextlib.suppress(ValueError):  # a thread other than the main one
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)) or 0)
    if rank:
        time.sleep(3)
    print(f"tiebreak: error{f' (rank {rank})' if rank else ''}: {error}", file=sys.stderr, flush=True)
    return 2
