"""Memory of a process grows with the rows as docs/prediction.md says; ten million are `benchmarks/ten_million.py`."""

import json
import sys

import pytest

ROWS = 30_000
BYTES_PER_ROW = 160
"""What leaves ten million rows within 2 GiB, beside what the libraries take."""
CONSTANT_GIB = 0.08
"""Some ten thousand rows at a time, parts and leases, whatever the table."""


@pytest.mark.processes
def test_memory_per_row_keeps_ten_million_rows_within_two_gib(run):
    done = run(sys.executable, "benchmarks/ten_million.py", "--rows", ROWS, "--processes", 1, timeout=900, cold=True)
    found = json.loads(done.stdout.splitlines()[-1])
    (process,) = found["processes"]
    assert found["rows"] == ROWS and 1_000 < found["parts"] <= 4_096
    assert process["peak_gib"] - process["imported_gib"] < ROWS * BYTES_PER_ROW / 2**30 + CONSTANT_GIB
