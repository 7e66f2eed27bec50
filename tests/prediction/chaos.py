"""Kill predicting processes at random instants and see whether the table comes out as if nothing had happened.

    python tests/prediction/chaos.py --kills 200

Up to four processes, forked from this one, share an output folder. At random instants a random one gets SIGKILL, and
after a while another comes. Every other process claims to be on a machine of its own, so that its leases expire by
time and not because it is seen to be dead. In the end predictions.csv must be, byte for byte, that of one undisturbed
process; no id may be missing or doubled; and no part that was there may have been written again.
"""

import argparse
import contextlib
import csv
import io
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from forked import ended, finish, start, undisturbed

from tiebreak.cli import main
from tiebreak.sample.generator import write_sample

MOST_PROCESSES = 4
SHORT = ["--set", "data.max_tokens=96", "--set", "train.max_steps=2", "--set", "train.batch_size=16"]


def train_model(folder: Path) -> Path:
    """A run folder of a judge trained for two steps."""
    table = folder / "train.csv"
    write_sample(table, 100, seed=5, profile="short")
    arguments = ["train", "--recipe", "demo-llama2", "--data", str(table), "--out", str(folder / "run"), *SHORT]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0
    return folder / "run"


def parts_of(out: Path) -> dict[str, int]:
    """When each part was written."""
    found = {}
    for path in out.glob("parts-*/part-*.npz"):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_mtime_ns
    return found


def disturb(model: Path, table: Path, out: Path, seconds: float, chance: random.Random, most: int) -> Counter:
    """Predict with processes that are killed and replaced, at most so many kills; what happened, counted."""
    told: Counter = Counter()
    alive: list[int] = []
    seen: dict[str, int] = {}
    count = 0
    while told["kills"] < most:
        while len(alive) < chance.randint(1, MOST_PROCESSES):
            count += 1
            alive.append(start(model, table, out, f"machine {count}" if count % 2 else None))
        gone = ended(alive, chance.uniform(0, seconds))
        assert set(gone.values()) <= {0}, out.with_suffix(".txt").read_text()[-3000:]
        alive = [pid for pid in alive if pid not in gone]
        if not alive:
            break
        victim = chance.choice(alive)
        told["while computing"] += any(out.glob("parts-*/part-*.lease"))
        told["while merging"] += (out / "merge.lease").exists()
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        alive.remove(victim)
        told["kills"] += 1
        now = parts_of(out)
        told["parts written again"] += sum(now.get(name) != when for name, when in seen.items())
        seen = now
    finish([*alive, start(model, table, out)], out)
    told["parts written again"] += sum(parts_of(out).get(name) != when for name, when in seen.items())
    return told


def campaign(kills: int, seed: int, folder: Path, rows: int) -> Counter:
    """Predict again and again until there were so many kills; raises AssertionError at the first fault."""
    chance = random.Random(seed)
    model = train_model(folder)
    table = folder / "test.csv"
    write_sample(table, rows, seed=6, profile="short")
    with open(table, newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    undisturbed(model, table, folder / "first")  # tokenises
    seconds = undisturbed(model, table, folder / "one")
    print(f"undisturbed: {seconds:.1f} s, {len(parts_of(folder / 'one'))} parts", flush=True)
    expected = (folder / "one" / "predictions.csv").read_bytes()
    total: Counter = Counter()
    turn = 0
    while total["kills"] < kills:
        out = folder / f"run-{turn}"
        total += disturb(model, table, out, seconds, chance, min(10, kills - total["kills"]))
        assert (out / "predictions.csv").read_bytes() == expected, f"{out}: other predictions"
        with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
            found = [row["id"] for row in csv.DictReader(file)]
        assert found == ids, f"{out}: ids are missing, doubled or in another order"
        assert not list(out.rglob("*.lease")), f"{out}: a lease was left"
        assert total["parts written again"] == 0, total
        total["tables as undisturbed"] += 1
        turn += 1
        print(dict(total), flush=True)
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        total = campaign(options.kills, options.seed, Path(folder), options.rows)
    names = ("kills", "while computing", "while merging", "tables as undisturbed", "parts written again")
    print(", ".join(f"{total[name]} {name}" for name in names))
    sys.exit(0)
