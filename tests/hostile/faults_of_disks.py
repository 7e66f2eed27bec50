"""Disks that change under a command: one that turns read-only, and a quota of the file system's own."""

import re
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

from fault_commands import OUTPUT
from fault_harness import DONE, MISTAKE, Fault, Place, Result, can_mount
from faults_of_places import CANNOT, ROOMY, mount, moved, remount
from faults_of_processes import CHAINS, WAIT_S

COMMANDS = ("train", "distill", "folds", "pipeline", "predict", "report", "baseline", "export", "sample")
SMALL = ("predict", "baseline", "sample")


def can_limit() -> bool:
    """Whether a file system with a quota can be made."""
    return can_mount() and shutil.which("btrfs") is not None and "btrfs" in Path("/proc/filesystems").read_text()


def turn_read_only(place: Place, pid: int) -> None:
    """As soon as something lies there and no file is being written; again and again until then."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and Path(f"/proc/{pid}/cmdline").read_bytes():  # of a process that is no zombie
        if any((place / "disk").iterdir()):
            done = subprocess.run(["mount", "-o", "remount,ro", str(place / "disk")], capture_output=True)
            if done.returncode == 0:
                return
        time.sleep(0.002)


def mount_with_quota(place: Place, size: str) -> None:
    """A file system in a file, that may hold so much."""
    image, disk = place / "disk.image", place / "disk"
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    disk.mkdir()
    for words in (["mkfs.btrfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(disk)]):
        subprocess.run(words, check=True, capture_output=True)
    subprocess.run(["btrfs", "quota", "enable", str(disk)], check=True)
    limit(place, size)


def limit(place: Place, size: str) -> None:
    subprocess.run(["btrfs", "qgroup", "limit", size, str(place / "disk")], check=True)


def told_in_full(place: Place, result: Result) -> str:
    told = result.code != MISTAKE or re.search(CANNOT, result.text, re.DOTALL | re.IGNORECASE)
    return "" if told else f"nothing said like {CANNOT!r}"


def faults() -> list[Fault]:
    found: list[Fault] = []
    for command in COMMANDS:
        words, first = moved(command, "disk"), Path(OUTPUT[command]).parts[0]

        def linked(place: Place, first: str = first) -> None:
            (place / first).symlink_to(place / "disk" / first)

        def writable(place: Place, linked=linked) -> None:
            remount(place, f"rw,size={ROOMY}")
            linked(place)

        def unlimited(place: Place, linked=linked) -> None:
            limit(place, "none")
            linked(place)

        stopped = (DONE, MISTAKE, 1) if command in CHAINS else (DONE, MISTAKE)
        begin = partial(mount, options=f"size={ROOMY}")
        found.append(
            Fault(f"turns read-only/{command}", command, words, begin=begin, during=turn_read_only, heal=writable,
                  codes=stopped, check=told_in_full, needs=can_mount, first_too=False)
        )  # fmt: skip
        begin = partial(mount_with_quota, size="64K" if command in SMALL else "256K")
        found.append(
            Fault(f"quota of the file system/{command}", command, words, begin=begin, heal=unlimited,
                  codes=stopped[1:], says=CANNOT, needs=can_limit)
        )  # fmt: skip
    return found
