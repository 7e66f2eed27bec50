"""Leases of the past and the future, clocks that were set back, clocks that stand still."""

import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

from fault_commands import COMMANDS
from fault_harness import DONE, Fault, Place


def stamp_leases(place: Place, seconds: float, holder: str) -> None:
    """A lease of another machine on every part, stamped in the past or the future."""
    shutil.copytree(place.home / "calm" / "p", place / "p")
    (place / "p" / "merged.json").unlink()
    (place / "p" / "predictions.csv").unlink()
    parts = next((place / "p").glob("parts-*"))
    for part in list(parts.glob("part-*.npz")):
        part.unlink()
        leave_lease(part.with_suffix(".lease"), seconds, holder)


def stamp_merge(place: Place, seconds: float, holder: str) -> None:
    shutil.copytree(place.home / "calm" / "p", place / "p")
    (place / "p" / "merged.json").unlink()
    (place / "p" / "predictions.csv").unlink()
    leave_lease(place / "p" / "merge.lease", seconds, holder)


def leave_lease(path: Path, seconds: float, holder: str) -> None:
    path.write_text(holder)
    stamp = time.time() + seconds
    os.utime(path, (stamp, stamp))


def stopped_clock(place: Place) -> None:
    """The file server's clock stands still, and so does this machine's."""
    from tiebreak import leases

    now = time.time()
    leases.folder_time = lambda folder: now
    time.time = lambda: now
    real = os.utime
    os.utime = lambda path, *rest, **more: real(path, (now, now))


def set_back(place: Place, seconds: float = 1e6) -> None:
    real = time.time
    time.time = lambda: real() - seconds


HOLDERS = {
    "another machine": json.dumps({"machine": "other pid:[1]", "pid": 1, "started": "5", "token": "x"}),
    "empty": "",
    "garbage": "\x00\xff",
    "a list": "[]",
    "other types": json.dumps({"machine": 5, "pid": [], "started": {}, "token": None}),
}
QUICK_LEASE = ["--set", "predict.lease_s=2"]


def faults() -> list[Fault]:
    found: list[Fault] = []
    words = [*COMMANDS["predict"][0], *QUICK_LEASE]
    for holder, content in HOLDERS.items():
        for when, seconds in (("future", 1e6), ("past", -1e6), ("now", 0.0)):
            for kind, begin in (("part", stamp_leases), ("merge", stamp_merge)):
                found.append(
                    Fault(
                        f"lease of the {when}/{kind}, {holder}/predict",
                        "predict",
                        words,
                        codes=(DONE,),
                        limit_s=25,
                        begin=partial(begin, seconds=seconds, holder=content),
                    )
                )
    for kind, begin in (("part", stamp_leases), ("merge", stamp_merge)):
        found.append(
            Fault(
                f"stopped clock/{kind}/predict",
                "predict",
                words,
                codes=(DONE,),
                limit_s=25,
                inside=stopped_clock,
                begin=partial(begin, seconds=0.0, holder=HOLDERS["another machine"]),
            )
        )
    for command in ("train", "predict", "report", "pipeline"):
        found.append(Fault(f"clock set back/{command}", command, codes=(DONE,), inside=set_back))
        found.append(Fault(f"clock stands still/{command}", command, codes=(DONE,), inside=stopped_clock))
    return found
