"""A minislurm and the jobs on it, for tests."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MINISLURM = ROOT / "launch" / "minislurm"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where daemons are, and not every user looks
INSTALLED = all(shutil.which(name, path=PATH) for name in ("slurmctld", "slurmd", "munged"))
LIMIT_S = 1200
"""For a job from its submission on: jobs queue, and the machine may be busy with more than these."""
POLL_S, LOOK_EVERY_S = 0.1, 0.5
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class Cluster:
    """A running minislurm in a folder of its own."""

    def __init__(self, folder: Path, nodes: int, **settings: str) -> None:
        self.folder = folder
        self.environment = os.environ | {"MINISLURM_DIR": str(folder)} | settings
        self("up", str(nodes))
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        self.environment |= {"PYTHON": sys.executable, "TIEBREAK_HOME": str(ROOT)}
        self._lock, self._looked, self._jobs = threading.Lock(), 0.0, dict[str, str]()

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a minislurm command; returns what it says."""
        return self._run(MINISLURM, *words, code=code)

    def slurm(self, *words: object, code: int | None = 0, **settings: str) -> str:
        """Run one of Slurm's commands; returns what it says."""
        return self._run(*words, code=code, **settings)

    def job(self, name: str) -> str:
        """What Slurm says of a job."""
        return self._known(name)[name]

    def tasks(self, name: str) -> list[str]:
        """What Slurm says of a job or, if it is an array, of each of its tasks."""
        jobs = self._known(name).items()
        return [text for job, text in jobs if job == name or f" ArrayJobId={name} " in text]

    def _known(self, name: str) -> dict[str, str]:
        """All jobs, asked for at once, and not all the time: many threads wait."""
        with self._lock:
            if name not in self._jobs or time.monotonic() - self._looked > LOOK_EVERY_S:
                lines = self.slurm("scontrol", "show", "jobs", "-o").splitlines()
                self._jobs = {line.split()[0].removeprefix("JobId="): line for line in lines if line}
                self._looked = time.monotonic()
            return self._jobs

    def _run(self, *words: object, code: int | None, **settings: str) -> str:
        environment = {**self.environment, **settings}
        command = [str(word) for word in words]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
        )
        assert code in (None, done.returncode), f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@contextmanager
def cluster_of(folder: Path, nodes: int, **settings: str) -> Iterator[Cluster]:
    """A cluster that is down afterwards, whatever happens."""
    try:
        yield Cluster(folder, nodes, **settings)
    finally:
        environment = os.environ | {"MINISLURM_DIR": str(folder)}
        subprocess.run([MINISLURM, "down"], env=environment, check=True, timeout=200)


class Batch:
    """A submitted batch file.

    Args:
        folder: where its output goes, and by default that of the run.
        options: of sbatch. arguments: of the batch file. settings: environment variables.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        folder: Path,
        options: list[str],
        arguments: list[str],
        settings: dict[str, str],
    ) -> None:
        self.cluster, self.out = cluster, folder / "run"
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "batch.out"
        words = ["sbatch", "--parsable", f"--output={self.output}", *options, f"slurm/{name}.sbatch", *arguments]
        self.id = cluster.slurm(*words, **{"OUT": str(self.out), **settings}).strip()

    def info(self, field: str) -> str:
        """A field of the job as Slurm knows it: JobState, Restarts, NodeList, ExitCode, ..."""
        text = self.cluster.job(self.id)
        found = re.search(rf"(?:^| ){field}=(\S*)", text)
        assert found is not None, text
        return found[1]

    @property
    def nodes(self) -> list[str]:
        return self.cluster.slurm("scontrol", "show", "hostnames", self.info("NodeList")).split()

    @property
    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Poll until it holds; a job that ends before fails the test, as does a long time."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert self.info("JobState") not in ENDED, f"job {self.id} ended before {what}\n{self.text[-4000:]}"
            assert time.monotonic() < deadline, f"job {self.id}: not {what} in {LIMIT_S} s\n{self.text[-4000:]}"
            time.sleep(POLL_S)

    def reach(self, step: int) -> None:
        """Until a checkpoint of this step or a later one is there."""
        self.until(lambda: self.step() >= step, f"step {step}")

    def step(self) -> int:
        """The newest checkpoint's."""
        return max((int(path.name[5:]) for path in (self.out / "checkpoints").glob("step-*")), default=0)

    def end(self, state: str = "COMPLETED") -> str:
        """Wait until Slurm has done with the job or all tasks of the array, in this state; returns its output."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := self._states()) <= ENDED:
            assert time.monotonic() < deadline, f"job {self.id} still {found} after {LIMIT_S} s\n{self.text[-4000:]}"
            time.sleep(2 * POLL_S)
        assert found == {state}, f"job {self.id} is {found}\n{self.text[-6000:]}"
        return self.text

    def _states(self) -> set[str]:
        return {re.findall(r" JobState=(\S*)", text)[0] for text in self.cluster.tasks(self.id)}

    def ranks(self) -> list[int]:
        """Process ids of its ranks, on all nodes."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes().split(b"\0")
                command = (path / "cmdline").read_bytes()
            except OSError:  # gone meanwhile
                continue
            mine = f"SLURM_JOB_ID={self.id}".encode() in environment
            ours = f"SLURM_CONF={self.cluster.environment['SLURM_CONF']}".encode() in environment
            if mine and ours and command.startswith(sys.executable.encode()):
                found.append(int(path.name))
        return found
