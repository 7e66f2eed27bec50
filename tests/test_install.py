"""What `make` would do, without doing it."""

import subprocess
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

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
