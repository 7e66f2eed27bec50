"""Files that are whole or absent: temporary name, flush to disk, rename."""

import hashlib
import json
import os
from pathlib import Path

TEMPORARY = ".tmp-"
"""What the names of files and folders not yet whole begin with."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a kill at any instant leaves the old one or the new one."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    data = content.encode("utf-8") if isinstance(content, str) else content
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def flush(path: Path) -> None:
    """Have a file that another library wrote on the disk, not only in the system's memory."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
