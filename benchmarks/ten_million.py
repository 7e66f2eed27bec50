"""Planning, leasing, writing and merging ten million rows, the model replaced by a constant: time and memory.

    python benchmarks/ten_million.py --rows 10000000 --processes 2

The table is a token cache as tiebreak makes it, with rows of one token for each text but the lengths of Arena rows
(log-normal, mean 821 tokens), so that blocks and parts are as many as they would be. Each process then does all that
`tiebreak predict` does but for the forward pass. Prints a line of JSON: seconds of each phase, the most memory of a
process (its own, without the pages of mapped files, which the system takes back when it needs room; `imported_gib` of
it before it began), and what is on the disk.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.config import load_recipe
from tiebreak.data.fitting import PIECES
from tiebreak.data.plan import blocks
from tiebreak.data.prediction_manifest import read_merge_manifest
from tiebreak.data.tokens import MANIFEST, PARTS, SKIPPED, TokenManifest, Tokens, token_schema
from tiebreak.manifests import write_manifest
from tiebreak.prediction.compute import SwapPolicy, run_blocks
from tiebreak.prediction.models import ModelPrediction, make_manifest
from tiebreak.prediction.predict import merge_once, stamp
from tiebreak.prediction.queue import PartQueue, compute_parts

MEAN_LOG, SIGMA, LONGEST = 6.4, 0.8, 2_048
"""Of the logarithm of a row's tokens: mean 821, as in the Arena's table."""
CHUNK = 100_000


def build(folder: Path, rows: int) -> None:
    """A token cache of so many synthetic rows."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    datasets.disable_progress_bars()
    rng = np.random.default_rng(0)
    folder.mkdir()
    one = [[1]] * CHUNK
    features = datasets.Features.from_arrow_schema(token_schema())
    with ArrowWriter(path=str(folder / "data.arrow"), features=features) as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            columns: dict = {name: one[:count] for name in (*PARTS, "turns")}
            columns["features"] = [[]] * count
            columns["id"] = [str(3_000_000_000 + start + k) for k in range(count)]
            columns["label"] = np.full(count, -1, dtype=np.int8)
            columns["group"] = rng.integers(0, 2**62, count)
            columns["length"] = np.minimum(rng.lognormal(MEAN_LOG, SIGMA, count), LONGEST).astype(np.int32) + 1
            columns |= {name: np.zeros(count, dtype=bool) for name in ("unreadable", "truncated")}
            columns |= {f"chars_{side}": rng.integers(0, 9_000, count) for side in "ab"}
            columns |= {f"bayes_{k}": np.full(count, np.nan) for k in range(3)}
            writer.write_batch(columns)
        writer.finalize()
    datasets.Dataset.from_file(str(folder / "data.arrow")).save_to_disk(str(folder / "table"))
    (folder / "data.arrow").unlink()
    manifest = TokenManifest(pieces={name: [] for name in PIECES}, sides=False, features=[])
    write_manifest(folder / "table" / MANIFEST, manifest)
    (folder / "table" / SKIPPED).touch()


def constant(rows: np.ndarray, swapped: bool) -> np.ndarray:
    return np.broadcast_to(np.array([0.2, 0.1, -0.3], dtype=np.float32), (len(rows), 3))


def predict(folder: Path, number: int, told) -> None:
    """What one process of `tiebreak predict` does, its forward pass a constant; tells its seconds and its peak."""
    began, base, most = time.monotonic(), own_memory(), [0.0]
    threading.Thread(target=watch, args=(most,), daemon=True).start()
    recipe, swap, out = load_recipe("demo-llama2"), SwapPolicy(True), folder / "out"
    tokens = Tokens.read(folder / "cache" / "table")
    cut = blocks(tokens.lengths, recipe.predict.tokens_per_block)
    manifest = make_manifest(tokens, cut, recipe, swap, "float32", "0" * 64)
    none: Any = None
    prediction = ModelPrediction("", Path("none"), out, recipe, none, none, tokens, cut, None, manifest)
    prediction.open()
    planned = time.monotonic()
    before = stamp(out)
    queue = PartQueue(
        prediction.parts, manifest.provenance, cut, tokens.lengths,
        lambda some: run_blocks(constant, tokens.lengths, some, swap), recipe.predict.lease_s,
    )  # fmt: skip
    compute_parts([queue], number)
    worked = time.monotonic()
    assert merge_once(out, [queue], [prediction], before) is not None
    seconds = {"plan": planned - began, "lease, write": worked - planned, "merge": time.monotonic() - worked}
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    told.put({"seconds": rounded, "imported_gib": round(base, 3), "peak_gib": round(most[0], 3)})


def own_memory() -> float:
    """GiB of this process's memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**20


def watch(most: list[float]) -> None:
    """Note the most memory at any time."""
    while True:
        most[0] = max(most[0], own_memory())
        time.sleep(0.02)


def measure(rows: int, processes: int, folder: Path) -> dict:
    """Build the table in a process of its own, predict in others; what they told."""
    context = multiprocessing.get_context("spawn")  # a fork would begin with its parent's peak
    builder = context.Process(target=build, args=(folder / "cache", rows))
    builder.start()
    builder.join()
    assert builder.exitcode == 0
    told = context.Queue()
    workers = [context.Process(target=predict, args=(folder, number, told)) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    found = [told.get() for _ in workers]
    out = folder / "out"
    assert read_merge_manifest(out).rows == rows
    with open(out / "predictions.csv", encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == rows + 1
    parts = list(out.glob("parts-*/part-*.npz"))
    return {
        "rows": rows,
        "blocks": json.loads((out / "prediction.json").read_text())["blocks"],
        "parts": len(parts),
        "parts_mib": round(sum(path.stat().st_size for path in parts) / 2**20, 1),
        "predictions_mib": round((out / "predictions.csv").stat().st_size / 2**20, 1),
        "processes": found,
        "most_gib": max(one["peak_gib"] for one in found),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    work_in = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        print(json.dumps(measure(options.rows, options.processes, work_in)))
    finally:
        shutil.rmtree(work_in, ignore_errors=True)
    sys.exit(0)
