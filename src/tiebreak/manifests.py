"""Manifests: the JSON files that say what a folder holds, each a pydantic model with a version."""

import json
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.structured import read_json


class Section(BaseModel):
    """A part of a manifest. Fields that a newer version added are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Manifest(Section):
    """A whole manifest. Every change of meaning raises the version; older versions stay readable."""

    newest: ClassVar[int] = 1
    """The version that this package writes."""

    version: int = Field(default=1, ge=1)
    """Of the format of this file; files without one are of version 1."""


AnyManifest = TypeVar("AnyManifest", bound=Manifest)


def read_manifest(path: Path, kind: type[AnyManifest]) -> AnyManifest:
    """Read a manifest file as its type.

    Raises:
        FileNotFoundError: no such file.
        UserError: not JSON, not a manifest of this type, or of a newer version; names the file and the first wrong
            field.
    """
    content = read_json(path)
    try:
        manifest = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        fault = f"{where[:200]}: {first['msg'][:400]}"
        raise UserError(f"{path}: damaged, or of another version ({fault})") from None
    if manifest.version > kind.newest:
        raise UserError(
            f"{path}: of version {str(manifest.version)[:20]}, and this tiebreak reads up to {kind.newest}: update "
            "tiebreak, or make the folder again"
        )
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest whole or not at all; fields without a value are left out."""
    write_atomically(path, as_json(manifest, exclude_none=True))


def as_json(model: BaseModel, exclude_none: bool = False) -> str:
    """A model as indented JSON, a line feed at its end."""
    try:
        return model.model_dump_json(indent=2, exclude_none=exclude_none) + "\n"
    except ValueError:  # names of files that are not UTF-8, which pydantic's own writer refuses
        return json.dumps(model.model_dump(mode="python", exclude_none=exclude_none), indent=2, default=str) + "\n"
