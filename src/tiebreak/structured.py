"""YAML and JSON as users write them: read strictly, every fault told with its file and line.

The libraries let much pass: a key that stands twice counts once, `NaN` is a number, a date becomes an object that no
setting takes, and a value of the right form may end in any of Python's errors.
"""

import json
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tiebreak.errors import UserError

MAX_KEYS = 10_000
"""Of one mapping; merged ones (`<<: *name`) may double with every line."""
MAX_BITS = 1024
"""Of an integer: what a float can hold."""
FAULTS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file may raise: PyYAML's own constructors raise all but the first, as for `!!int x` and `0x_`."""


class _Loader(yaml.SafeLoader):
    """Plain values only: a date stays text, as no setting is one; and no key stands twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise ValueError(f"{key.value!r} stands twice, in line {first} and in line {line}: put them together")
            lines[key.tag, key.value] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_KEYS:
            raise ValueError(
                f"line {node.start_mark.line + 1}: more than {MAX_KEYS:,} keys are merged into one mapping"
            )

    def construct_yaml_int(self, node: Any) -> int:
        number: int = super().construct_yaml_int(node)
        if number.bit_length() > MAX_BITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of more than {MAX_BITS} bits")
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        ValueError: not readable, or a key stands twice; says in which line.
    """
    try:
        return yaml.load(text, _Loader)
    except FAULTS as error:
        raise ValueError(_say(error)) from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        FileNotFoundError: no such file.
        UserError: not readable, or a key stands twice; names the file and the line.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError among them
        raise UserError(f"{path}: not readable as YAML ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        UserError: not readable, not an object, a key stands twice, or a number is none; names the file.
    """
    try:
        content = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise UserError(f"{path}: not readable as JSON ({_say(error)})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not a JSON object {{...}}")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{doubled!r} stands twice in one object: put them together")
    return content


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _say(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split()) or type(error).__name__
