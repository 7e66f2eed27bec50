"""Jobs whose nodes more urgent ones take: requeued, or suspended for a while."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minicluster import LIMIT_S, POLL_S, Batch, Cluster, cluster_of
from scenarios import LONG, LOOK_AT, STEPS, Work, assert_as_undisturbed, changes, losses

from tiebreak.cli import main

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(LIMIT_S)]
SUSPENDED_S = 5


@pytest.fixture(scope="module")
def cluster(slurm, warm_program, tmp_path_factory) -> Iterator[Cluster]:
    """One node, and partitions that differ in urgency."""
    with cluster_of(tmp_path_factory.mktemp("slurm") / "cluster", 1, MINISLURM_PREEMPT="1") as cluster:
        cluster.environment["PYTHON"] = warm_program
        yield cluster


def take_nodes(cluster: Cluster, job: Batch, state: str, seconds: int) -> None:
    """An urgent job comes for so long, and the job is seen in this state meanwhile."""
    words = ["--partition=urgent", "--exclusive", "--gpus-per-node=0", "--output=/dev/null", f"--wrap=sleep {seconds}"]
    urgent = cluster.slurm("sbatch", "--parsable", *words).strip()
    job.until(lambda: job.info("JobState") == state, state)
    deadline = time.monotonic() + LIMIT_S
    while cluster.slurm("squeue", "-h", "-t", "all", "-j", urgent, "-o", "%T").strip() != "COMPLETED":
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def test_a_preempted_job_is_requeued_and_ends_as_undisturbed(cluster, tmp_path):
    alone = tmp_path / "alone"
    assert main(["train", "--recipe", "demo-llama2", *changes(*LONG), "--resume", "auto", "--out", str(alone)]) == 0
    job = Work(cluster, tmp_path).long("requeued", 1)
    job.reach(LOOK_AT)
    take_nodes(cluster, job, "PENDING", 1)
    text = job.end()
    assert job.info("Restarts") == "1" and "Slurm ends this life of the job" in text and "resumed from step-" in text
    assert_as_undisturbed(job.out, alone)


def test_a_suspended_job_goes_on_where_it_stood(cluster, tmp_path):
    """Real processes: what stands for a warm one cannot be stopped."""
    options = ("--partition=patient", "--ntasks-per-node=2", "--cpus-per-task=2", "--gpus-per-node=0")
    work = Work(cluster, tmp_path)
    job = work.long("suspended", 1, options=options, PYTHON=sys.executable)
    job.reach(LOOK_AT)
    take_nodes(cluster, job, "SUSPENDED", SUSPENDED_S)
    text = job.end()
    assert job.info("Restarts") == "0", text
    assert "restart 0, on n1" in text and len(losses(Path(job.out))) == STEPS
