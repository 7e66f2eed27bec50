"""YAML and JSON as users write them: read strictly and within bounds, every fault told with its file and line.

The libraries let much pass: a key that stands twice counts once, `NaN` is a number, a date becomes an object that no
setting takes, and a value of the right form may end in any of Python's errors.
"""

import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tiebreak.errors import UserError

MAX_KEYS = 10_000
"""Of one mapping; merged ones (`<<: *name`) may double with every line."""
MAX_NODES = 30_000
"""Values and keys of a YAML file, each of which takes PyYAML a tenth of a millisecond."""
MAX_BITS = 1024
"""Of an integer: what a float can hold."""
MAX_YAML, MAX_JSON = 1 << 20, 128 << 20
"""Bytes of a file: a recipe is written by hand; a manifest may name many rows."""
MAX_SHOWN = 400
"""Characters of a library's words, or of a name, that a message repeats."""
FAULTS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading a file may raise: PyYAML's own constructors raise all but the first, as for `!!int x` and `0x_`."""


class _Loader(yaml.SafeLoader):
    """Plain values only: a date stays text, as no setting is one; and no key stands twice."""

    _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise ValueError(f"line {line}: more than {MAX_NODES:,} keys and values: is it another file?")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if first := lines.get((key.tag, key.value)):
                raise ValueError(
                    f"{key.value[:MAX_SHOWN]!r} stands twice, in line {first} and in line {line}: put them together"
                )
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


def read_bytes(path: Path, most: int, kind: str = "file of this kind") -> bytes:
    """The bytes of a file that is to be small.

    Args:
        path: of the file.
        most: bytes that it may have.
        kind: what it is to be, for the message.

    Raises:
        FileNotFoundError: no such file.
        UserError: it is none, cannot be opened, or is larger.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a file; put the {kind} itself there")
        if status.st_size > most:
            raise UserError(f"{path}: {status.st_size:,} bytes, and a {kind} has at most {most:,}: is it another file?")
        with open(path, "rb") as file:
            return file.read(most)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a null byte in the name
        raise UserError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from None


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        FileNotFoundError: no such file.
        UserError: not readable, too large, or a key stands twice; names the file and the line.
    """
    try:
        return parse_yaml(read_bytes(path, MAX_YAML, "YAML file of settings").decode("utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError among them
        raise UserError(f"{path}: not readable as YAML ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        UserError: not readable, too large, not an object, a key stands twice, or a number is none; names the file.
    """
    try:
        content = parse_json(read_bytes(path, MAX_JSON, "JSON file"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: not readable as JSON with fields: it holds {type(content).__name__}, not an object {{...}}"
        )
    return content


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text.

    Raises:
        ValueError: not readable, a key stands twice, or a number is none; says where.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        return json.loads(decoded, object_pairs_hook=_once, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise ValueError(_say(error)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        doubled, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{doubled[:MAX_SHOWN]!r} stands twice in one object: put them together")
    return content


def _finite(word: str) -> float:
    if math.isinf(number := float(word)):
        raise ValueError(f"{word[:20]} is beyond what a number can be")
    return number


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _say(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    told = " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= MAX_SHOWN else f"{told[:MAX_SHOWN]}..."
