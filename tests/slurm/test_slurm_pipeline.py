"""slurm/pipeline.sh: a chain by job dependencies, with a stage that fails and a node that dies on its way."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minicluster import LIMIT_S, POLL_S, Cluster, cluster_of
from scenarios import STEPS

from tiebreak.cli import main
from tiebreak.pipeline.run_pipeline import open_pipeline, plan_stages

pytestmark = [pytest.mark.processes, pytest.mark.timeout(LIMIT_S)]
SMALL = "train.batch_size=12, data.max_tokens=96, train.save_every=1, train.eps=1e-6"
RECIPE = f"""
folds: 2
teachers:
  llama2: {{recipe: demo-llama2, set: [{SMALL}, train.max_steps={STEPS}, train.epochs=9, train.eval_every={STEPS}]}}
student: {{recipe: distill-demo, set: [{SMALL}, train.max_steps=4]}}
from_labels: false
sample: {{rows: 200, test_rows: 60, profile: short}}
"""
WRAPPER = """#!/bin/sh
# Python, but for one stage as long as the file is there; it fails once the other is gone.
case "$*" in *"--stage tables/check")
  if [ -e "$BROKEN" ]; then while [ -e "$BROKEN.held" ]; do sleep 0.1; done; exit 1; fi ;;
esac
exec {python} "$@"
"""


def in_one_process(recipe: Path, out: Path) -> bytes:
    """The same chain, stage by stage in this process: its submission."""
    for stage in plan_stages(open_pipeline(str(recipe), out)):
        assert main(stage.arguments) == 0
    return (out / "submission.csv").read_bytes()


def states(cluster: Cluster) -> dict[str, list[str]]:
    """Of all jobs by stage, in the order of submission."""
    found: dict[str, list[str]] = {}
    lines = cluster.slurm("squeue", "-h", "-r", "-t", "all", "-o", "%i %j %T").splitlines()
    rows = [(*map(int, job.split("_")), name, state) for job, name, state in map(str.split, lines)]
    for *_, name, state in sorted(rows):
        found.setdefault(name, []).append(state)
    return found


def finished(found: dict[str, list[str]]) -> bool:
    """Whether the last jobs of each stage, two of folds, are completed."""
    return {state for name, row in found.items() for state in row[-2 if "fold" in name else -1 :]} == {"COMPLETED"}


def wait(condition, what) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(2 * POLL_S)


@pytest.fixture
def cluster(slurm, folder) -> Iterator[Cluster]:
    """With no other jobs."""
    with cluster_of(folder, 3) as cluster:
        yield cluster


def test_a_chain_ends_as_in_one_process_through_a_failed_stage_and_a_dead_node(cluster, warm_program, tmp_path):
    recipe, out, wrapper, broken = (tmp_path / name for name in ("small.yaml", "chain", "python", "broken"))
    recipe.write_text(RECIPE)
    wrapper.write_text(WRAPPER.replace("{python}", warm_program))
    wrapper.chmod(0o755)
    broken.touch()
    held = tmp_path / "broken.held"
    held.touch()

    def pipeline(*options: str) -> str:
        words = ["slurm/pipeline.sh", *options, "--recipe", recipe, "--out", out]
        return cluster.slurm(*words, PYTHON=str(wrapper), BROKEN=str(broken))

    planned = pipeline("--dry-run")
    assert planned.count("sbatch --parsable --kill-on-invalid-dep=yes") == 10
    assert "--array=0,1 --dependency=aftercorr:<llama2.fold> slurm/stage.sbatch gpu llama2/fold-%a/oof" in planned
    assert "--dependency=afterok:<llama2.fold.oof> slurm/stage.sbatch gpu student" in planned
    assert "12 of 12 stages would be submitted" in planned and not out.exists() and not states(cluster)

    said = pipeline()
    assert "12 of 12 stages submitted" in said and "squeue --jobs=" in said
    pending = re.compile(r"^llama2/fold-1/oof +pending \(Dependency\) job \d+", re.M)
    wait(lambda: pending.search(pipeline("--status")), lambda: pipeline("--status"))  # Slurm finds its reason later
    assert re.search(r"^0 of 12 stages submitted", pipeline(), re.M), "all of them are queued"
    held.unlink()
    ended = {"COMPLETED", "FAILED", "CANCELLED"}
    wait(lambda: {state for row in states(cluster).values() for state in row} <= ended, lambda: states(cluster))
    found = states(cluster)
    assert found.pop("tables.train") == found.pop("tables.test") == ["COMPLETED"]
    assert found.pop("tables.check") == ["FAILED"]
    assert {state for row in found.values() for state in row} == {"CANCELLED"} and len(found) == 7
    assert re.search(r"^tables/check +not done, and not queued +tables.check-\d+.out$", pipeline("--status"), re.M)
    assert "tables/check is not done" in pipeline("--log", "tables/check")
    (log,) = (out / "slurm").glob("tables.check-*.out")
    assert (
        "tables/check is not done; unless Slurm requeues it, what needs it is cancelled. To go on: slurm/"
        in log.read_text()
    )

    expected = in_one_process(recipe, tmp_path / "alone")
    broken.unlink()
    assert "10 of 12 stages submitted" in pipeline()
    checkpoints = out / "llama2" / "fold-0" / "checkpoints"
    wait(lambda: any(checkpoints.glob("step-*")), lambda: states(cluster))
    tasks = cluster.slurm("squeue", "-h", "-r", "-t", "R", "-n", "llama2.fold", "-o", "%K %N").split()
    node = dict(zip(tasks[::2], tasks[1::2], strict=True))["0"]
    cluster("kill", node)
    wait(lambda: finished(states(cluster)), lambda: states(cluster))
    cluster("heal", node)
    (log,) = (path for path in (out / "slurm").glob("llama2.fold-*_0.out") if path.stat().st_size)
    assert "restart 1, on " in log.read_text() and "resumed from step-" in log.read_text()
    assert (out / "submission.csv").read_bytes() == expected
    assert (out / "report" / "index.html").is_file()
    assert "0 of 12 stages submitted, 0 not done yet" in pipeline()
    assert pipeline("--status").count(" done ") == 12
