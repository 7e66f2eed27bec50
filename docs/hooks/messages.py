"""The messages of every `UserError` in the code, by ast: what docs/troubleshooting.md lists, each under an anchor.

A message belongs to the group of its file. A file without a group, or a message that has no words of its own and no
note here, is an error of the build: so a new one is looked at before it is on the page.
"""

import ast
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "tiebreak"
TEXTS, NAMED = (ast.JoinedStr, ast.BinOp, ast.Constant), (ast.List, ast.Name)
MADE_OF_TEXTS = (*TEXTS, ast.List, ast.IfExp)
MARK = "<!-- messages -->"
SLUG_WORDS = 9

GROUPS = {
    "Commands, options and recipes": (
        "options.py parsers.py cli.py uses.py config.py recipe_files.py structured.py outputs.py compatibility.py "
        "launch_files.py files.py",
        "A word on the command line or in a YAML file is wrong. `tiebreak COMMAND --help` and "
        "[the commands](reference/commands.md) list options; [the recipe's fields](reference/recipe.md) have types "
        "and bounds. What does not go together stands in [Engines](engines.md#what-does-not-go-together).",
    ),
    "Tables": (
        "tables/ data/augment.py sample/ preflight/tables.py preflight/early.py",
        "The file, or a row of it, cannot be read. `tiebreak check FILE` lists all problems of a table at once; "
        "[Tables](tables.md) shows what is read. `--on-bad-row=skip` leaves bad rows out.",
    ),
    "Splits and folds": (
        "data/folds.py data/split.py data/prepare.py evaluation/holdout.py evaluation/split_tables.py",
        "The rows cannot be cut as asked, often as the table is small. [Out-of-fold](concepts/out-of-fold.md) says how "
        "folds are made, [Unseen models](unseen.md) what `--split` does.",
    ),
    "Model folders and bases": (
        "attention/ models/ pretrained/ preflight/model_files.py data/fitting.py manifests.py",
        "A folder is not whole, not the one that was saved, or of a kind that is not supported. Copy or fetch it again "
        "rather than mend it by hand. [Files from elsewhere](trust.md) says what is checked, [Recipes](recipes.md) "
        "which families can be trained, [Pretrained weights](weights.md) what comes without a hub.",
    ),
    "Training and going on": (
        "training/ engines/ api.py",
        "Look into `log.jsonl` and at the newest folder in `checkpoints/`. `--resume auto` goes on with the same "
        "settings; another run needs another `--out`. See [Engines and checkpoints](engines.md) and, for teachers, "
        "[Distillation](distillation.md).",
    ),
    "Ranks, nodes and GPUs": (
        "cluster/ preflight/",
        "The launcher, the network or the driver is not as it should be. `srun tiebreak preflight ...` asks all nodes "
        "at once; see [Preflight](preflight.md) and [Slurm](slurm.md).",
    ),
    "Memory, disk and the process": (
        "storage.py terminal.py process.py",
        "The machine lacks something. What is written appears whole or not at all, so once there is room the same "
        "command goes on. `tiebreak preflight` estimates memory and disk beforehand ([Preflight](preflight.md)).",
    ),
    "Predictions": (
        "prediction/ data/predictions.py data/prediction_manifest.py",
        "Parts or tables of a prediction are absent, damaged, or belong to other rows. Finished parts are kept: run "
        "the same command again, or choose another `--out`. See [Prediction](prediction.md).",
    ),
    "Measuring and reports": (
        "evaluation/ report/",
        "Labels and predictions do not fit together, or there are too few rows. See [The report](report.md).",
    ),
    "Comparing, deciding, ranking and suites": (
        "decisions/ suites/ benching.py choosing.py",
        "See [Comparing](compare.md), [Deciding](decide.md), [Leaderboards](leaderboard.md) and "
        "[Public suites](bench.md).",
    ),
    "The whole chain": (
        "pipeline/",
        "Done stages are kept; the same command goes on where it stopped. See [The whole chain](pipeline.md).",
    ),
    "Export": (
        "export/",
        "Not every judge fits every form; [Export](export.md) has a table. A refused export writes nothing.",
    ),
}
"""A group's files (a folder ends in /; the longest name that fits decides) and what to do about its messages."""

NOTES = {
    "tables/table.py": "What is wrong with one cell of the table, with its column.",
    "tables/first_bytes.py": "The file is of another kind, by its first bytes: what to save instead.",
    "preflight/checks.py": "The file with an adapter's weights is absent or damaged; copy the folder again.",
    "storage.py": "What the operating system said of a file.",
    "engines/hand_out.py": "What rank 0 met while it read the base, said on every rank: one of the messages of models.",
}
"""By file, what its messages say that have no words of their own."""


@dataclass(frozen=True)
class Message:
    """A message of a `UserError`.

    Attributes:
        file: below src/tiebreak.
        template: its text; what is put in at run time stands in braces.
        slug: its anchor, made of its first words, so it stays when lines move.
    """

    file: str
    template: str
    slug: str

    @property
    def words(self) -> list[str]:
        """The words of its own."""
        return _words(self.template)

    @property
    def group(self) -> str:
        """The group of its file.

        Raises:
            LookupError: no group names the file.
        """
        names = {name: group for group, (files, _) in GROUPS.items() for name in files.split()}
        fitting = [name for name in names if self.file == name or (name.endswith("/") and self.file.startswith(name))]
        if not fitting:
            raise LookupError(f"docs/hooks/messages.py: no group of GROUPS names {self.file}")
        return names[max(fitting, key=len)]


