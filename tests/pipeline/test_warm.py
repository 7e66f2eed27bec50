"""Stages forked from a warm process are processes like any other."""

import sys

import pytest

SCRIPT = """
import signal, sys, time
from tiebreak.process import prepare_process
prepare_process()
from tiebreak.pipeline.warm import ForkedCommand, warm_up
assert warm_up(), "imports have started threads that no fork survives"
assert "torch" in sys.modules and "peft" in sys.modules
assert ForkedCommand(["check", sys.argv[1]]).wait() == 0
assert ForkedCommand(["check", "absent.csv"]).wait() == 2
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child has a new process's handlers all the same
child = ForkedCommand(["preflight", "--timeout", "60"])
child.send_signal(signal.SIGKILL)
assert child.wait() == -signal.SIGKILL
child.send_signal(signal.SIGTERM)  # it is gone: nobody else is signalled
print("all as expected")
"""


@pytest.mark.processes
def test_a_forked_command_has_output_exit_code_and_signals_of_its_own(run, sample):
    done = run(sys.executable, "-c", SCRIPT, sample)
    assert "400 rows" in done.stdout and "absent.csv" in done.stderr
    assert done.stdout.endswith("all as expected\n")
