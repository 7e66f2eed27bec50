"""Files that are whole or absent: temporary name, flush to disk, rename."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from tiebreak.errors import UserError
from tiebreak.storage import explain, make_folder

TEMPORARY = ".tmp-"
"""What the names of files and folders not yet whole begin with."""


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place when all is written: a kill leaves the old one or the new one.

    The temporary name is like no other process's, on whatever machine. Errors name the file.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill at any instant leaves the old one or the new one.

    What is not UTF-8 in a text, as in names of files, is escaped as JSON does.
    """
    with open_atomically(path) as file:
        file.write(content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content)


def absent(path: Path) -> str:
    """The sentence for a file that is not there, with the folder in which a relative path was looked for."""
    return f"{path}: no such file" + ("" if path.is_absolute() else f" in {Path.cwd()}")


def write_json(path: Path, content: object) -> None:
    """Write indented JSON; a kill leaves the old file or the new one."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def leave_json(path: Path, content: object) -> None:
    """As `write_json`, but that a file which says the same stays as it is."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_bytes()) == json.loads(json.dumps(content)):
            return
    write_json(path, content)


@contextlib.contextmanager
def new_folder(path: Path, existing: Literal["replace", "keep", "fail"] = "fail") -> Iterator[Path]:
    """Make a folder that appears whole: yield a temporary one beside it, then rename that to `path`.

    A kill at any instant leaves the old folder or the new one, and at most a temporary folder that `sweep` removes.

    Args:
        path: of the folder; its parent is made if it is absent.
        existing: what to do when `path` is there at the end: `replace` it, `keep` it and drop the new one (both are
            the same, and another process was first), or `fail`.

    Raises:
        FileExistsError: `path` exists and `existing` is `fail`.
        UserError: nothing can be written there.
    """
    make_folder(path.parent)
    if existing == "fail" and path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
    except OSError as error:
        raise explain(error, path) or error from None
    try:
        temporary.chmod(0o755)
        yield temporary
        if existing == "replace" and path.exists():
            old = temporary.with_name(f"{temporary.name}-old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            return
        try:
            temporary.rename(path)
        except OSError:
            if existing != "keep" or not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def as_paths(given: str | Path | Iterable[str | Path]) -> list[Path]:
    """One path or several, as strings or not, as a list of paths.

    Raises:
        UserError: a DataFrame or another object in memory: its column names would be taken for files.
    """
    if isinstance(given, (str, Path)):
        return [Path(given)]
    is_object = hasattr(given, "iloc") or not isinstance(given, Iterable)
    items: list[object] = [given] if is_object else list(given)
    paths = [Path(item) for item in items if isinstance(item, (str, Path))]
    if len(paths) < len(items):
        wrong = next(item for item in items if not isinstance(item, (str, Path)))
        raise UserError(
            f"a {type(wrong).__name__} in place of a file's path: this takes files; write the rows to one first "
            "(DataFrame.to_csv), or predict them in memory (Judge.predict)"
        )
    return paths


def sweep(*folders: Path) -> None:
    """Remove what a killed process left half-written in these folders."""
    for folder in folders:
        for path in folder.glob(f"{TEMPORARY}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file that another library wrote on the disk, not only in the system's memory."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; of a folder, of its files' names and bytes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for inner in sorted(inner for inner in path.rglob("*") if inner.is_file()):
            digest.update(f"{inner.relative_to(path)} {sha256(inner)}\n".encode())
        return digest.hexdigest()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_once(path: Path) -> str:
    """A file's SHA-256, read once in a process as long as its size and time stay."""
    status = path.stat()
    return _hash(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1_000)
def _hash(path: Path, size: int, changed_ns: int) -> str:
    return sha256(path)
