"""What slurm/pipeline.sh submits when a part of the chain is queued, done or has failed: on stand-ins for Slurm."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = """
tables/train - cpu done -
llama2/fold-0 tables/train gpu todo -
llama2/fold-0/oof llama2/fold-0 gpu todo -
llama2/fold-1 tables/train gpu todo -
llama2/fold-1/oof llama2/fold-1 gpu todo -
llama2/test llama2/fold-0,llama2/fold-1 gpu todo -
student llama2/fold-0/oof,llama2/fold-1/oof gpu todo -
report llama2/test,student cpu todo -
"""
STAND_INS = {
    "squeue": 'cat "$FAKE/queue"; if [ -e "$FAKE/later" ]; then mv "$FAKE/later" "$FAKE/queue"; fi',
    "sbatch": 'read -r n <"$FAKE/next"; echo $((n + 1)) >"$FAKE/next"; echo "$n $*" >>"$FAKE/calls"; echo "$n"',
    "scancel": 'echo "scancel $*" >>"$FAKE/calls"',
    "python": 'cat "$FAKE/stages"',
}
RECORD = "12 tables.train\n13 llama2.fold 0 1\n14 llama2.fold.oof 0 1\n15 llama2.test\n16 student\n17 report\n"


class Chain:
    """A chain in a folder of its own, whose Slurm is four files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "chain"
        for name, body in STAND_INS.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        (self.out / "slurm").mkdir(parents=True)
        self.be(queue="", stages=STAGES.strip().replace(" ", "\t") + "\n", next="80\n")
        (self.out / "slurm" / "jobs").write_text(RECORD)

    def be(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def __call__(self, *options: str, script: str = "pipeline", code: int = 0, wait_s: int = 0) -> str:
        settings = {"FAKE": str(self.folder), "PYTHON": str(self.folder / "python"), "WAIT_FOR_ENDING": str(wait_s)}
        words = ["bash", f"slurm/{script}.sh", *options, "--recipe", "r", "--out", self.out]
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", **settings},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def calls(self) -> list[str]:
        """What was submitted, as `JOB NAME ARRAY DEPENDENCY`, and what was cancelled."""
        found = []
        for line in (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []:
            words = line.split()
            wanted = ("--job-name=", "--array=", "--dependency=")
            picked = [word.partition("=")[2] for start in wanted for word in words if word.startswith(start)]
            found.append(line if words[0] == "scancel" else " ".join([words[0], *picked]))
        return found


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_the_first_call_submits_all_of_it_folds_as_arrays(chain):
    (chain.out / "slurm" / "jobs").unlink()
    assert "7 of 8 stages submitted, 7 not done yet" in chain()
    assert chain.calls() == [
        "80 llama2.fold 0,1",
        "81 llama2.fold.oof 0,1 aftercorr:80",
        "82 llama2.test afterok:80",
        "83 student afterok:81",
        "84 report afterok:82:83",
    ]
    record = (chain.out / "slurm" / "jobs").read_text()
    assert record == "80 llama2.fold 0 1\n81 llama2.fold.oof 0 1\n82 llama2.test\n83 student\n84 report\n"


def test_a_cancelled_fold_and_what_needs_it_are_submitted_again(chain):
    """Fold 0 is trained and its prediction is queued; fold 1 was cancelled, and Slurm has not yet ended what waits."""
    stages = STAGES.replace("fold-0 tables/train gpu todo", "fold-0 tables/train gpu done")
    chain.be(
        stages=stages.strip().replace(" ", "\t") + "\n",
        queue="14 llama2.fold.oof PENDING 0 Resources\n"
        "14 llama2.fold.oof PENDING 1 DependencyNeverSatisfied\n"
        "15 llama2.test PENDING N/A Dependency\n"
        "16 student PENDING N/A Dependency\n",
    )
    said = chain()
    assert chain.calls() == [
        "80 llama2.fold 1",
        "scancel 14_1",
        "81 llama2.fold.oof 1 afterok:80",
        "scancel 15",
        "82 llama2.test afterok:80",
        "scancel 16",
        "83 student afterok:14_0:81",
        "84 report afterok:82:83",
    ]
    assert "left out, as it is queued: llama2.fold.oof (14_0 pending)" in said
    assert "scancel 16 # student: it waits for a job that has failed or was cancelled" in said
    assert "5 of 8 stages submitted, 6 not done yet" in said


def test_a_cancelled_fold_is_submitted_again_while_the_other_one_trains(chain):
    chain.be(queue="13 llama2.fold RUNNING 0 None\n14 llama2.fold.oof PENDING 0 Dependency\n")
    said = chain()
    assert chain.calls() == [
        "80 llama2.fold 1",
        "81 llama2.fold.oof 1 afterok:80",
        "82 llama2.test afterok:13_0:80",
        "83 student afterok:14_0:81",
        "84 report afterok:82:83",
    ]
    assert "(13_0 running)" in said
    queue = "13 llama2.fold RUNNING 0 None\n80 llama2.fold RUNNING 1 None\n14 llama2.fold.oof PENDING 0 Dependency\n"
    queue += "81 llama2.fold.oof PENDING 1 Dependency\n82 llama2.test PENDING N/A Dependency\n"
    chain.be(queue=queue + "83 student PENDING N/A Dependency\n84 report PENDING N/A Dependency\n")
    assert "0 of 8 stages submitted, 7 not done yet" in chain() and len(chain.calls()) == 5


def test_what_waits_for_an_older_job_than_the_one_that_runs_is_submitted_again(chain):
    """As where the call before this one was ended half way: fold 1 is new, and its prediction waits for the old one."""
    with (chain.out / "slurm" / "jobs").open("a") as record:
        record.write("80 llama2.fold 1\n")
    chain.be(
        next="81\n",
        queue="13 llama2.fold RUNNING 0 None\n80 llama2.fold RUNNING 1 None\n"
        "14 llama2.fold.oof PENDING 0 Dependency\n14 llama2.fold.oof PENDING 1 Dependency\n",
    )
    chain()
    assert chain.calls()[:3] == [
        "scancel 14_1",
        "81 llama2.fold.oof 1 afterok:80_1",
        "82 llama2.test afterok:13_0:80_1",
    ]


def test_predictions_follow_their_folds_though_these_are_of_two_arrays(chain):
    with (chain.out / "slurm" / "jobs").open("a") as record:
        record.write("80 llama2.fold 1\n")
    chain.be(next="81\n", queue="13 llama2.fold RUNNING 0 None\n80 llama2.fold RUNNING 1 None\n")
    chain()
    assert chain.calls()[0] == "81 llama2.fold.oof 0,1 afterok:13_0:80_1"


def test_a_job_that_is_ending_is_waited_for(chain):
    chain.be(queue="13 llama2.fold COMPLETING 0 None\n")
    assert "job 13_0 (llama2.fold) is ending still: once squeue does not show it" in chain(code=2)
    assert chain.calls() == []
    chain.be(later="13 llama2.fold RUNNING 0 None\n")
    assert "waiting for jobs that are just ending" in chain(wait_s=60)
    assert chain.calls()[0] == "80 llama2.fold 1"


def test_states_tell_cancelled_from_not_submitted(chain):
    chain.be(queue="13 llama2.fold RUNNING 0 None\n14 llama2.fold.oof PENDING 0 Dependency\n")
    (chain.out / "slurm" / "jobs").write_text(RECORD.replace("17 report\n", ""))
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in chain("--status").splitlines()}
    assert lines["tables/train"] == "done"
    assert lines["llama2/fold-0"] == "running job 13_0"
    assert lines["llama2/fold-0/oof"] == "pending (Dependency) job 14_0"
    assert lines["llama2/fold-1"] == "cancelled before it began"
    assert lines["llama2/fold-1/oof"] == lines["student"] == "cancelled: what it needs failed"
    assert lines["report"] == "not submitted"
    assert chain.calls() == []


@pytest.mark.parametrize("script", ["pipeline", "sweep"])
def test_help_is_the_head_of_the_file(chain, script):
    said = chain("--help", script=script)
    assert said.startswith("Submits ") and f"slurm/{script}.sh --status" in said and "#" not in said
    assert chain.calls() == []


def test_each_trial_of_a_rung_has_its_line_and_its_log(chain):
    stages = "draw - cpu done -\nrung-0.0 draw gpu todo 2,3\ndecide-0.0 rung-0.0 cpu todo -\n"
    chain.be(stages=stages.replace(" ", "\t"), queue="21 rung-0.0 PENDING 2 Priority\n21 rung-0.0 PENDING 3 Priority\n")
    (chain.out / "slurm" / "jobs").write_text("20 draw\n21 rung-0.0 2 3\n22 decide-0.0\n")
    early = [line.split()[0] for line in chain("--status", script="sweep").splitlines()[1:-1]]
    assert early == ["draw", "rung-0.0/2", "rung-0.0/3", "decide-0.0"], "before the first result"
    chain.be(stages=stages.replace(" ", "\t"), queue="21 rung-0.0 RUNNING 3 None\n")
    (chain.out / "slurm" / "jobs").write_text("20 draw\n21 rung-0.0 0 1 2 3\n22 decide-0.0\n")
    answers = chain.out / "rungs" / "0.0"
    answers.mkdir(parents=True)
    (answers / "0.json").write_text("{}")
    (answers / "1.failed").write_text("a loss that is not finite")
    for place in range(4):
        (chain.out / "slurm" / f"rung-0.0-21_{place}.out").write_text(f"begun\nat step {place}\n")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in chain("--status", script="sweep").splitlines()}
    assert lines["rung-0.0/0"] == "done rung-0.0-21_0.out"
    assert lines["rung-0.0/1"] == "failed rung-0.0-21_1.out"
    assert lines["rung-0.0/2"] == "not done, and not queued rung-0.0-21_2.out"
    assert lines["rung-0.0/3"] == "running job 21_3 rung-0.0-21_3.out"
    assert lines["decide-0.0"] == "cancelled: what it needs failed"
    listed = chain("--log", "rung-0.0", script="sweep").splitlines()[1:]
    assert [line.split() for line in listed] == [[f"rung-0.0-21_{k}.out", "at", "step", str(k)] for k in range(4)]
    assert chain("--log", "rung-0.0/2", script="sweep").endswith("begun\nat step 2\n")
    chain(script="sweep")
    assert chain.calls() == ["80 rung-0.0 2", "81 decide-0.0 afterok:21_3:80"]
