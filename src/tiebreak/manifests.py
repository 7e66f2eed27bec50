"""Manifests: the JSON files that say what a folder holds, each a pydantic model with a version."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiebreak.errors import UserError
from tiebreak.files import write_atomically


class Section(BaseModel):
    """A part of a manifest. Fields that a newer version added are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Manifest(Section):
    """A whole manifest. Every change of meaning raises the version; older versions stay readable."""

    version: int = Field(default=1, ge=1)
    """Of the format of this file; files without one are of version 1."""


AnyManifest = TypeVar("AnyManifest", bound=Manifest)


def read_manifest(path: Path, kind: type[AnyManifest]) -> AnyManifest:
    """Read a manifest file as its type.

    Raises:
        FileNotFoundError: no such file.
        UserError: not JSON, or not a manifest of this type; names the file and the first wrong field.
    """
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{path}: damaged, or of another version ({where}: {first['msg']})") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest whole or not at all; fields without a value are left out."""
    try:
        content = manifest.model_dump_json(indent=2, exclude_none=True)
    except ValueError:  # names of files that are not UTF-8, which pydantic's own writer refuses
        content = json.dumps(manifest.model_dump(exclude_none=True), indent=2)
    write_atomically(path, content + "\n")
