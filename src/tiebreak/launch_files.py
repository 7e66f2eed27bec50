"""The files beside the package that launch it: batch files, launch scripts, DeepSpeed's configurations.

They stand at the top of the repository. A wheel holds a copy of them in the package (setup.py), so that they are found
wherever it is installed.
"""

import re
import shutil
import sys
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.storage import make_folder

PACKAGE = Path(__file__).parent
SHIPPED = ("launch/*", "slurm/*", "ds_configs/*", "src/*.py")
"""Below the repository, or below `launched` in a wheel; the Python files are what the scripts start."""
INTERPRETER = ".venv/bin/python"
"""Of a clone, as its scripts name it."""


def launch_root() -> Path:
    """The folder that holds `SHIPPED`: inside the package where a wheel was installed, else the repository."""
    packed = PACKAGE / "launched"
    return packed if packed.is_dir() else PACKAGE.parent.parent


def find_launch_file(path: Path) -> Path:
    """A path as it is given; the shipped file of that name (`ds_configs/zero2.json`) where there is none."""
    shipped = launch_root() / path
    known = not path.exists() and not path.is_absolute() and ".." not in path.parts and shipped.is_file()
    return shipped if known else path


def copy_launch_files(out: Path) -> list[Path]:
    """Copy slurm/, launch/, ds_configs/ and the scripts that they start into a folder, ready for `sbatch`.

    Scripts that name the interpreter of a clone name this one instead, so that jobs run what is installed here.

    Returns:
        The copies.

    Raises:
        UserError: a file of that name is there with another content, as after an edit; nothing is written then.
    """
    root = launch_root()
    found = [path for pattern in SHIPPED for path in sorted(root.glob(pattern)) if path.is_file()]
    copies = {path: out / path.relative_to(root) for path in found}
    contents = {path: _with_interpreter(path.read_bytes()) for path in found}
    if changed := [str(copy) for path, copy in copies.items() if copy.exists() and _differs(copy, contents[path])]:
        raise UserError(
            f"{', '.join(changed)}: there already with other content, which would be lost: name another folder, or "
            "move them away"
        )
    for path, copy in copies.items():
        make_folder(copy.parent)
        write_atomically(copy, contents[path])
        shutil.copymode(path, copy)
    return list(copies.values())


def _with_interpreter(content: bytes) -> bytes:
    """A script's content with this interpreter in place of a clone's, escaped for Bash's double quotes."""
    mine = re.sub(r'([\\$`"}])', r"\\\1", sys.executable)
    return content.replace(INTERPRETER.encode(), mine.encode())


def _differs(copy: Path, content: bytes) -> bool:
    return not copy.is_file() or copy.read_bytes() != content
