"""What a command sets before torch is imported, and how it imports."""

import gc
import logging
import os
import subprocess
import sys

from tiebreak.process import configure_logging, importing

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


def frozen_by_an_import(monkeypatch) -> int:
    """Objects that are set aside for good by an import of one new module."""
    gc.unfreeze()
    assert gc.get_freeze_count() == 0
    try:
        with importing():
            assert not gc.isenabled()
            monkeypatch.setitem(sys.modules, "tiebreak.made_up", sys)
        assert gc.isenabled()
        return gc.get_freeze_count()
    finally:
        gc.unfreeze()
        monkeypatch.delitem(sys.modules, "tiebreak.made_up")


def test_a_command_sets_aside_what_it_has_imported_and_a_users_program_does_not(monkeypatch):
    monkeypatch.setattr(logging.getLogger("tiebreak"), "handlers", [])  # a command of an earlier test left its own
    assert frozen_by_an_import(monkeypatch) == 0
    configure_logging()
    assert frozen_by_an_import(monkeypatch) > 10_000


def test_the_collector_stays_as_the_user_has_set_it():
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
