"""A sweep as arrays of jobs on nodes that are killed, and the same in one process: they end with the same table.

python tests/slurm/sweeping.py       24 trials on six nodes, three of which are killed, one in each rung
"""

import csv
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minicluster import LIMIT_S, POLL_S, Cluster, cluster_of

from tiebreak.cli import main as tiebreak

STEPS, RUNGS, FACTOR = 18, 3, 3
SPACE = f"""
trials: TRIALS
seed: 5
rungs: {RUNGS}
reduction_factor: {FACTOR}
space:
  train.lr: {{low: 1.0e-5, high: 1.0e-2, log: true}}
  train.warmup: [0.0, 0.1, 0.2]
set: [train.batch_size=12, data.max_tokens=96, train.epochs=9, train.max_steps={STEPS}, train.save_every=1]
"""


def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(POLL_S)


def step_of(run: Path) -> int:
    return max((int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")), default=0)


def entrants(out: Path, rung: int) -> list[int]:
    """Numbers of the trials of a rung."""
    stored = json.loads((out / "rungs" / f"0.{rung}.json").read_text())
    return [entrant["number"] for entrant in stored["entrants"]]


def kill_a_node(cluster: Cluster, out: Path, rung: int) -> None:
    """One on which a trial has made steps of this rung, and is not done with it."""
    first, last = (0 if rung == 0 else STEPS // FACTOR ** (RUNGS - rung)), STEPS // FACTOR ** (RUNGS - 1 - rung)

    def struck() -> bool:
        words = ["squeue", "-h", "-t", "R", "-n", f"rung-0.{rung}", "-o", "%K %N"]
        for place, node in (line.split() for line in cluster.slurm(*words).splitlines()):
            running = entrants(out, rung)
            if int(place) < len(running) and first < step_of(out / "trials" / f"{running[int(place)]:03d}") < last:
                cluster("kill", node)
                return True
        return False

    until(struck, lambda: (rung, cluster.slurm("squeue", "-t", "all")))


def undisturbed(command: list[str], out: Path) -> None:
    """The same sweep, stage by stage in this process."""
    assert tiebreak([*command, "--stage", "draw"]) == 0
    for rung in range(RUNGS):
        for place in range(len(entrants(out, rung))):
            assert tiebreak([*command, "--stage", f"rung-0.{rung}/{place}"]) == 0
        assert tiebreak([*command, "--stage", f"decide-0.{rung}"]) == 0


def sweep_through_kills(cluster: Cluster, folder: Path, data: Path, trials: int, rungs: tuple[int, ...]) -> str:
    """Kill a node in each of these rungs, and compare; returns what it came to.

    Args:
        cluster: with more nodes than are killed.
        folder: for both sweeps.
        data: a labelled table.
        trials: of the sweep.
        rungs: in which a node is killed.
    """
    space, out, alone = folder / "space.yaml", folder / "sweep", folder / "alone"
    space.write_text(SPACE.replace("TRIALS", str(trials)))
    words = [space, "--recipe", "demo-deberta", "--data", data]

    def sweep(*options: object) -> str:
        shape = "--exclusive --cpus-per-task=1"
        return cluster.slurm("slurm/sweep.sh", *options, "--out", out, GPU_STAGES=shape)

    planned = sweep("--dry-run", *words)
    assert planned.count("sbatch --parsable") == 1 + 2 * RUNGS and not out.exists()
    places = ",".join(map(str, range(-(-trials // FACTOR))))
    assert f"--array={places} --dependency=afterok:<decide-0.0>" in planned
    assert f"of {1 + RUNGS + sum(-(-trials // FACTOR**r) for r in range(RUNGS))} stages submitted" in sweep(*words)
    for rung in rungs:
        kill_a_node(cluster, out, rung)
    until(lambda: (out / "table.csv").is_file(), lambda: cluster.slurm("squeue", "-t", "all"))
    assert " todo" not in (said := sweep("--status", *words)) and "not queued" not in said
    assert "step " in sweep("--log", "rung-0.0/1")

    undisturbed(["sweep", *map(str, words), "--out", str(alone)], alone)
    for name in ("table.csv", "best.yaml"):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert len(rows) == trials and (rows[0]["state"], rows[0]["step"]) == ("finished", str(STEPS))
    whole = trials * int(rows[0]["tokens"])  # every trial has the same rows in its steps
    share = sum(int(row["tokens"]) for row in rows) / whole
    assert share <= 0.4
    logs = "".join(path.read_text() for path in (out / "slurm").glob("rung-*.out"))
    requeues = logs.count("restart 1, on ")
    assert requeues >= len(rungs)
    ended = f"the undisturbed table, {share:.1%} of the tokens"
    return f"{trials} trials, {len(rungs)} killed nodes, {requeues} requeues: {ended}"


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="slurm-sweep-"))
    os.environ["TIEBREAK_CACHE"] = str(folder / "cache")
    assert (
        tiebreak(["sample", "--rows", "400", "--seed", "3", "--profile", "short", "--out", str(folder / "t.csv")]) == 0
    )
    with cluster_of(folder / "cluster", 6, MINISLURM_TIMEOUT="5") as cluster:
        print(sweep_through_kills(cluster, folder, folder / "t.csv", 24, (0, 1, 2)))


if __name__ == "__main__":
    main()
