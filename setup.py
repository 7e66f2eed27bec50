"""Puts the folders that launch the package into its wheel; all else is said in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithLaunchFiles(build_py):
    """Copies them from the top of the repository, where they stand, to `tiebreak/launched`."""

    def run(self) -> None:
        """Build the package, and beside its modules the launch files; an editable one finds them where they are."""
        super().run()
        if self.editable_mode:
            return
        launched = Path(self.build_lib, "tiebreak", "launched")
        shutil.rmtree(launched, ignore_errors=True)
        for pattern in ("launch/*", "slurm/*", "ds_configs/*", "src/*.py"):
            for path in filter(Path.is_file, ROOT.glob(pattern)):
                copy = launched / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


setup(cmdclass={"build_py": BuildWithLaunchFiles})
