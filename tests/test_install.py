"""What `make` would do, without doing it."""

import subprocess
from importlib.metadata import distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def test_flash_attn_is_built_against_the_torch_that_is_there_at_one_version():
    """pip's isolated build has no torch, which flash-attn's setup imports; its tools must be there before it."""
    said = subprocess.run(["make", "-n", "gpu"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tools, built = [line.split() for line in said.splitlines() if "pip install" in line][-2:]
    assert {"ninja", "packaging", "psutil", "setuptools", "wheel"} <= set(tools)
    assert {"--no-build-isolation", "--constraint", "constraints.txt", "'.[gpu]'"} <= set(built)
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    wanted = [Requirement(line) for line in requires("tiebreak") or () if "extra == 'gpu'" in line.replace('"', "'")]
    assert [one.name for one in wanted] == ["flash-attn"]
    assert pins["flash-attn"] in wanted[0].specifier


def test_pins_that_the_oldest_python_cannot_have_are_not_asked_of_it():
    text = (ROOT / "constraints.txt").read_text()
    lines = [Requirement(line) for line in text.splitlines() if "==" in line and line[0] != "#"]
    oldest = {"python_version": "3.10", "python_full_version": "3.10.13"}
    pinned = {canonicalize_name(pin.name) for pin in lines if pin.marker is None or pin.marker.evaluate(oldest)}
    assert len(pinned) > 100
    here = {canonicalize_name(one.metadata["Name"]): one.metadata["Requires-Python"] for one in distributions()}
    needs = {name: SpecifierSet(here.get(name) or "") for name in pinned}
    assert {name: str(python) for name, python in needs.items() if not python.contains("3.10.13")} == {}
