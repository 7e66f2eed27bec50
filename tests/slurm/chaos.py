"""Disturb jobs on a cluster at random, each several times, and see whether each ends as if nothing had happened.

    python tests/slurm/chaos.py --faults 20

A job trains on two nodes under DDP, ZeRO-2 or FSDP2. At a random step one of FAULTS befalls it; a node that was struck
heals once the job runs elsewhere. After three faults it is left alone until it ends. Its losses and its weights must
then be, bit for bit, those of an undisturbed job with the same engine.
"""

import argparse
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from minicluster import Batch, cluster_of
from scenarios import Work, assert_as_undisturbed, struck

ENGINES = {"ddp": {}, "zero2": {"ENGINE": "deepspeed"}, "fsdp": {"ENGINE": "fsdp"}}
FAULTS = ("signal", "signal to the batch script", "requeue", "kill", "poweroff", "cut")
SIGNALS = ("USR1", "USR2")
EACH = 3
WITHIN = 12
"""Steps after a life's first, until the fault at the latest."""


def disturb(work: Work, job: Batch, fault: str, chance: random.Random) -> None:
    """One fault at a random step, and its end: the job has been requeued, or was quicker."""
    before, at = job.info("Restarts"), job.step() + chance.randint(1, WITHIN)
    job.until(lambda: job.step() >= at, f"step {at}")
    if fault == "signal":
        work.cluster.slurm("scancel", f"--signal={chance.choice(SIGNALS)}", job.id)
    elif fault == "signal to the batch script":
        work.cluster.slurm("scancel", f"--signal={chance.choice(SIGNALS)}", "--batch", job.id)
    elif fault == "requeue":
        work.cluster.slurm("scontrol", "requeue", job.id)
    else:
        struck(work, job, fault, chance.randrange(2))
    job.until(lambda: job.info("Restarts") != before, f"requeued after {fault}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, tally, started = random.Random(options.seed), Counter(), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="slurm-chaos-"))
    os.environ["TIEBREAK_CACHE"] = str(folder / "cache")
    with cluster_of(folder / "cluster", 4) as cluster:
        work, left = Work(cluster, folder), options.faults
        for engine in ENGINES:
            work.long(f"undisturbed-{engine}", **ENGINES[engine]).end()
        while left:
            engine, now = chance.choice(list(ENGINES)), min(EACH, left)
            job = work.long(f"job-{tally['jobs']}", 2, "train.timeout_s=20", **ENGINES[engine])
            for _ in range(now):
                fault = chance.choice(FAULTS)
                disturb(work, job, fault, chance)
                tally[fault] += 1
                print(f"{time.monotonic() - started:5.0f} s  {engine}, job {job.id}: {fault}", flush=True)
            job.end()
            assert_as_undisturbed(job.out, folder / f"undisturbed-{engine}" / "run")
            left, tally["jobs"] = left - now, tally["jobs"] + 1
    faults = ", ".join(f"{tally[fault]} {fault}" for fault in FAULTS)
    print(f"{options.faults} faults ({faults}); {tally['jobs']} jobs, each ended as undisturbed")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
