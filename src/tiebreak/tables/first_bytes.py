"""What a table file is by its first bytes, whatever its name says; and its text, decompressed."""

import gzip
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from tiebreak.errors import UserError

PEEKED = 512
LONGEST_LINE = 1 << 26
"""Characters of a line, and so of a cell: no text of a conversation is as long."""
FAULTS = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error, zipfile.BadZipFile)
"""What reading a damaged, encrypted or strange archive may raise."""
GZIP, ZSTD, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
KINDS = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow", GZIP: "gzip", ZSTD: "zstd", ZIP: "zip"}
FOREIGN = {
    b"version https://git-lfs": "is a Git LFS pointer, not the table: fetch the file itself with git lfs pull",
    b"<!doctype html": "is a web page, not a table (a sign-in or licence page?): fetch it again",
    b"<html": "is a web page, not a table (a sign-in or licence page?): fetch it again",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"%pdf": "is a PDF document, not a table; export the table as CSV",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook; save it as CSV UTF-8",
    b"sqlite format 3": "is an SQLite database; export the table as CSV",
    b"bzh": "is compressed with bzip2; decompress it first",
    b"\xfd7zxz": "is compressed with xz; decompress it first",
}


def recognise_file(path: Path) -> str:
    """`parquet`, `arrow`, `gzip`, `zstd`, `zip`, or `text`.

    Raises:
        UserError: a file that is no table, by its first bytes.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(PEEKED)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from None
    kind = next((kind for magic, kind in KINDS.items() if head.startswith(magic)), "text")
    if kind in ("gzip", "zstd", "zip"):
        head = _peek(path)
        if head.startswith((b"PAR1", b"ARROW1")):
            raise UserError(f"{path}: a compressed Parquet or Arrow file; decompress it first")
    _refuse_foreign(path, head)
    return kind


def open_text(path: Path) -> TextIO:
    """Open a table's text, decompressed; bytes that are not UTF-8 become lone surrogates.

    Raises:
        UserError: a damaged or many-file archive.
    """
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="")


def iter_lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the lines of a table's text, none of which takes more memory than `LONGEST_LINE`.

    Raises:
        UserError: a longer one, or a damaged archive; names the line.
    """
    for number in itertools.count(1):
        try:
            line = file.readline(LONGEST_LINE)
        except FAULTS as error:
            raise UserError(f"{path}: broken after line {number - 1} ({error}); fetch it again") from None
        if not line:
            return
        if len(line) >= LONGEST_LINE:
            raise UserError(
                f"{path}, line {number}: more than {LONGEST_LINE:,} characters without an end, which no table has; is "
                "it another file?"
            )
        yield line


def _refuse_foreign(path: Path, head: bytes) -> None:
    beginning = head.lstrip().lower()
    for magic, what in FOREIGN.items():
        if beginning.startswith(magic):
            raise UserError(f"{path}: {what}")


def _peek(path: Path) -> bytes:
    try:
        with _open_bytes(path) as file:
            return file.read(PEEKED)
    except FAULTS as error:
        raise UserError(f"{path}: a damaged archive ({error}); fetch it again") from None


def _open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed."""
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic.startswith(GZIP):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if magic == ZSTD:
        import pyarrow as pa

        return io.BufferedReader(_Stream(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))
    if magic == ZIP:
        return _open_zip(path)
    return open(path, "rb")


def _open_zip(path: Path) -> IO[bytes]:
    """The one file of a zip archive."""
    try:
        archive = zipfile.ZipFile(path)
        names = [info.filename for info in archive.infolist() if not info.filename.endswith("/")]
    except Exception as error:  # zipfile raises what it likes on changed bytes
        raise UserError(f"{path}: a damaged zip archive ({error}); fetch it again") from None
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if "[Content_Types].xml" in names:
        raise UserError(f"{path}: an Excel workbook; save it as CSV UTF-8")
    if len(names) != 1:
        raise UserError(f"{path}: the archive holds {len(names)} files; unpack it and name one of them")
    return archive.open(names[0])


class _Stream(io.RawIOBase):
    """A stream of pyarrow as Python's `io` wants it."""

    def __init__(self, source: "object") -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        piece = self._source.read(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(piece)] = piece
        return len(piece)
