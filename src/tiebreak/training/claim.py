"""Let only the newest of two incarnations of a run write.

A requeued job may start while ranks of its first life, cut off from the network, still run. Each run therefore
puts its token into its folder when it starts, and checks that it is still there before anything it writes becomes
visible: whoever came later has the folder.
"""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.files import write_json
from tiebreak.structured import read_json

CLAIM = "claim.json"


@dataclass(frozen=True)
class Claim:
    """A run's claim on its folder."""

    folder: Path
    token: str

    def check(self) -> None:
        """Raise if another run has the folder now.

        Raises:
            UserError: naming the other.
        """
        try:
            holder = read_json(self.folder / CLAIM)
        except OSError:
            raise UserError(
                f"{self.folder} was removed, or emptied, while this run wrote to it: choose another --out, or empty it "
                "and run the same command again"
            ) from None
        if holder.get("token") != self.token:
            raise UserError(
                f"{self.folder} was taken over by a later run (process {holder.get('pid')} on {holder.get('host')}, "
                f"since {holder.get('since')}): this one writes nothing more"
            )


def take_over(folder: Path) -> Claim:
    """Claim a run folder; whoever held it before will notice."""
    claim = Claim(folder, secrets.token_hex(4))
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"token": claim.token, "host": os.uname().nodename, "pid": os.getpid(), "since": since}
    write_json(folder / CLAIM, holder | {"slurm_job": os.environ.get("SLURM_JOB_ID")})
    return claim
