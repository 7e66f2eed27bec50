"""The reference pages, made from the code as the site is built: recipes, commands, Python, files, exit codes."""

import argparse
import ast
import html
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import annotated_types
from numpy.typing import ArrayLike
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

import tiebreak
from tiebreak.config import Recipe, load_recipe, shipped
from tiebreak.manifests import Manifest
from tiebreak.options import FORMATS, build_parser
from tiebreak.overview import GROUPS
from tiebreak.pipeline.ablation import LADDERS, Ablation
from tiebreak.pipeline.recipe import PIPELINES, Pipeline
from tiebreak.plurals import plain_number
from tiebreak.tables.containers import SUFFIXES
from tiebreak.tables.layouts import LAYOUTS
from tiebreak.verdict import Text

SRC = Path(tiebreak.__file__).parent
WORDS_OF = {
    annotated_types.Ge: "from",
    annotated_types.Gt: "above",
    annotated_types.Le: "up to",
    annotated_types.Lt: "below",
}
UNBOUNDED = 1 << 31
"""A bound from here on only keeps a number within 32 bits."""
MADE = "<!-- Made from the code by docs/hooks/reference.py. -->\n\n"


def cell(text: str) -> str:
    """Text for a cell of a table, in one line."""
    return " ".join(text.split()).replace("|", "\\|") or "–"


def code(text: object) -> str:
    """Text as code in a cell, also where it holds a bar."""
    return f"<code>{html.escape(str(text), quote=False).replace('|', '&#124;')}</code>"


def docs_of(kind: type | Callable[..., Any]) -> str:
    """The docstring of a class's own; none where it is inherited."""
    return inspect.getdoc(kind) or "" if kind.__doc__ else ""


# Recipes


def recipe_page() -> str:
    """Every field of a recipe, a pipeline and an ablation: type, bounds, default and meaning."""
    lines = [
        "# The recipe's fields\n",
        "A recipe is a YAML file with these sections. `--set section.field=value` changes a field for one run; unknown "
        "fields and values out of bounds are told before anything is read, all at once. `tiebreak recipes NAME` prints "
        "a shipped recipe with its defaults. [Recipes](../recipes.md) is the guide.\n",
        "## Shipped recipes\n",
    ]
    for title, folder in (("Recipe", None), ("Pipeline", PIPELINES), ("Ablation", LADDERS)):
        lines += [f"| {title} | what it is |", "|---|---|"]
        for name in shipped(folder) if folder else shipped():
            lines.append(f"| `{name}` | {cell(_description(name, folder))} |")
        lines.append("")
    for title, kind in (("a recipe", Recipe), ("a pipeline", Pipeline), ("an ablation", Ablation)):
        lines += [f"## Fields of {title}\n", docs_of(kind), "", *_fields(kind, "")]
    return MADE + "\n".join(lines)


def _description(name: str, folder: Path | None) -> str:
    if folder is None:
        return load_recipe(name).description
    from tiebreak.structured import read_yaml

    return str(read_yaml(folder / f"{name}.yaml").get("description", ""))


