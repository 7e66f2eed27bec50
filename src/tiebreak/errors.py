"""The user's mistakes: one message, exit code 2, no traceback."""

import os
import sys
import time


class UserError(Exception):
    """A mistake the user can mend; the message says what is wrong, where, and what to do."""


def tell(error: UserError) -> int:
    """One message. Ranks beside the first wait a moment: it is about to say the same, and end the job."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)) or 0)
    if rank:
        time.sleep(3)
    print(f"tiebreak: error{f' (rank {rank})' if rank else ''}: {error}", file=sys.stderr, flush=True)
    return 2
