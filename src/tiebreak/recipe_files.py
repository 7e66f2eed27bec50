"""YAML files of settings: found by name, read, changed field by field, and validated with all problems at once."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tiebreak.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)


def find_recipe(name_or_path: str, folder: Path, what: str) -> Path:
    """The YAML file of a name that ships in a folder, or of a path.

    Raises:
        UserError: no such name; suggests those that are spelt alike, or lists all.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    path = folder / f"{name_or_path}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        near = difflib.get_close_matches(name_or_path, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"shipped are {', '.join(names)}, or give a .yaml file"
        raise UserError(f"no {what} {name_or_path!r}; {hint}")
    return path


def read_recipe_file(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        UserError: no such file, or not a mapping.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such recipe file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping with the sections {', '.join(kind.model_fields)}")
    return content


def validate(kind: type[Kind], content: dict[str, Any], name: str) -> Kind:
    """The fields as their type, or all their problems at once.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {_plain(e)}" for e in error.errors()]
        raise UserError(f"{name}: {len(lines)} problem(s) in the recipe:\n" + "\n".join(lines)) from None


def apply_change(content: dict[str, Any], change: str) -> None:
    """Set one field of a recipe's content, as `--set key.path=value` says.

    Raises:
        UserError: not of that form, or a section where a value stands.
    """
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {change}: write it as key.path=value, for example train.lr=1e-4")
    *parents, last = key.strip().split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UserError(f"--set {change}: {parent} is a value, not a section")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {change}: the value is not readable") from None


def _plain(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "missing":
        return "missing"
    given = "" if isinstance(error["input"], dict) else f" (it is {error['input']!r})"
    return error["msg"].removeprefix("Value error, ") + given
