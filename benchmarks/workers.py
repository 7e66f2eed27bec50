"""Two processes that predict one table together, a core each, against one: from the first part to the merged table.

    python benchmarks/workers.py --rows 300

The whole command (`tiebreak predict`, docs/prediction.md) on one thread a process, in blocks of 4,096 tokens. Starting
Python and its libraries is no part of it: the clock begins when the folder of parts is there. Compared are the merged
tables, byte by byte.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from subjects import LONGEST, QUICK_SIZES, SIZES, train_judge, write_rows
from timing import Turns, peer, record, run_claim


def predict(run: Path, table: Path, out: Path, processes: int) -> float:
    """Seconds from the folder of parts to the merged table."""
    words = ["predict", "--model", run, "--data", table, "--out", out, "--set", "predict.tokens_per_block=4096"]
    command = [sys.executable, "-m", "tiebreak", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(processes)]
    assert [process.wait() for process in started] == [0] * processes
    (parts,) = out.glob("parts-*")
    return (out / "merged.json").stat().st_mtime - (parts / "ids.jsonl").stat().st_mtime


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """One against two, in alternating order."""
    rows = 40 if options.quick else options.rows
    sizes = QUICK_SIZES if options.quick else SIZES
    run = train_judge("demo-deberta", folder, LONGEST, sizes)
    table = write_rows(folder / "table.csv", rows)
    turns, outs = Turns(("one", "two")), {}
    for turn in range(options.rounds):
        for name in ("one", "two") if turn % 2 == 0 else ("two", "one"):
            outs[name] = folder / f"{name}-{turn}"
            turns.seconds[name].append(predict(run, table, outs[name], 1 if name == "one" else 2))
            print(f"  round {turn + 1}: {name}, {turns.seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    same = (outs["one"] / "predictions.csv").read_bytes() == (outs["two"] / "predictions.csv").read_bytes()
    rates = turns.rates(rows)
    setting = f"deberta, {rows} rows, two processes of one thread"
    parity = "tables equal, byte by byte" if same else "TABLES DIFFER"
    yield record(setting, "rows/s", rates["two"], [peer("one process", rates["one"])], parity, seconds=turns.raw)


if __name__ == "__main__":
    run_claim(__doc__, measure, rows={"type": int, "default": 64})
