"""A fault of each kind; all of them, some thousands, are `python tests/hostile/faults.py`."""

import sys

import pytest


@pytest.mark.processes
@pytest.mark.slow
def test_a_fault_of_each_kind_is_told_or_survived_and_nothing_is_lost(run):
    done = run(sys.executable, "tests/hostile/faults.py", "--short", code=None, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "lost 0, tracebacks 0, hangs 0" in done.stdout
