"""What a command sets before torch is imported."""

import os
import subprocess
import sys

CODE = """
import os, sys
from tiebreak.process import DEFAULTS, prepare_process
prepare_process()
assert "torch" not in sys.modules
for name in DEFAULTS:
    print(name, os.environ[name])
"""


def test_defaults_are_set_without_torch_and_never_replace_what_the_user_has_set():
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "TOKENIZERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=ours | {"OMP_WAIT_POLICY": "ACTIVE"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    settings = dict(line.split() for line in done.stdout.splitlines())
    assert settings["OMP_WAIT_POLICY"] == "ACTIVE" and settings["TOKENIZERS_PARALLELISM"] == "true"


def test_the_package_is_light():
    """`import tiebreak` and the parser of the command need nothing but the standard library, pydantic and YAML."""
    code = (
        "import sys, tiebreak, tiebreak.cli; print(*{'torch', 'transformers', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "", done.stderr
