"""Leases: who does what, agreed on by files in a shared folder, without a server.

A lease is a file that only one process can make. Its holder touches it while at work; one that has not been touched
for so long, or whose holder on this machine has died, may be taken over. Two holders of one lease, as after a long
pause, do the same work twice and nothing worse: results are renamed into place.
"""

import contextlib
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiebreak.files import TEMPORARY

SUFFIX = ".lease"
BEATS = 4
"""How often a lease is touched before it would expire."""


@contextmanager
def held(path: Path, seconds: float) -> Iterator[bool]:
    """Hold a lease if it is free or has expired; yields whether it is held, and gives it back at the end.

    Args:
        path: of the lease, in a folder that is there.
        seconds: without a touch after which it has expired.
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
    """Whether a lease may be taken: its holder is a dead process of this machine, or has not touched it of late.

    Args:
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
    return age > seconds


def folder_time(folder: Path) -> float:
    """The time, in seconds, of the clock that stamps this folder's files: of a file server, where it has one."""
    os.utime(folder)
    return folder.stat().st_mtime


def _claim(path: Path, seconds: float) -> str | None:
    """Make the lease, over an expired one if need be; its content, or None if another process holds it."""
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
    """Put a new lease in an expired one's place, which is never empty meanwhile; False if another process did.

    Whoever takes over first makes a guard named after the expired lease's content, so that of all who saw that lease
    one replaces it, and a latecomer finds another content there.
    """
    guard = path.with_name(f"{TEMPORARY}{path.name}-{hashlib.sha256(seen.encode()).hexdigest()[:16]}")
    if not _make(guard, mine):
        with contextlib.suppress(FileNotFoundError):
            if folder_time(path.parent) - guard.stat().st_mtime > seconds:
                guard.unlink()  # of a process killed here; the next who asks makes it anew
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
    """A lease's content, empty if it cannot be read; None if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""


def _machine() -> str:
    """This machine, and this container on it: where a process number means one process."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{os.uname().nodename} {space}"


def _process_start(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; None if it has ended, or cannot be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
