"""What the files of a model folder say by themselves: configuration, weights' headers, quantisation, a cheap hash.

No weight is loaded and torch is not imported. Every reader of config.json and of safetensors headers is here.
"""

import hashlib
import json
import re
import reprlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiebreak.errors import UserError
from tiebreak.structured import parse_json, read_json

CONFIG, INDEX, WHOLE = "config.json", "model.safetensors.index.json", "model.safetensors"
POINTER = b"version https://git-lfs"
"""What a file of Git LFS begins with where only the pointer was fetched."""
NOT_OF_THE_FUNCTION = ("transformers_version", "_name_or_path")
"""Fields of a configuration that do not change what a model computes."""
SAMPLE_BYTES = 64
Header = dict[str, dict[str, Any]]


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of a folder's config.json.

    Raises:
        UserError: it is not there, a pointer of Git LFS, or no JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: not a model folder, no config.json in it: correct --model")
    return _fetched_json(path)


def _fetched_json(path: Path) -> dict[str, Any]:
    refuse_pointer(path)
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error}: damaged, fetch it again") from None


def refuse_pointer(path: Path) -> None:
    """Raise UserError if only Git LFS's pointer was fetched in place of this file."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path}: only a pointer of Git LFS ({path.stat().st_size} bytes), the file itself was not fetched: "
                f"run `git lfs pull` in {path.parent}, or download the folder again"
            )


def refuse_pointers(folder: Path) -> None:
    """Raise UserError if any file of a model folder is a pointer of Git LFS."""
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".json", ".model"):
            refuse_pointer(path)


def stored_quantization(fields: Mapping[str, Any]) -> tuple[str, int | None] | None:
    """The method by which a base is quantised on the disk, and its bits if that is bitsandbytes; None if it is not.

    Args:
        fields: of its config.json.
    """
    stored = fields.get("quantization_config")
    if not isinstance(stored, dict):
        return None
    bits = 8 if stored.get("load_in_8bit") else 4 if stored.get("load_in_4bit") else None
    method = str(stored.get("quant_method") or ("bitsandbytes" if bits else "unknown"))
    return method, bits if method == "bitsandbytes" else None


def weight_files(folder: Path) -> dict[str, set[str]] | None:
    """Names of a folder's safetensors files, each with the tensors that the index promises; None if it has .bin alone.

    Raises:
        UserError: no weights, or a damaged index.
    """
    indexed: dict[str, set[str]] = {}
    if (folder / INDEX).is_file():
        named = _fetched_json(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UserError(f"{folder / INDEX}: names no weights: fetch the folder again")
        for tensor, name in named.items():
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
                raise UserError(
                    f"{folder / INDEX}: names {reprlib.repr(name)}, which is no safetensors file of this folder: fetch "
                    "the folder again"
                )
            indexed.setdefault(name, set()).add(tensor)
    elif (folder / WHOLE).is_file():
        indexed[WHOLE] = set()
    elif pickled := sorted(folder.glob("*.bin")):
        refuse_pointer(pickled[0])
        return None
    else:
        raise UserError(f"{folder}: holds no weights, neither {WHOLE} nor {INDEX}: fetch it again")
    return indexed


def read_headers(folder: Path) -> dict[str, Header] | None:
    """The header of each safetensors file of a folder, checked against the files' sizes; None if it has .bin alone.

    Raises:
        UserError: files that are absent, damaged or pointers; names the first.
    """
    indexed = weight_files(folder)
    if indexed is None:
        return None
    faults = [fault for name, tensors in sorted(indexed.items()) if (fault := fault_of(folder / name, tensors))]
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UserError(f"{faults[0]}{more}: fetch the folder again")
    return {name: read_header(folder / name)[0] for name in sorted(indexed)}


def read_header(path: Path) -> tuple[Header, int]:
    """The dtype, shape and offsets of each tensor of a whole safetensors file, and where its data begin."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: Header = parse_json(file.read(length).decode())
    header.pop("__metadata__", None)
    return header, 8 + length


def fault_of(path: Path, tensors: set[str]) -> str | None:
    """Say what is wrong with a safetensors file that should hold these tensors: its header must fit its size."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return f"{path}: the index names it, but it is not there"
    try:
        refuse_pointer(path)
        with safe_open(path, framework="np") as file:
            absent = sorted(tensors - set(file.keys()))
    except UserError as error:
        return str(error)
    except SafetensorError as error:
        return f"{path}: truncated or damaged, {path.stat().st_size:,} bytes ({error})"
    if absent:
        return f"{path}: lacks {len(absent)} tensors that the index promises, for example {absent[0]}"
    return None


def hash_base(folder: Path) -> str:
    """A hash of a base that takes no time: its configuration, and of each tensor name, type, shape and some bytes.

    It does not depend on how the tensors are spread over files. Bytes are read at the start and in the middle of each
    tensor, and of a .bin file at 64 places, with its size.

    Raises:
        UserError: a configuration or weights that cannot be read.
    """
    fields = {name: value for name, value in read_config(folder).items() if name not in NOT_OF_THE_FUNCTION}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    headers = read_headers(folder)
    if headers is None:
        for path in sorted(folder.glob("*.bin")):
            size = path.stat().st_size
            digest.update(f"\n{path.name} {size}".encode())
            with open(path, "rb") as file:
                for place in range(64):
                    file.seek(size * place // 64)
                    digest.update(file.read(SAMPLE_BYTES))
        return digest.hexdigest()
    tensors = []
    for name in headers:
        header, start = read_header(folder / name)
        with open(folder / name, "rb") as file:
            for tensor, told in header.items():
                first, last = told["data_offsets"]
                sampled = b""
                for place in (first, (first + last) // 2):
                    file.seek(start + place)
                    sampled += file.read(min(SAMPLE_BYTES, last - place))
                tensors.append((tensor, told["dtype"], told["shape"], sampled.hex()))
    digest.update(json.dumps(sorted(tensors)).encode())
    return digest.hexdigest()
