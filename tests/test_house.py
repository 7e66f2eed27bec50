"""The structure of the package: rooms import one way, files and functions stay small, one door for the command line."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "tiebreak"
ORDER = (
    *("ground", "cluster", "sample", "tables", "data", "evaluation", "pretrained", "attention", "models", "engines"),
    *("preflight", "prediction", "training", "report", "decisions", "suites", "pipeline", "export", "api", "cli"),
)
"""Each room may import those before it, and itself."""
ROOM_OF = {
    **dict.fromkeys(("options", "options_of_use", "parsers", "uses", "cli", "__main__"), "cli"),
    **dict.fromkeys(("api", "benching", "choosing"), "api"),
}
WITHOUT_TORCH = ("tables", "data", "evaluation", "report", "decisions", "suites")
LONGEST_FILE, LONGEST_FUNCTION, LARGEST_ROOM = 350, 60, 0.14
"""Lines of a file, lines of a function without its docstring, share of all lines."""
FILES = sorted(SRC.rglob("*.py"))


def room_of(module: str) -> str:
    """The room of a dotted name below `tiebreak`; modules that lie beside the rooms are ground, api or cli."""
    first = module.partition(".")[0]
    return first if (SRC / first).is_dir() and first else ROOM_OF.get(first, "ground")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def imports_of(path: Path, module_level: bool = False) -> set[str]:
    """Dotted names that a file imports, relative ones excluded; at module level, without those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    nodes = tree.body if module_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if node.module == "tiebreak" else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_every_module_has_a_room():
    assert {room_of(module_of(path)) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_one_way(path: Path):
    rank = ORDER.index(room_of(module_of(path)))
    if module_of(path) == "":  # offers the front door on first use
        return
    for name in imports_of(path):
        if name.startswith("tiebreak."):
            target = room_of(name.removeprefix("tiebreak."))
            assert target not in ORDER or ORDER.index(target) <= rank, f"{module_of(path)} imports {name}"


def test_the_check_of_imports_sees_an_upward_one(tmp_path):
    (tmp_path / "x.py").write_text("def f():\n    from tiebreak.report.card import leave_card\n")
    assert imports_of(tmp_path / "x.py") == {"tiebreak.report.card"}
    assert ORDER.index(room_of("report.card")) > ORDER.index("training")


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_rooms_that_must_be_light_do_not_import_torch(room: str):
    modules = [f"tiebreak.{module_of(path)}" for path in FILES if room_of(module_of(path)) == room]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_namespaces_are_known_to_the_command_line_alone():
    assert [path.name for path in FILES if "Namespace" in path.read_text(encoding="utf-8")] == ["cli.py"]


def test_files_functions_and_rooms_stay_small():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(path): count for path, count in lines.items() if count > LONGEST_FILE} == {}
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                docstring = node.body[0] if ast.get_docstring(node) is not None else None
                size = node.end_lineno - node.lineno + 1
                if docstring is not None and docstring.end_lineno is not None:
                    size -= docstring.end_lineno - docstring.lineno + 1
                if size > LONGEST_FUNCTION and path.name != "options.py":
                    long[f"{module_of(path)}.{node.name}"] = size
    assert long == {}
    rooms: dict[str, int] = {}
    for path, count in lines.items():
        rooms[room_of(module_of(path))] = rooms.get(room_of(module_of(path)), 0) + count
    largest = max(rooms, key=lambda room: rooms[room])
    assert rooms[largest] <= LARGEST_ROOM * sum(lines.values()), f"{largest} has {rooms[largest]} lines"


def test_a_file_name_stands_in_one_room_only():
    names: dict[str, list[str]] = {}
    for path in FILES:
        if path.stem not in ("__init__", "__main__"):
            names.setdefault(path.stem, []).append(module_of(path))
    assert {name: places for name, places in names.items() if len(places) > 1} == {}


def test_nothing_is_subscripted_that_python_3_10_does_not_subscript():
    """No checker of types or style says so: for both, logging's classes are generic in every version."""
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        checked = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ]
        inside = {id(node) for block in checked for part in block.body for node in ast.walk(part)}
        names = [
            ast.unparse(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and id(node) not in inside
        ]
        found += [(path.name, name) for name in names if name.split(".")[-1] in ("StreamHandler", "LoggerAdapter")]
    assert found == []


@pytest.mark.parametrize("settings", [[], ["--config", 'src = [".", "src"]']], ids=["ours", "ruff's own"])
def test_the_check_of_style_passes_beside_the_folders_that_the_demo_makes(tmp_path: Path, settings: list[str]):
    """Ruff takes a module named as a folder beside it for this project's own, and asks for another order of imports."""
    root = SRC.parent.parent
    for folder in ("src", "tests"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "runs").mkdir()
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "I", *settings, "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_is_light():
    code = "import time; t = time.process_time(); import tiebreak; print(time.process_time() - t)"
    taken = min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))
    assert taken < 0.2
