"""YAML files of settings: found by name, read, changed field by field, and validated with all problems at once."""

import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tiebreak.errors import UserError, did_you_mean
from tiebreak.plurals import plural
from tiebreak.structured import parse_yaml, read_yaml

RECIPES = Path(__file__).parent / "recipes"
FOLDERS = {"recipe": RECIPES, "pipeline": RECIPES / "pipelines", "ladder": RECIPES / "ladders"}
"""Where the files of each kind are."""
RUN_BY = {
    "recipe": "tiebreak train --recipe {}",
    "pipeline": "tiebreak pipeline --recipe {} --out DIR",
    "ladder": "tiebreak ladder {} --out DIR",
}
"""What runs a file of each kind."""

DEEPEST, SHOWN_FAULTS = 5, 20
SHOWN = 200
"""Characters of a value that a message repeats at most."""
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, SHOWN, SHOWN

Kind = TypeVar("Kind", bound=BaseModel)


def find_recipe(name_or_path: str, kind: str) -> Path:
    """The YAML file of a name that ships with the package, or of a path.

    Args:
        name_or_path: such as `gemma2-9b` or `mine.yaml`.
        kind: `recipe`, `pipeline` or `ladder`.

    Raises:
        UserError: no such name; says whether it is one of another kind, suggests those that are spelt alike, or lists
            all.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    names = sorted(file.stem for file in FOLDERS[kind].glob("*.yaml"))
    if name_or_path in names:  # and no path: `../x` is none of them
        return FOLDERS[kind] / f"{name_or_path}.yaml"
    others = [
        other for other, folder in FOLDERS.items() if f"{name_or_path}.yaml" in {p.name for p in folder.iterdir()}
    ]
    hints = [f"it is a {other}: {RUN_BY[other].format(name_or_path)}" for other in others]
    if hint := did_you_mean(name_or_path, names):
        hints.append(hint)
    known = f"shipped are {', '.join(names)}, or give a .yaml file"
    raise UserError(f"no {kind} {_SHORT.repr(name_or_path)}; {'; '.join(hints) or known}")


def read_recipe_file(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    """The fields in a YAML file.

    Raises:
        UserError: no such file, not readable, a key that stands twice, or not a mapping.
    """
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe file") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
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
        faults = error.errors()
        lines = [f"  {_place(fault)}: {_plain(fault, kind)}" for fault in faults[:SHOWN_FAULTS]]
        lines += [f"  ... and {len(faults) - SHOWN_FAULTS:,} more"] * (len(faults) > SHOWN_FAULTS)
        raise UserError(f"{name}: {plural(len(faults), 'problem')} in the recipe:\n" + "\n".join(lines)) from None


def apply_change(content: dict[str, Any], change: str) -> None:
    """Set one field of a recipe's content, as `--set key.path=value` says.

    Raises:
        UserError: not of that form, or a section where a value stands.
    """
    key, equals, value = change.partition("=")
    *parents, last = key.strip().split(".")
    change = change if len(change) <= SHOWN else f"{change[:SHOWN]}..."
    if not equals or not all((*parents, last)) or len(parents) > DEEPEST:
        raise UserError(f"--set {change}: write it as key.path=value, for example train.lr=1e-4")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UserError(f"--set {change}: {parent} is a value, not a section")
    try:
        section[last] = parse_yaml(value)
    except ValueError as error:
        raise UserError(f"--set {change}: the value is not readable ({error})") from None


def _place(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"])) or "recipe"
    return place if place.isprintable() and len(place) <= SHOWN else _SHORT.repr(place)


def _plain(error: ErrorDetails, kind: type[BaseModel]) -> str:
    if error["type"] == "extra_forbidden":
        *parents, word = map(str, error["loc"])
        hint = _fields_like(word, parents, kind) if len(word) <= SHOWN else ""
        return f"no such field; {hint}" if hint else "no such field"
    if error["type"] == "missing":
        return "missing"
    given = "" if isinstance(error["input"], dict) else f" (it is {_SHORT.repr(error['input'])})"
    return error["msg"].removeprefix("Value error, ") + given


def _fields_like(word: str, parents: Sequence[str], kind: type[BaseModel]) -> str:
    """A question with the fields of other sections that have this name, else those here that are spelt like it."""
    if elsewhere := [path for path in _paths(kind) if path.endswith(f".{word}")]:
        return f"did you mean {' or '.join(elsewhere)}?"
    section: type[BaseModel] | None = kind
    for parent in parents:
        field = section.model_fields.get(parent) if section else None
        section = _section(field.annotation) if field else section  # else a key of a mapping, or a number in a list
    return did_you_mean(word, section.model_fields if section else (), "".join(f"{parent}." for parent in parents))


def _section(annotation: Any) -> type[BaseModel] | None:
    """The class of fields in a field's type, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)


def _paths(kind: type[BaseModel]) -> Iterator[str]:
    """The fields of a kind and of its sections, as `--set` names them."""
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        yield from (f"{name}.{path}" for path in _paths(section)) if section else [name]
