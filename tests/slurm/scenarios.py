"""What the tests submit to a cluster and do to it while it runs, side by side: waiting is what most of them do.

A scenario is a function of a `Work`; it returns once its jobs have ended, and raises where they did not end well.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from minicluster import LIMIT_S, POLL_S, Batch, Cluster
from safetensors.torch import load_file

STEPS = 28
"""Of a run that is disturbed: enough of them to be hit in the middle."""
LOOK_AT = 4
MODELS = {"train_gemma": "demo-gemma2", "train_llama": "demo-llama2", "train_deberta": "demo-deberta"}
TINY = ["data.sample_rows=240", "data.max_tokens=96", "train.batch_size=12", "train.max_steps=4", "train.eps=1e-6"]
LONG = [*TINY, f"train.max_steps={STEPS}", "train.epochs=9", f"train.eval_every={STEPS}", "train.save_every=1"]


def changes(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@dataclass
class Work:
    """A cluster, a folder for runs, and the runs of one process in it that others are compared with."""

    cluster: Cluster
    folder: Path

    def submit(
        self, file: str, name: str, nodes: int, settings: list[str], options: tuple[str, ...] = (), **variables: str
    ) -> Batch:
        """Submit slurm/FILE.sbatch to run in the folder NAME."""
        recipe = {"RECIPE": MODELS[file]} if file in MODELS else {}
        options = (f"--nodes={nodes}", *options)
        return Batch(self.cluster, file, self.folder / name, [*options], settings, recipe | variables)

    def long(self, name: str, nodes: int = 2, *settings: str, options: tuple[str, ...] = (), **variables: str) -> Batch:
        """A run to be disturbed."""
        return self.submit("train_llama", name, nodes, changes(*LONG, *settings), options, **variables)


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def assert_as_undisturbed(run: Path, other: Path, steps: int = STEPS) -> None:
    """Each step once, the same losses and the same weights, bit for bit."""
    assert len(losses(run)) == steps and losses(run) == losses(other)
    one, two = (load_file(path / "model" / "adapter_model.safetensors") for path in (run, other))
    assert one.keys() == two.keys() and len(one) > 0
    assert not [name for name in one if not torch.equal(one[name], two[name])]
    assert not list(run.rglob(".tmp-*"))


def hashes(folder: Path) -> dict[str, str]:
    """Of every file, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def signalled(work: Work) -> str:
    """To the batch script, as by `--signal=B:USR1@600`: it does then what `scancel --signal=USR2 JOB` does."""
    job = work.long("signalled")
    job.reach(LOOK_AT)
    work.cluster.slurm("scancel", "--signal=USR1", "--batch", job.id)
    return finished(job, "exit code 75 (asked to stop, and did)")


def out_of_time(work: Work) -> str:
    """The job's time runs short, and Slurm warns when it next looks at limits, up to 30 s later."""
    job = work.long("out_of_time", options=("--time=60", "--signal=USR2@120"), PYTHON=sys.executable)
    job.reach(LOOK_AT)
    ranks = job.ranks()
    assert len(ranks) == 2
    for pid in ranks:  # held until then, so that they are not done before: Slurm wakes what it warns
        os.kill(pid, signal.SIGSTOP)
    minutes = (time.time() - datetime.fromisoformat(job.info("StartTime")).timestamp()) // 60
    work.cluster.slurm("scontrol", "update", f"jobid={job.id}", f"TimeLimit={minutes + 2:.0f}")
    job.until(lambda: job.info("Restarts") == "1", "warned of the time limit, and requeued")
    work.cluster.slurm("scontrol", "update", f"jobid={job.id}", "TimeLimit=60")
    return finished(job, "exit code 75 (asked to stop, and did)")


def requeued(work: Work) -> str:
    job = work.long("requeued")
    job.reach(LOOK_AT)
    work.cluster.slurm("scontrol", "requeue", job.id)
    return finished(job, "Slurm ends this life of the job")


def killed(work: Work) -> str:
    """The node of rank 0 and of the batch script, whose connections end at once."""
    job = work.long("killed")
    job.reach(LOOK_AT)
    return finished(job, struck(work, job, "kill", 0))


def powered_off(work: Work) -> str:
    """The node of rank 1: no connection ends, so only time tells, and the watch names the rank."""
    job = work.long("powered_off", 2, "train.timeout_s=8")
    job.reach(LOOK_AT)
    node = struck(work, job, "poweroff", 1)
    return finished(job, f"no sign of life from rank 1 ({node}")


def cut_off(work: Work) -> str:
    """Two nodes that no longer reach each other: both sides run on until they notice."""
    job = work.long("cut_off", 2, "train.timeout_s=8")
    job.reach(LOOK_AT)
    struck(work, job, "cut", 0)
    return finished(job, "")


def struck(work: Work, job: Batch, fault: str, which: int) -> str:
    """Do this to one of the job's nodes, and undo it once the job runs elsewhere; returns the node."""
    node, before = job.nodes[which], job.info("Restarts")
    work.cluster(fault, node)
    job.until(lambda: job.info("Restarts") != before, f"requeued after {fault}")
    work.cluster("heal", node)
    return node


def finished(job: Batch, reason: str) -> str:
    """Wait for the job's end; it must have lived twice and told why."""
    text = job.end()
    assert int(job.info("Restarts")) >= 1, text
    assert reason in text and "restart 1, on " in text and "resumed from step-" in text, text
    return text


def split(work: Work) -> str:
    """A rank beyond a network cut comes back to life after its job has ended elsewhere, and tries to write."""
    job = work.long("split", 1, PYTHON=sys.executable)
    job.reach(LOOK_AT)
    (node,), (late,) = job.nodes, job.ranks()
    os.kill(late, signal.SIGSTOP)
    work.cluster("cut", node)
    text = job.end()
    assert "restart 1, on " in text and "taken over" not in text, text
    before = hashes(job.out)
    os.kill(late, signal.SIGCONT)
    deadline = time.monotonic() + LIMIT_S
    while Path(f"/proc/{late}").exists():
        assert time.monotonic() < deadline, "the cut-off rank runs on"
        time.sleep(POLL_S)
    assert hashes(job.out) == before
    work.cluster("heal", node)
    return job.text


def hopeless(work: Work) -> str:
    """Ends at once, every time."""
    job = work.submit("train_llama", "hopeless", 1, [], PYTHON="/bin/false", MOST_REQUEUES="1")
    text = job.end("FAILED")
    assert (job.info("Restarts"), job.info("ExitCode")) == ("1", "1:0")
    return text


def mistaken(work: Work) -> str:
    """Each rank finds it, and srun ends the others as soon as one of them has ended."""
    job = work.submit("train_llama", "mistaken", 2, changes("train.lr=fast"))
    text = job.end("FAILED")
    assert (job.info("Restarts"), job.info("ExitCode")) == ("0", "2:0")
    return text


class Running:
    """Scenarios under way, each in a thread."""

    def __init__(self, scenarios: dict[str, Callable[[], str]]) -> None:
        self.seconds: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(max(len(scenarios), 1))
        self._futures: dict[str, Future] = {
            name: self._pool.submit(self._timed, name, scenario) for name, scenario in scenarios.items()
        }

    def _timed(self, name: str, scenario: Callable[[], str]) -> str:
        started = time.monotonic()
        try:
            return scenario()
        finally:
            self.seconds[name] = time.monotonic() - started

    def result(self, name: str) -> str:
        """What the scenario returned, once it has; raises what it raised."""
        return self._futures[name].result()
