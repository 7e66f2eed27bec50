"""Does the demo show the point on every table? Its pipeline over several seeds, with standard errors.

python benchmarks/demo_table.py                          # five seeds, the tables of docs/pipeline.md
python benchmarks/demo_table.py --seeds 10 --out runs/demo-table    # kept there, and gone on with if stopped

Each seed draws another table and starts every model anew. Differences are taken within a seed; their standard error is
over the seeds. The exit code is 1 unless each teacher and the teachers' average beat TF-IDF and the distilled student
beats the one from labels by more than two standard errors, the distilled student closes 80 % of the gap between class
prior and Bayes, and more than a fifth of the ties are predicted as ties.
"""

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tiebreak.cli import main as tiebreak
from tiebreak.pipeline.recipe import PIPELINES

FIRST_SEED = 100
PAIRS = {
    "teacher gemma2": ("gemma2", "tfidf"),
    "teacher llama2": ("llama2", "tfidf"),
    "teachers' average": ("average", "tfidf"),
    "student distilled": ("student", "from-labels"),
}
"""Whose log loss is compared with whose."""


def main() -> int:
    """Run the seeds that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep everything here")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: a standard error needs at least two")
    with contextlib.ExitStack() as stack:
        home = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs, seconds = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
            started = time.monotonic()
            runs.append(run(home / str(seed), seed))
            seconds.append(time.monotonic() - started)
        print(f"\n{options.seeds} seeds, {statistics.mean(seconds):.0f} s each")
        return report(runs)


def run(out: Path, seed: int) -> dict[str, dict[str, float]]:
    """One demo: its table."""
    recipe = yaml.safe_load((PIPELINES / "demo.yaml").read_text())
    recipe["sample"]["seed"] = seed
    for trained in (*recipe["teachers"].values(), recipe["student"]):
        trained["set"].append(f"train.seed={seed}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "demo.yaml").write_text(yaml.safe_dump(recipe))
    code = tiebreak(["pipeline", "--recipe", str(out / "demo.yaml"), "--out", str(out / "run")])
    if code:
        raise SystemExit(code)
    rows: dict[str, dict[str, float]] = json.loads((out / "run" / "metrics.json").read_text())["rows"]
    return rows


def report(runs: list[dict[str, dict[str, float]]]) -> int:
    """Print means over the seeds and the differences; 1 if the demo does not show what it shall."""
    print(f"{'mean over seeds':22}{'log loss':>10}{'gap closed':>12}{'tie recall':>12}{'rows/s':>9}")
    for name in runs[0]:
        means = [_mean(runs, name, key) for key in ("log_loss", "gap_closed", "tie_recall", "rows_per_second")]
        cells = zip(means, (".4f", ".1%", ".2f", ",.0f"), (10, 12, 12, 9), strict=True)
        print(f"{name:22}" + "".join(f"{'–' if m is None else format(m, how):>{wide}}" for m, how, wide in cells))
    failed = False
    print(f"\n{'better by, in log loss':22}{'mean':>10}{'std error':>12}{'ratio':>9}")
    for name, (better, worse) in PAIRS.items():
        gains = [run[worse]["log_loss"] - run[better]["log_loss"] for run in runs]
        mean, error = statistics.mean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
        failed |= mean < 2 * error
        print(f"{name:22}{mean:>10.4f}{error:>12.4f}{mean / error:>9.1f}   than {worse}")
    gap, recall = _mean(runs, "student", "gap_closed"), _mean(runs, "student", "tie_recall")
    return int(failed or not (gap and gap >= 0.8) or not (recall and recall > 0.2))


def _mean(runs: list[dict[str, dict[str, float]]], name: str, key: str) -> float | None:
    values = [run[name][key] for run in runs if key in run[name]]
    return statistics.mean(values) if values else None


if __name__ == "__main__":
    sys.exit(main())
