"""Steps of a judge whose lower half is frozen and kept, against the same computed each time, and against all trained.

    python benchmarks/frozen_cache.py --threads 2

A DeBERTa of 6 layers, 384 wide, on rows as long as the Arena's. Each trains in a process of its own and does one step
over all rows when it is its turn, so that a step is an epoch; what the lower half gives is computed before the first.
With and without it the losses must be equal. Of three equal parts of the work (forward, and two of the way back) all
trained has three, the upper half alone two thirds of that with the lower half's forward and half without: 1.3 times and
twice are what can be expected, before what the last layer leaves out.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from subjects import LONGEST, QUICK_SIZES, SIZES, enlarged, write_rows
from timing import peer, record, run_claim, stepping, take_turns
from train_speed import MOST_STEPS, train_ours

WIDE = SIZES | {"hidden_size": 384, "pooler_hidden_size": 384, "intermediate_size": 1_536, "num_hidden_layers": 6}


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """One table, one base, three trainings of it."""
    from tiebreak.config import load_recipe

    sizes, longest = (QUICK_SIZES, 256) if options.quick else (WIDE, LONGEST)
    layers = sizes["num_hidden_layers"]
    table = write_rows(folder / "table.csv", options.rows)
    base = enlarged(load_recipe("demo-deberta").model.base, folder / "base", sizes)
    changes = [f"data.max_tokens={longest}", "data.swap=never", f"train.batch_size={options.rows}", "model.dropout=0"]
    changes += [f"train.max_steps={MOST_STEPS}", f"train.epochs={MOST_STEPS}", f"train.eval_every={MOST_STEPS}"]
    changes += ["train.precision=fp32"]
    half = f"model.freeze={layers // 2}"
    ways_of = {"kept": [half, "train.frozen_cache_gb=100"], "computed": [half], "trained": []}
    words = ["train", "--recipe", "demo-deberta", "--model", base, "--data", str(table), "--valid", "none"]
    with contextlib.ExitStack() as started:
        ways = {}
        for name, more in ways_of.items():
            full = [*words, "--out", str(folder / name)]
            full += [word for change in (*changes, *more) for word in ("--set", change)]
            ways[name] = started.enter_context(stepping(train_ours, full, threads=options.threads))
        turns = take_turns(ways, options.rounds)
    kept, computed = (dict(turns.results[name]) for name in ("kept", "computed"))
    apart = max(abs(loss - computed[step]) for step, loss in kept.items())
    rates = turns.rates(options.rows)
    peers = [peer("lower half computed", rates["computed"]), peer("all layers trained", rates["trained"])]
    setting = f"deberta {layers} x {sizes['hidden_size']}, half of it frozen, {options.rows} rows a step"
    yield record(setting, "rows/s", rates["kept"], peers, f"losses to {apart:.0e}", seconds=turns.raw)


if __name__ == "__main__":
    run_claim(__doc__, measure, rows={"type": int, "default": 16})
