"""Kill training runs at random instants and see whether each ends as if nothing had happened.

    python tests/training/chaos.py --kills 100

Ranks are forked from this process, which has imported everything, so most of their life is training and saving.
At a random instant one random rank, or all of them, get SIGKILL; the rest follow soon after, as under a launcher.
The same command is run again until it ends. Then its weights must be, bit for bit, those of an undisturbed run, and
its folder must hold the same files; and at no time may a checkpoint that was there be gone or damaged.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import deepspeed  # noqa: F401  # imported before forking
import peft  # noqa: F401
import torch
from safetensors.torch import load_file

import tiebreak.engines.zero  # noqa: F401
from tiebreak.cli import main
from tiebreak.sample.generator import write_sample
from tiebreak.training.checkpoints import find_checkpoint
from tiebreak.training.run import train  # noqa: F401

STEPS = 12
MODES = {
    "one": (1, []),
    "ddp": (2, []),
    "zero2": (2, ["--ds", "ds_configs/zero2.json"]),
    "fsdp": (2, ["--engine", "fsdp"]),
}
OPTIONS = ["train", "--recipe", "demo-llama2", "--resume", "auto"]
OPTIONS += ["--set", f"train.max_steps={STEPS}", "--set", "train.save_every=1", "--set", "train.eval_every=4"]
OPTIONS += ["--set", "train.batch_size=8", "--set", "data.max_tokens=96", "--set", "train.timeout_s=60"]
DEADLINE_S = 120


def start(mode: str, table: Path, out: Path) -> list[int]:
    """The pids of a run's ranks."""
    world, extra = MODES[mode]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {key: str(value) for key, value in settings.items()} | {"MASTER_ADDR": "localhost"}
            output = os.open(out.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = 1
            try:
                code = main([*OPTIONS, *extra, "--data", str(table), "--out", str(out)])
            except SystemExit as error:
                code = int(error.code or 0)
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def ended(pids: list[int], within: float) -> dict[int, int]:
    """The exit codes of those that ended within so many seconds."""
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + within
    while len(statuses) < len(pids) and time.monotonic() < deadline:
        for pid in pids:
            if pid not in statuses and (status := os.waitpid(pid, os.WNOHANG))[0]:
                statuses[pid] = os.waitstatus_to_exitcode(status[1])
        time.sleep(0.005)
    return statuses


def run_through(mode: str, table: Path, out: Path) -> float:
    """An undisturbed run; its seconds."""
    began = time.monotonic()
    pids = start(mode, table, out)
    codes = ended(pids, DEADLINE_S)
    for pid in set(pids) - set(codes):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        codes[pid] = -1
    text = out.with_suffix(".txt").read_text()[-3000:]
    assert set(codes.values()) == {0}, f"{mode}: exit codes {list(codes.values())} (-1: hung)\n{text}"
    return time.monotonic() - began


def files_of(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def model_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "adapter_model.safetensors")


def disturb(mode: str, table: Path, out: Path, seconds: float, chance: random.Random, most: int) -> Counter:
    """Kill a run again and again, at most so often, then let it end; what happened, counted."""
    told: Counter = Counter()
    newest = -1
    while told["kills"] < most:
        pids = start(mode, table, out)
        done = ended(pids, chance.uniform(0, 1.1 * seconds))
        alive = [pid for pid in pids if pid not in done]
        if not alive:
            break
        victims = alive if chance.random() < 0.5 else [chance.choice(alive)]
        saving = any((out / "checkpoints").glob(".tmp-*"))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        rest = [pid for pid in alive if pid not in victims]
        gone = ended(rest, chance.uniform(0, 1.0))  # they run into the dead rank, or on for a while
        for pid in rest:
            if pid not in gone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for pid in [*victims, *(pid for pid in rest if pid not in gone)]:
            os.waitpid(pid, 0)
        told["kills"] += 1
        told["of all ranks"] += len(victims) == len(pids)
        told["while saving"] += saving
        found, passed = find_checkpoint(out / "checkpoints")
        told["damaged checkpoints"] += len(passed)
        step = -1 if found is None else int(found.name[5:])
        told["lost checkpoints"] += step < newest
        newest = max(newest, step)
    return told


def campaign(kills: int, seed: int, modes: list[str], folder: Path) -> Counter:
    """Kill runs of each mode in turn until there were so many kills; raises AssertionError at the first fault."""
    chance = random.Random(seed)
    table = folder / "sample.csv"
    write_sample(table, 200, seed=3, profile="short")
    expected, seconds = {}, {}
    run_through(modes[0], table, folder / "warm")  # tokenises once
    for mode in modes:
        seconds[mode] = run_through(mode, table, folder / mode)
        expected[mode] = (model_of(folder / mode), files_of(folder / mode))
    total: Counter = Counter()
    turn = 0
    while total["kills"] < kills:
        mode, out = modes[turn % len(modes)], folder / f"run-{turn}"
        total += disturb(mode, table, out, seconds[mode], chance, min(5, kills - total["kills"]))
        run_through(mode, table, out)
        weights, files = expected[mode]
        found = model_of(out)
        assert found.keys() == weights.keys() and all(torch.equal(found[key], weights[key]) for key in weights), (
            f"{mode}, {out}: other weights than those of the undisturbed run"
        )
        assert files_of(out) == files, f"{mode}, {out}: other files: {files_of(out) ^ files}"
        assert total["lost checkpoints"] == total["damaged checkpoints"] == 0, total
        total["runs ended as undisturbed"] += 1
        turn += 1
        print(f"{mode}: {dict(total)}", flush=True)
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        total = campaign(options.kills, options.seed, options.modes, Path(folder))
    names = ("kills", "of all ranks", "while saving", "runs ended as undisturbed", "lost checkpoints")
    print(", ".join(f"{total[name]} {name}" for name in (*names, "damaged checkpoints")))
    sys.exit(0)