def _fields(kind: type[BaseModel], prefix: str) -> Iterator[str]:
    """The table of a section's plain fields, then each section below it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    below = {name: hints[name] for name in kind.model_fields if _is_section(hints[name])}
    if below.keys() != kind.model_fields.keys():
        yield from ("| field | takes | default | |", "|---|---|---|---|")
    for name, field in kind.model_fields.items():
        if name not in below:
            default = "needed" if field.is_required() else code(_plain(field.get_default(call_default_factory=True)))
            anchor = f'<span id="{prefix}{name}">{code(prefix + name)}</span>'
            takes = takes_of(hints[name], field)
            yield f"| {anchor} | {cell(takes)} | {default} | {cell(field.description or '')} |"
    yield ""
    for name, section in below.items():
        yield from (f"### `{prefix}{name}`\n", docs_of(section), "", *_fields(section, f"{prefix}{name}."))


def _is_section(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _plain(value: object) -> object:
    return "none" if value is None else "empty" if value in ("", [], {}) else value


def takes_of(hint: Any, field: FieldInfo) -> str:
    """What a field takes; bounds stand in its type or beside its default."""
    return describe(hint, () if typing.get_origin(hint) is typing.Annotated else field.metadata)


def describe(hint: Any, metadata: typing.Sequence[object] = ()) -> str:
    """A type as a reader writes its values, with its bounds."""
    if typing.get_origin(hint) is typing.Annotated:
        base, *more = typing.get_args(hint)
        return describe(base, [*more, *metadata])
    arguments = typing.get_args(hint)
    bounds = _bounds(metadata)
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(code(value) for value in arguments) + bounds
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join("none" if way is type(None) else describe(way) for way in arguments) + bounds
    if typing.get_origin(hint) in (list, tuple):
        inner = " and ".join(describe(way) for way in arguments if way is not Ellipsis)
        return f"list of {inner}{bounds}"
    if typing.get_origin(hint) is dict:
        return f"mapping of names to {describe(arguments[1])}"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return names.get(hint, f"`{getattr(hint, '__name__', hint)}`") + bounds


def _bounds(metadata: typing.Sequence[object]) -> str:
    """Bounds as `from 1 to 10 (why)`."""
    parts = []
    for item in (one for given in metadata for one in (given.metadata if isinstance(given, FieldInfo) else [given])):
        if isinstance(item, AfterValidator):
            known = inspect.getclosurevars(item.func).nonlocals
            if {"least", "most", "why"} <= known.keys():
                return f", {plain_number(known['least'])} to {plain_number(known['most'])}: {known['why']}"
        for kind, words in WORDS_OF.items():
            if isinstance(item, kind) and getattr(item, kind.__name__.lower()) < UNBOUNDED:
                parts.append(f"{words} {plain_number(getattr(item, kind.__name__.lower()))}")
    return f", {' '.join(parts)}" if parts else ""


# Commands


def commands_page() -> str:
    """Every command with its options, by group."""
    (subparsers,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    lines = ["# Commands\n", "`tiebreak COMMAND --help` shows the same. `src/train.py`, `src/distill.py` and "]
    lines[-1] += "`src/predict.py` are `tiebreak train`, `distill` and `predict` for launchers such as `torchrun`.\n"
    for group, commands in GROUPS.items():
        lines += [f"## {group[0].upper()}{group[1:]}\n"]
        for name in commands:
            lines += [f"### `tiebreak {name}`\n", *_options(subparsers.choices[name])]
    return MADE + "\n".join(lines)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = argparse.HelpFormatter(parser.prog)
    yield f"{parser.description}.\n"
    if parser.epilog:
        yield f"{parser.epilog}\n"
    yield from ("| option | takes | |", "|---|---|---|")
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        name = ", ".join(code(word) for word in action.option_strings) or code(action.metavar or action.dest)
        takes = ", ".join(code(way) for way in action.choices) if action.choices else ""
        if not takes and action.nargs != 0:
            takes = code(f"{action.metavar or action.dest.upper()}{' ...' * (action.nargs in ('+', '*'))}")
            known = inspect.getclosurevars(action.type).nonlocals if inspect.isfunction(action.type) else {}
            if {"least", "most"} <= known.keys():
                start = "above " if known.get("above") else ""
                takes += f" {start}{plain_number(known['least'])} to {plain_number(known['most'])}"
        text = formatter._expand_help(action) if action.help else ""
        needed = ", needed" * (action.required and bool(action.option_strings))
        yield f"| {name}{needed} | {takes} | {cell(html.escape(text, quote=False))} |"
    yield ""


# Python


ALIASES = {str(ArrayLike | None): "ArrayLike | None", str(ArrayLike): "ArrayLike", str(Text): "Text"}
"""Types that `inspect` writes out, and their names."""


def python_page() -> str:
    """Every public name of the package: signature and docstring."""
    lines = ["# Python\n", "Everything that `import tiebreak` offers. [Python](../python.md) is the guide.\n"]
    lines += [f"`Text` is `{str(Text).replace('collections.abc.', '')}`; `ArrayLike` what numpy makes an array of.\n"]
    for name in tiebreak.__all__:
        thing = getattr(tiebreak, name)
        lines += [f"## `tiebreak.{name}`\n", *_entry(name, thing)]
        for method, value in vars(thing).items() if inspect.isclass(thing) else ():
            value = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            value = value.fget if isinstance(value, property) else value
            if not method.startswith("_") and inspect.isfunction(value):
                lines += [f"### `{name}.{method}`\n", *_entry(method, value)]
    return MADE + "\n".join(lines)


def _entry(name: str, thing: Any) -> Iterator[str]:
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        signature = str(inspect.signature(thing)).replace("typing.", "")
        for long, short in ALIASES.items():
            signature = signature.replace(long.replace("typing.", ""), short)
        signature = re.sub(r"tiebreak\.[\w.]+\.(\w+)|(?:pathlib|collections\.abc|typing|numpy)\.", r"\1", signature)
        signature = (
            re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)
            .replace("(self, ", "(")
            .replace("(cls, ", "(")
            .replace("(self)", "()")
        )
        parts = _split(signature)
        wide = len(name + signature) > 90 and len(parts) > 1
        shown = (
            "(\n    " + ",\n    ".join(parts) + ",\n)" + signature[signature.rindex(")") + 1 :] if wide else signature
        )
        yield f"```python\n{name}{shown}\n```\n"
    yield from _prose(docs_of(thing))


def _split(signature: str) -> list[str]:
    """The arguments in a signature, cut at commas that stand in no bracket."""
    inside, parts, depth = signature[1 : signature.rindex(")")], [""], 0
    for letter in inside:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _prose(docstring: str) -> Iterator[str]:
    """A docstring in Google's style as Markdown."""
    blocks = re.split(r"^(Args|Attributes|Returns|Raises|Example|Examples|Yields):\n", docstring, flags=re.M)
    yield f"{blocks[0].strip()}\n"
    for title, text in zip(blocks[1::2], blocks[2::2], strict=True):
        text = inspect.cleandoc(f"\n{text}")
        if title.startswith("Example"):
            shown = re.sub(r"  # doctest: \+\w+", "", text)
            yield f"```pycon\n{shown}\n```\n"
        elif title in ("Args", "Attributes", "Raises"):
            entries = re.split(r"^(?=\S)", text, flags=re.M)
            items = [" ".join(entry.split()).partition(": ") for entry in entries if entry.strip()]
            yield f"**{'Arguments' if title == 'Args' else title}**\n"
            yield "\n".join(f"- `{name}`: {what}" for name, _, what in items) + "\n"
        else:
            yield f"**{title}** {' '.join(text.split())}\n"


