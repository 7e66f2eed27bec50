"""Kill a whole chain at random instants and see whether it ends as if nothing had happened.

    python tests/pipeline/pipeline_chaos.py --kills 20

Every process of the chain gets SIGKILL at a random instant; then the same command is run again, until the chain is
done, and another chain is begun until so many kills have been had. Predictions, table and student must be those of an
undisturbed chain, byte for byte, and no finished stage may have been run a second time.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
import warm

from tiebreak.pipeline.run_pipeline import open_pipeline, plan_stages

SETTINGS = ["train.max_steps=4", "train.save_every=1", "train.eval_every=2", "train.batch_size=16"]
SETTINGS += ["data.max_tokens=96"]
RECIPE = {
    "folds": 2,
    "swap": True,
    "teachers": {"llama": {"recipe": "demo-llama2", "set": [*SETTINGS, "model.method=full"]}},
    "student": {"recipe": "distill-demo", "set": SETTINGS},
    "sample": {"rows": 120, "test_rows": 60, "extra_rows": 40},
}
RESULTS = ["submission.csv", "llama/test/predictions.csv", "student/model/model.safetensors"]
DEADLINE_S = 600


def command(home: Path, out: Path) -> list[str]:
    recipe = home / "chain.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    return [sys.executable, "-m", "tiebreak", "pipeline", "--recipe", str(recipe), "--out", str(out)]


def run(words: list[str], log: Path, kill_after: float | None = None) -> bool:
    """Whether the command ended by itself; else its processes, all of them, were killed."""
    with open(log, "a") as file:
        process = warm.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        code = process.wait(timeout=DEADLINE_S if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if kill_after is None:
            raise
        return False
    if code:
        raise SystemExit(f"the chain ended with {code}:\n{log.read_text()[-4000:]}")
    return True


def torment(home: Path, kills: int, seed: int, longest: float) -> tuple[int, int, float]:
    """Kills that hit running chains, one chain after another; how many chains; the seconds of an undisturbed one.

    Raises:
        AssertionError: one ended otherwise than undisturbed, or did something twice.
    """
    started = time.monotonic()
    assert run(command(home, home / "calm"), home / "calm.txt")
    calm_s = time.monotonic() - started
    chance, had, chains = random.Random(seed), 0, 0
    while had < kills:
        chains += 1
        had += torment_one(home, home / f"killed-{chains}", kills - had, chance, longest)
        print(f"{had} kills, {chains} chains as undisturbed", flush=True)
    return had, chains, calm_s


def torment_one(home: Path, out: Path, kills: int, chance: random.Random, longest: float) -> int:
    """Kills that hit one chain before it was done, so many at most."""
    words, log, had = command(home, out), home / "killed.txt", 0
    stages = plan_stages(open_pipeline(words[5], out))
    done: dict[Path, int] = {}
    while had < kills and not run(words, log, chance.uniform(0.5, longest)):
        had += 1
        done |= {stage.done: stage.done.stat().st_mtime_ns for stage in stages if stage.done.is_file()} | done
    assert run(words, log)
    repeated = [str(path) for path, written in done.items() if path.stat().st_mtime_ns != written]
    assert not repeated, repeated
    for name in RESULTS:
        assert (out / name).read_bytes() == (home / "calm" / name).read_bytes(), name
    return had


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=30, help="seconds until a kill, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["TIEBREAK_CACHE"] = f"{home}/cache"
        had, chains, calm_s = torment(Path(home), options.kills, options.seed, options.longest)
    print(f"{had} kills; {chains} chains ended as undisturbed ({calm_s:.0f} s), no finished stage run twice")
    return 0


if __name__ == "__main__":
    sys.exit(main())
