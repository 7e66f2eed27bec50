"""Arrays of a .npy or .npz file, read within the bounds that the file's own size sets; nothing is unpickled."""

import io
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy


class BadArrays(ValueError):
    """A file that does not hold whole arrays; the message says why."""


def read_npz(path: Path, names: Collection[str], optional: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Read arrays from an .npz file as `np.savez` writes it, which is no larger than they are.

    Args:
        path: of the file.
        names: of the arrays.
        optional: of arrays that may be absent.

    Raises:
        BadArrays: damaged, compressed, or without one of the names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if absent := [name for name in names if name not in held]:
                raise BadArrays(f"no array {absent[0]}")
            size = path.stat().st_size
            if len(held) > len(names) + len(optional) or any(info.file_size > size for info in held.values()):
                raise BadArrays("it is not the file that was written here")
            arrays = {}
            for name in held.keys() & {*names, *optional}:
                with archive.open(held[name]) as file:
                    arrays[name] = _read(file, held[name].file_size)
            return arrays
    except BadArrays:
        raise
    except Exception as error:  # zipfile and numpy raise what they like on damaged bytes
        raise BadArrays(f"not whole ({type(error).__name__})") from None


def read_npy(content: bytes) -> np.ndarray:
    """Read the one array of an .npy file.

    Raises:
        BadArrays: damaged.
    """
    try:
        return _read(io.BytesIO(content), len(content))
    except BadArrays:
        raise
    except Exception as error:
        raise BadArrays(f"not whole ({type(error).__name__})") from None


def _read(file: IO[bytes], size: int) -> np.ndarray:
    """Read an array whose header must agree with the bytes that there are."""
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(file)]
    shape, fortran, dtype = read_header(file)
    wanted = dtype.itemsize
    for length in shape:
        wanted *= length
    if dtype.hasobject or wanted < 0 or wanted > size:
        raise BadArrays("its header does not fit its bytes")
    content = file.read(wanted + 1)
    if len(content) != wanted:
        raise BadArrays("its header does not fit its bytes")
    array = np.frombuffer(bytearray(content), dtype=dtype)
    return array.reshape(shape, order="F" if fortran else "C")
