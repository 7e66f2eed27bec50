"""Folders that cannot be written to, names that cannot be, disks that are full: one sentence each, with what to do."""

import errno
import os
import re
import shutil
from pathlib import Path

from tiebreak.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a limit without room."""
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
NAMES = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Errors of a path: another is to be given."""
GONE = (errno.EIO, errno.ESTALE, errno.ENOTCONN)
"""Errors of a disk or file server."""
LONGEST_NAME = 200


def explain(error: OSError, path: Path | None = None) -> UserError | None:
    """Say what could not be read or written, and what to do; None for an error that is not the place's.

    Args:
        error: as Python or a library raised it.
        path: what was to be made, where that is known: then any error is the place's.
    """
    code = error.errno
    if code is None and isinstance(error, shutil.Error):  # a list of (from, to, reason)
        code = next((int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))), None)
    if code == errno.ENOENT and path is None and (gone := _gone_folder(error.filename)) is not None:
        return UserError(f"{gone} is gone: was it removed while this command ran? Run the same command again")
    if code is None or (path is None and code not in (*FULL, *FORBIDDEN, *NAMES, *GONE)):
        return None
    where = path if path is not None else Path(os.fsdecode(error.filename)) if error.filename else None
    name = "the output" if where is None else str(where)
    name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    reason = os.strerror(code)
    if code in FULL:
        return UserError(f"{name}: {reason}; make room and run the same command again")
    if code in GONE:
        return UserError(f"{name}: {reason}; run the same command again once the disk answers")
    if path is None and (where is None or code in NAMES or _is_unreadable(where)):
        way = "make it readable" if where is not None and code not in NAMES else "give another path"
        return UserError(f"{name}: {reason}; {way}")
    return UserError(f"{name} cannot be written: {reason}; {_elsewhere(where)}")


OUT_OF_MEMORY = ("can't allocate memory", "annot allocate memory", "without exception set")
"""How torch, the loader of shared libraries and the interpreter, amid an import, say that memory ran out."""


def explain_shortage(error: BaseException) -> UserError | None:
    """Say that memory, threads or a disk ran out, by whatever error a library tells it; None for other errors."""
    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):  # as libraries in Rust say it
        return explain(OSError(int(number[1]), os.strerror(int(number[1]))))
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return UserError(
            f"the GPU's memory ran out ({text.partition('. ')[0]}): lower train.tokens_per_micro_batch or "
            "predict.tokens_per_block, which leaves the result as it is, or set train.gradient_checkpointing=true, and "
            "run the same command again (with --resume auto a run goes on from its newest checkpoint)"
        )
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return UserError(
            "memory ran out: give the command more (ulimit -v, the job's limit), or have it do less at once: a smaller "
            "table, train.tokens_per_micro_batch or predict.tokens_per_block"
        )
    if "can't start new thread" in text or "ThreadPoolBuildError" in text:
        return UserError("no more threads can be started: raise the limit of processes (ulimit -u), or end others")
    return None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        UserError: it cannot be made; names it, and what to do.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) or error from None


def cache_folder() -> Path:
    """Where prepared tokens and demo models are kept: $TIEBREAK_CACHE, else ~/.cache/tiebreak.

    Raises:
        UserError: the variable is not set, and this user has no home folder.
    """
    if named := os.environ.get("TIEBREAK_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "tiebreak"
    except RuntimeError:
        raise UserError("this user has no home folder for a cache: set TIEBREAK_CACHE to a folder") from None


def _gone_folder(name: object) -> Path | None:
    """The folder of a file that is not there any more itself; None where the folder is there."""
    if not isinstance(name, (str, bytes)):
        return None
    folder = Path(os.fsdecode(name)).parent
    return None if folder.exists() else folder


def _is_unreadable(path: Path) -> bool:
    """Whether a file is there and may not even be read."""
    return os.path.lexists(path) and not os.access(path, os.R_OK)


def _elsewhere(path: Path | None) -> str:
    cache = cache_folder()
    if path is not None and (path == cache or cache in path.parents):
        return f"it belongs to the cache: set TIEBREAK_CACHE to a folder that can be written (it is {cache} now)"
    return "choose another --out"
