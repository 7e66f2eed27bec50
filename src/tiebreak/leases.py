"""Leases: processes agree on who does what by files in a shared folder, without a server.

A lease is a file that only one process can make. Its holder touches it while at work; one that has not been touched
for a given time, or whose holder on this machine has died, may be taken over. Two holders of one lease, as after a
long pause, do the same work twice and nothing worse: results are renamed into place.

filelock's SoftFileLease is not used (4.2.11 was tried): it never takes over an empty file, which a process leaves that
is killed between making and writing its lease; each process counts a dead node's silence anew, so that a restarted
command waits the whole time once more; and it raises where `lease_s` was changed between two starts.
"""

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiebreak.files import TEMPORARY

SUFFIX = ".lease"
BEATS = 4
"""Number of times that a lease is touched before it would expire."""


_seen: dict[Path, tuple[object, float]] = {}
"""Leases of others that this process has met: their state, and since when it has been so, by its own clock."""


@contextmanager
def held(path: Path, seconds: float) -> Iterator[bool]:
    """Hold a lease if it is free or has expired; yield whether it is held, and release it at the end.

    Args:
        path: of the lease, in a folder that exists.
        seconds: time without a touch after which it expires.
    """
    mine = _claim(path, seconds)
    if mine is None:
        yield False
        return
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds / BEATS) and _read(path) in (mine, ""):
            with contextlib.suppress(OSError):
                os.utime(path)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def has_expired(path: Path, seconds: float, now: float | None = None) -> bool:
    """Return whether a lease may be taken over: its holder is a dead process of this machine, or has been silent.

    Args:
        path: of the lease.
        seconds: time without a touch after which it expires.
        now: `folder_time` of its folder, if known.
    """
    try:
        age = (folder_time(path.parent) if now is None else now) - path.stat().st_mtime
    except FileNotFoundError:
        return True
    try:
        holder = json.loads(_read(path) or "")
        here = holder["machine"] == _machine() and holder["started"] is not None
        if here and holder["started"] != _process_start(holder["pid"]):
            return True
    except (ValueError, KeyError, TypeError):
        pass  # being written just now, or by a process that was killed meanwhile
    if abs(age) > seconds:  # a stamp of the future is that of a clock which was set back
        return True
    return _unchanged_s(path) > seconds  # by this process's own clock, where the file server's stands still


def _unchanged_s(path: Path) -> float:
    """Seconds for which this process has seen a file with the same stamp and content; 0 at first sight."""
    try:
        state = (path.stat().st_mtime_ns, _read(path))
    except OSError:
        return 0.0
    now = time.monotonic()
    before, since = _seen.get(path, (None, now))
    if before != state:
        since = now
    _seen[path] = (state, since)
    return now - since


def folder_time(folder: Path) -> float:
    """Return the time, in seconds, of the clock that stamps this folder's files: the file server's, if any."""
    os.utime(folder)
    return folder.stat().st_mtime


def _claim(path: Path, seconds: float) -> str | None:
    """Make the lease, or replace an expired one; return its content, or None if another process holds it."""
    holder = {"machine": _machine(), "pid": os.getpid(), "started": _process_start(os.getpid())}
    mine = json.dumps(holder | {"token": secrets.token_hex(8)})
    if _make(path, mine):
        return mine
    seen = _read(path)
    if not has_expired(path, seconds):
        return None
    taken = _make(path, mine) if seen is None else _replace(path, seen, mine, seconds)
    return mine if taken else None


def _replace(path: Path, seen: str, mine: str, seconds: float) -> bool:
    """Replace an expired lease, whose place is never empty meanwhile; return False if another process did.

    A process that takes over makes a guard first, named after the expired lease's content, so that of all processes
    that read that lease one replaces it, and a latecomer reads another content there.
    """
    guard = path.with_name(f"{TEMPORARY}{path.name}-{hashlib.sha256(seen.encode()).hexdigest()[:16]}")
    if not _make(guard, mine):
        with contextlib.suppress(FileNotFoundError):
            age = abs(folder_time(path.parent) - guard.stat().st_mtime)
            if age > seconds or _unchanged_s(guard) > seconds:
                guard.unlink()  # of a process killed here; the next process makes it anew
        return False
    if _read(path) != seen:
        guard.unlink(missing_ok=True)
        return False
    with contextlib.suppress(FileNotFoundError):  # another took this for the guard of a process that was killed
        guard.replace(path)
    return _read(path) == mine


def _make(path: Path, content: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        error.filename = str(path)
        raise
    return True


def _read(path: Path) -> str | None:
    """Return a lease's content, empty if it cannot be read; None if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""


def _machine() -> str:
    """Return this machine and the container on it: within both, a process number means one process."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{os.uname().nodename} {space}"


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine began, in the kernel's ticks; None if it ended or that is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