def collect(root: Path = SRC, notes: Mapping[str, str] = NOTES) -> list[Message]:
    """Every message of a `UserError`, or of a class derived from it, in the order of files and lines.

    Args:
        root: of the package.
        notes: what messages without words of their own say.

    Raises:
        LookupError: a message has no words of its own and no note.
    """
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(root.rglob("*.py"))}
    trees = {file: ast.parse(text) for file, text in texts.items() if "UserError" in text}
    helpers = [node for tree in trees.values() for node in tree.body if isinstance(node, ast.FunctionDef)]
    functions = {node.name: node for node in helpers if node.name != "plural"}
    found: list[Message] = []
    slugs: set[str] = set()
    for file, tree in trees.items():
        nodes = list(ast.walk(tree))
        made = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        for call in _errors(nodes):
            around = [node for node in made if node.lineno <= call.lineno <= (node.end_lineno or 0)]
            template = _text(call.args[0], max(around, key=lambda node: node.lineno, default=tree), functions)
            words = _words(template)
            if not words and file not in notes:
                raise LookupError(
                    f"docs/hooks/messages.py: NOTES lacks {file} {template!r}, which has no words of its own"
                )
            slug = "-".join(words[:SLUG_WORDS]).lower().replace("'", "").strip("-") or Path(file).stem
            while slug in slugs:
                slug += f"-{Path(file).stem}"
            slugs.add(slug)
            found.append(Message(file, template, slug))
    return found


def _words(template: str) -> list[str]:
    return re.findall(r"[\w'-]+", re.sub(r"\{.*?\}", " ", template))


def _errors(nodes: list[ast.AST]) -> list[ast.Call]:
    """Where a file makes a `UserError`, or the one that a derived class is, by line."""
    kinds = [node for node in nodes if isinstance(node, ast.ClassDef)]
    derived = [kind for kind in kinds if any(getattr(base, "id", "") == "UserError" for base in kind.bases)]
    calls = [(node, "UserError") for node in nodes]
    calls += [(node, "super().__init__") for kind in derived for node in ast.walk(kind)]
    made = [node for node, name in calls if isinstance(node, ast.Call) and node.args and _called(node) == name]
    return sorted(made, key=lambda call: call.lineno)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else f"super().{getattr(call.func, 'attr', '')}"


def _text(node: ast.expr, scope: ast.AST, functions: dict[str, ast.FunctionDef]) -> str:
    """The fixed words of an expression, names of texts looked up in its function; the rest stays in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, scope, functions) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, scope, functions)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, scope, functions) + _text(node.right, scope, functions)
    if isinstance(node, ast.IfExp) and any(isinstance(way, TEXTS) for way in (node.body, node.orelse)):
        return " / ".join(filter(None, (_text(way, scope, functions) for way in (node.body, node.orelse))))
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join" and isinstance(node.args[0], NAMED):
        return _text(node.args[0], scope, functions)
    if isinstance(node, ast.List) and isinstance(node.elts[0], TEXTS):
        return _text(node.elts[0], scope, functions) + " {...}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
        made = functions[node.func.id]
        returned = [
            part.value for part in ast.walk(made) if isinstance(part, ast.Return) and isinstance(part.value, TEXTS)
        ]
        if len(returned) == 1:
            return _text(returned[0], made, functions)
    if isinstance(node, ast.Name):
        for part in ast.walk(scope):
            is_it = isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == node.id != "more"
            if is_it and isinstance(part.value, MADE_OF_TEXTS) and f" {node.id} " not in f" {ast.unparse(part.value)} ":
                return _text(part.value, scope, functions)
    return "{" + ast.unparse(node) + "}"


def render() -> str:
    """The list of all messages as Markdown with HTML, by group."""
    by_group: dict[str, list[Message]] = {name: [] for name in GROUPS}
    for message in collect():
        by_group[message.group].append(message)
    lines = []
    for name, messages in by_group.items():
        lines += [f"## {name}", "", GROUPS[name][1], ""]
        for message in messages:
            lines.append(f'<h4 id="{message.slug}" class="message"><code>{_show(message.template)}</code>')
            lines.append(f'<a class="headerlink" href="#{message.slug}" title="Link to this message">&para;</a></h4>')
            if not message.words:
                lines.append(f"<p>{NOTES[message.file]}</p>")
            lines.append("")
    return "\n".join(lines)


def _show(template: str) -> str:
    """A message as HTML, what is put in at run time by a short name."""
    parts = re.split(r"(\{(?:[^{}]|\{[^{}]*\})*\})", template)
    shown = [
        html.escape(part) if k % 2 == 0 else f"<var>{html.escape(_name(part[1:-1]))}</var>"
        for k, part in enumerate(parts)
    ]
    return "".join(shown).replace("\n", "<br>")


def _name(expression: str) -> str:
    """A short name of what an expression puts in."""
    if counted := re.match(r"plural\(.*'([\w ]+)'\)$", expression):
        return f"N {counted[1]}s"
    if simple := re.fullmatch(r"(?:\w+\.)*(\w+)", expression):
        return simple[1].lower().replace("_", " ").strip()
    return "…"
