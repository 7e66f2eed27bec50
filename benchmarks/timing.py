"""What all measurements of speed share: ways that take turns, medians, records, models and rows, floors.

A script of this folder measures one claim. Run alone it prints a JSON list of records, one for each setting; `run.py`
runs them all and makes the table. Every script takes `--threads`, `--rounds` and `--quick`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tiebreak.process import prepare_process

prepare_process()  # allocator and threads as the commands have them, for the peers too

HERE = Path(__file__).parent
Ways = dict[str, Callable[[], Any]]


class Turns:
    """Seconds of each way in each round, and what it returned."""

    def __init__(self, names: Iterable[str]) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.results: dict[str, list[Any]] = {name: [] for name in self.seconds}

    def of(self, name: str) -> float:
        """The median seconds."""
        return median(self.seconds[name])

    def rates(self, amount: float) -> dict[str, float]:
        """`amount` a second, by way."""
        return {name: amount / self.of(name) for name in self.seconds}

    @property
    def raw(self) -> dict[str, list[float]]:
        """Seconds to be kept beside the medians."""
        return {name: [round(value, 5) for value in each] for name, each in self.seconds.items()}


def take_turns(ways: Ways, rounds: int, warm: int = 1) -> Turns:
    """Run every way once in each round, in the opposite order in every other round; `warm` rounds come before."""
    turns, names = Turns(ways), list(ways)
    for turn in range(-warm, rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            began = time.perf_counter()
            result = ways[name]()
            took = time.perf_counter() - began
            if turn >= 0:
                turns.seconds[name].append(took)
                turns.results[name].append(result)
            what = f"round {turn + 1}/{rounds}" if turn >= 0 else "warm-up"
            if took > 1:
                print(f"  {what}: {name}, {took:.1f} s", file=sys.stderr, flush=True)
    return turns


class Gate:
    """Holds a way of another process back until its turn; `gate(what)` ends a step and tells what came of it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __call__(self, told: Any = None) -> None:
        try:
            self.connection.send(told)
            self.connection.recv()
        except (EOFError, BrokenPipeError):  # the measurement was ended
            sys.exit(0)


@contextmanager
def stepping(target: Callable[..., None], *arguments: Any, threads: int, warm: int = 1) -> Iterator[Callable[[], Any]]:
    """Start `target(gate, *arguments)` in a process of its own, and give a function that runs its next step.

    Args:
        target: a function of a module; it calls `gate` at the end of each step.
        arguments: of the target, picklable.
        threads: of the process.
        warm: steps that it runs before this returns.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_target, args=(there, threads, target, arguments))
    process.start()
    there.close()

    def receive() -> Any:
        try:
            return here.recv()
        except EOFError:
            raise RuntimeError(f"{target.__name__} ended before its turn was over; what it said stands above") from None

    def step() -> Any:
        here.send(None)
        return receive()

    try:
        receive()
        for _ in range(warm - 1):
            step()
        yield step
    finally:
        process.kill()
        process.join()


def _run_target(connection: Any, threads: int, target: Callable[..., None], arguments: tuple) -> None:
    use_threads(threads)
    with redirect_stdout(sys.stderr):
        target(Gate(connection), *arguments)


def fresh(target: Callable[..., Any], *arguments: Any, threads: int = 1) -> Any:
    """What a function of a module returns in a new process."""
    with stepping(_tell, target, arguments, threads=threads, warm=0) as step:
        return step()


def _tell(gate: Gate, target: Callable[..., Any], arguments: tuple) -> None:
    gate()
    gate(target(*arguments))


def use_threads(threads: int) -> None:
    """Of torch here, and of everything in processes started from here."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def peak_growth(work: Callable[[], Any]) -> float:
    """MiB by which this process's peak grows while `work` runs."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; importing has a high one
    before = _peak_kib()
    work()
    return (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def has(package: str) -> bool:
    """Whether a peer is installed (benchmarks/requirements.txt); says so where it is not."""
    if find_spec(package) is not None:
        return True
    print(f"  {package} is not installed: pip install -r benchmarks/requirements.txt", file=sys.stderr, flush=True)
    return False


def peer(library: str, comes: float | None = None, best: float | None = None, how: str = "", package: str = "") -> dict:
    """A peer of a record: its figure as it comes and at its best, and how that is; both None where it is absent."""
    return {"library": library, "comes": comes, "best": best, "how": how, "absent": bool(package and not has(package))}


def record(setting: str, unit: str, ours: float, peers: list[dict], parity: str = "", **more: Any) -> dict:
    """One setting's figures: more is better in units a second and for `x` (times), less in all others."""
    return {"setting": setting, "unit": unit, "ours": ours, "peers": peers, "parity": parity, **more}


def ratio(found: dict, figure: float) -> float:
    """How many times better ours is than a peer's figure."""
    return found["ours"] / figure if "/s" in found["unit"] else figure / found["ours"]


def floor_of(found: dict) -> float | None:
    """The ratio that a regression shows in: against the first peer at its best, else as it comes."""
    for one in found["peers"]:
        figure = one["best"] if one["best"] is not None else one["comes"]
        if figure is not None:
            return ratio(found, figure)
    return None


def machine() -> str:
    """The processor, its cores, and the versions that count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model\t")), "")
    packages = ("torch", "transformers", "sentence-transformers", "trl", "onnxruntime")
    versions = [f"{package} {found}" for package in packages if (found := installed(package))]
    return f"{name}{f' (model {model})' if model else ''}, {os.cpu_count()} cores; {', '.join(versions)}"


def installed(package: str) -> str:
    """Its version, empty where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def by_recipe(measure_one: Callable[..., Iterable[dict]]) -> Callable[..., Iterable[dict]]:
    """Measure one recipe after another, each in a folder of its own; `--quick` takes short rows and few peers."""

    def measure(options: argparse.Namespace, folder: Path) -> Iterable[dict]:
        if options.quick:
            options.max_tokens, options.all = 512, False
        for recipe in options.recipes:
            yield from measure_one(recipe, options, folder / recipe)

    return measure


def run_claim(doc: str, measure: Callable[..., Iterable[dict]], rounds: int = 5, **options: dict) -> None:
    """The command line of a claim's script: parse it, measure in a temporary folder, print the records.

    Args:
        doc: the script's docstring.
        measure: (options, folder) -> records.
        rounds: counted, by default.
        options: further options by name, with argparse's keywords.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, help=f"counted; {rounds} without")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    for name, keywords in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **keywords)
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (3 if chosen.quick else rounds)
    use_threads(chosen.threads)
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:  # progress goes to stderr
        os.environ["TIEBREAK_CACHE"] = f"{folder}/cache"  # tokens of earlier runs count for nothing
        found = [one | {"threads": chosen.threads} for one in measure(chosen, Path(folder))]
    print(json.dumps(found, indent=2))