# Files and exit codes


def files_page() -> str:
    """Manifests field by field, layouts and formats of tables."""
    lines = [
        "# Files\n",
        "Manifests are JSON files that say what a folder holds. Fields that a newer version added are ignored; every "
        "change of meaning raises `version`, and older versions stay readable.\n",
    ]
    for kind in sorted(_manifests(), key=lambda kind: kind.__name__):
        first, _, rest = docs_of(kind).partition("\n")
        lines += [f"## {kind.__name__}\n", f"{first}\n{rest}\n", "| field | takes | |", "|---|---|---|"]
        hints = typing.get_type_hints(kind, include_extras=True)
        for name, field in kind.model_fields.items():
            takes = takes_of(hints[name], field)
            lines.append(f"| {code(name)} | {cell(takes)} | {cell(field.description or '')} |")
        lines.append("")
    lines += [
        "## Tables\n",
        f"Files end in {', '.join(map(code, SUFFIXES))}.\n",
        "| layout | of | columns |",
        "|---|---|---|",
    ]
    lines += [f"| {one.name} | {cell(one.of)} | {', '.join(map(code, sorted(one.needs)))} |" for one in LAYOUTS]
    lines += [
        "",
        f"Predictions are written as {', '.join(map(code, FORMATS))}; [Tables](../tables.md) has the guide.\n",
    ]
    return MADE + "\n".join(lines)


def _manifests() -> list[type[Manifest]]:
    for path in SRC.rglob("*.py"):
        if "(Manifest)" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(("tiebreak", *path.relative_to(SRC).with_suffix("").parts)))
    return [kind for kind in Manifest.__subclasses__() if kind.__module__.startswith("tiebreak.")]


def exit_codes_page() -> str:
    """The exit codes, from the constants of the code and their docstrings."""
    lines = ["# Exit codes\n", "| code | what it means |", "|---|---|", "| 0 | done |"]
    lines.append(f"| 2 | {cell(docs_of(tiebreak.UserError))} [All messages](../troubleshooting.md) |")
    for file, names in (("preemption.py", ("STOPPED", "INTERRUPTED")), ("cluster/watchdog.py", ("STALLED",))):
        for name, value, text in _constants(SRC / file):
            if name in names:
                lines.append(f"| {value} | {cell(text)} |")
    lines += ["| anything else | a defect of tiebreak: report it with the output of `tiebreak env` |", ""]
    lines += [
        "A batch file requeues its job after 75 and after a lost rank or node, and not after 2 ([Slurm](../slurm.md))."
    ]
    return MADE + "\n".join(lines)


def _constants(path: Path) -> Iterator[tuple[str, object, str]]:
    """Constants of a file and the docstring below each."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, after in pairwise(body):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(text, ast.Constant):
            yield ast.unparse(node.targets[0]), node.value.value, str(text.value)


PAGES = {
    "reference/recipe.md": recipe_page,
    "reference/commands.md": commands_page,
    "reference/python.md": python_page,
    "reference/files.md": files_page,
    "reference/exit-codes.md": exit_codes_page,
}
"""What makes each page."""
