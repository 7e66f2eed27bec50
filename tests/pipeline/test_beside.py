"""Stages that run at once: their order, their output, their cores, and what happens when one fails or is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow]

PROGRAM = """
import logging, sys
from pathlib import Path
from tiebreak.pipeline import beside, warm
from tiebreak.pipeline.stages import Stage
from tiebreak.process import configure_logging

configure_logging()
warm.HEAVY, warm.import_bitsandbytes = ("tiebreak.tables.table",), lambda: None  # these stages need no more
out = Path(sys.argv[1])

def sample(name, rows, *needs):
    done = out / f"{name}.csv"
    return Stage(name, ["sample", "--rows", str(rows), "--profile", "short", "--out", str(done)], done, needs, gpu=True)

def absent(name, *needs):
    return Stage(name, ["check", str(out / "absent.csv"), "--out", str(out / name)], out / name, needs)

stages = eval(sys.argv[2])
assert beside.can_run_beside(2, "") and beside.run_beside(stages, 2)
print("all done")
"""


def run(out: Path, stages: str) -> subprocess.Popen:
    words = [sys.executable, "-c", PROGRAM, str(out), stages]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="stages run at once on two cores or more")


@needs_two_cores
def test_stages_run_at_once_in_the_order_of_their_needs(tmp_path):
    stages = "[sample('a', 60000), sample('b', 10), sample('c', 10, 'a'), sample('d', 10, 'b')]"
    process = run(tmp_path, stages)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    begun = [line.removeprefix("begun: ") for line in lines if line.startswith("begun: ")]
    assert begun == ["a", "b", "d", "c"], "d waits for the short b alone"
    shown = [line for line in lines if line.startswith("$ tiebreak sample")]
    for command, printed in zip(shown, ["b.csv", "d.csv", "a.csv", "c.csv"], strict=True):
        assert printed in command
        assert printed in lines[lines.index(command) + 1], "a stage's output stands together, below its command"
    assert lines[-1] == "all done"
    again, _ = run(tmp_path, stages).communicate(timeout=60)
    assert again.splitlines() == [*(f"done already: {name}" for name in "abcd"), "all done"]


@needs_two_cores
def test_a_stage_that_fails_stops_the_others_and_gives_its_code(tmp_path):
    process = run(tmp_path, "[sample('long', 600000), absent('wrong'), sample('after', 10, 'wrong')]")
    started = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "no such file" in out and "stage wrong did not finish (exit code 2)" in err
    assert "all done" not in out and not (tmp_path / "long.csv").exists() and not (tmp_path / "after.csv").exists()
    assert time.monotonic() - started < 60, "the long one did not run to its end"


@needs_two_cores
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_that_run(number, tmp_path):
    """A terminal's Ctrl-C goes to the whole group, and is no traceback of the parent's."""
    process = run(tmp_path, "[sample('one', 600000), sample('other', 600000)]")
    for line in process.stdout:
        if line.startswith("begun: other"):
            break
    time.sleep(0.5)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "did not finish" in err and "Traceback" not in err
    assert not list(tmp_path.glob("*.csv"))
