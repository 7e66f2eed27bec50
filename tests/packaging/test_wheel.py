"""A wheel of the source archive, installed beside nothing of the repository: commands, files and batch files work."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tiebreak.errors import UserError
from tiebreak.launch_files import SHIPPED, copy_launch_files, find_launch_file, launch_root

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'if [[ $2 == hostnames ]]; then echo localhost; else echo "JobId=7 Restarts=0"; fi',
}
"""Of a cluster of one node."""


def call(*command: object, cwd: Path, **environment: str) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the repository tracks, as in a clean clone; then the archive, and a wheel of it."""
    folder = tmp_path_factory.mktemp("packed")
    clone = folder / "clone"
    clone.mkdir()
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).rstrip("\0").split("\0")
    call("cp", "--parents", "-t", clone, *tracked, cwd=ROOT)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    call(sys.executable, "-c", build, cwd=clone)
    (archive,) = folder.glob("tiebreak-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, archive, cwd=folder)
    (wheel,) = folder.glob("tiebreak-*.whl")
    call(*pip, "install", "--no-deps", "--no-compile", "--target", folder / "site", wheel, cwd=folder)
    return folder


def in_installation(packed: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{packed / 'site'}:{TESTS}:{TESTS / 'hostile'}"}


def tracked_launch_files() -> set[str]:
    named = [f":(glob){pattern}" for pattern in SHIPPED]
    return set(subprocess.check_output(["git", "ls-files", "--", *named], cwd=ROOT, text=True).split())


@pytest.mark.processes
@pytest.mark.slow
def test_archive_and_wheel_hold_what_launches_the_package(packed: Path):
    site = packed / "site" / "tiebreak"
    launched = site / "launched"
    assert {str(path.relative_to(launched)) for path in launched.rglob("*") if path.is_file()} == tracked_launch_files()
    for name in tracked_launch_files():
        copy = launched / name
        assert copy.read_bytes() == (ROOT / name).read_bytes()
        assert os.access(copy, os.X_OK) == os.access(ROOT / name, os.X_OK), name
    ours = ROOT / "src" / "tiebreak"
    data = {path.relative_to(ours) for path in ours.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path for path in data if not (site / path).is_file()} == set()
    with tarfile.open(next(packed.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "setup.py", "constraints.txt", "tests/conftest.py", "docs/slurm.md"} <= names


@pytest.mark.processes
@pytest.mark.slow
def test_commands_and_a_batch_file_run_from_the_wheel(packed: Path, tmp_path: Path):
    installed = in_installation(packed)
    said = call(sys.executable, TESTS / "packaging" / "smoke.py", "--quick", cwd=tmp_path, **installed)
    assert f"in {packed / 'site' / 'tiebreak'}," in said and re.search(r"^(\d+) of \1 commands passed$", said, re.M)
    home, bin_folder = tmp_path / "launched", tmp_path / "bin"
    assert not any(
        re.search(rb"(?<!/)\.venv/bin/python", path.read_bytes()) for path in home.rglob("*") if path.is_file()
    )
    bin_folder.mkdir()
    for name, body in STAND_INS.items():
        (bin_folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_SUBMIT_DIR": str(home)}
    job |= {"RECIPE": "demo-deberta", "DATA": str(tmp_path / "t.csv"), "OUT": "runs/one", "TIEBREAK_PREFLIGHT": "0"}
    job["PATH"] = f"{bin_folder}:{os.environ['PATH']}"
    options = [word for change in ("max_steps=1", "batch_size=8") for word in ("--set", f"train.{change}")]
    call("bash", home / "slurm" / "train_deberta.sbatch", *options, cwd=home, **installed, **job)
    assert (home / "runs" / "one" / "metrics.json").is_file()


def test_launch_files_are_copied_and_never_over_an_edited_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", '/opt/a "b" $c/python')
    copies = copy_launch_files(tmp_path)
    names = {str(copy.relative_to(tmp_path)) for copy in copies}
    assert names >= tracked_launch_files() and names >= {
        "src/train.py",
        "slurm/train_gemma.sbatch",
        "launch/torchrun.sh",
    }
    text = (tmp_path / "launch" / "slurm_site.sh").read_text()
    assert r'"${PYTHON:=/opt/a \"b\" \$c/python}"' in text
    assert copy_launch_files(tmp_path) == copies
    edited = tmp_path / "slurm" / "train_gemma.sbatch"
    edited.write_text(edited.read_text().replace("--nodes=1", "--nodes=2"))
    (tmp_path / "launch" / "torchrun.sh").unlink()
    with pytest.raises(UserError, match=re.escape(str(edited))):
        copy_launch_files(tmp_path)
    assert not (tmp_path / "launch" / "torchrun.sh").exists()


def test_shipped_configurations_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = Path("ds_configs/zero2.json")
    assert find_launch_file(name) == launch_root() / name
    for other in (Path("zero2.json"), Path("../ds_configs/zero2.json"), tmp_path / name):
        assert find_launch_file(other) == other
    (tmp_path / "ds_configs").mkdir()
    (tmp_path / name).write_text("{}")
    assert find_launch_file(name) == name
