"""The launch scripts: two ranks each, on one node or on two, the losses of one process."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"
SBATCH = sorted((LAUNCH.parent / "slurm").glob("*.sbatch"))
CHANGES = ["data.sample_rows=400", "train.max_steps=3", "train.batch_size=16", "train.eps=1e-6", "data.max_tokens=128"]
OPTIONS = [part for change in CHANGES for part in ("--set", change)]
SCRIPTS = {"fsdp.sh": "fsdp", "deepspeed.sh": "zero2"}


def losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory) -> list[float]:
    """The losses of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run(sys.executable, "src/train.py", *OPTIONS, "--out", out)
    return losses(out)


@pytest.mark.processes
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_trains_on_two_ranks(run, alone, tmp_path, script):
    run("bash", LAUNCH / script, *OPTIONS, "--out", tmp_path / "run", GPUS="2")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (environment["engine"], environment["world"]) == (SCRIPTS[script], 2)
    assert losses(tmp_path / "run") == pytest.approx(alone, abs=1e-5)


@pytest.mark.processes
def test_two_nodes_meet(alone, tmp_path):
    """Two launchers on this machine, as on two nodes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"NNODES": "2", "GPUS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "PATH": path}
    out = tmp_path / "run"
    command = ["bash", str(LAUNCH / "torchrun.sh"), *OPTIONS, "--out", str(out)]
    nodes = [
        subprocess.Popen(command, env=os.environ | settings | {"NODE_RANK": rank}, start_new_session=True)
        for rank in ("0", "1")
    ]
    assert [node.wait(timeout=400) for node in nodes] == [0, 0]
    environment = json.loads((out / "environment.json").read_text())
    assert (environment["engine"], environment["world"]) == ("ddp", 2)
    assert losses(out) == pytest.approx(alone, abs=1e-5)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_the_script_reaches_the_ranks_and_their_checkpoint_is_waited_for(number, tmp_path):
    out = tmp_path / "run"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(LAUNCH / "torchrun.sh"), *OPTIONS, "--set", "train.max_steps=400", "--out", str(out)]
    command += ["--set", "train.epochs=99", "--set", "train.eval_every=999"]
    script = subprocess.Popen(command, env=os.environ | {"GPUS": "2", "PATH": path}, start_new_session=True)
    deadline = time.monotonic() + 400
    while not (out / "log.jsonl").exists() or len(losses(out)) < 3:
        assert script.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    script.send_signal(number)
    assert script.wait(timeout=200) != 0
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{len(losses(out)):08d}"]
    assert len(losses(out)) < 400


def test_several_nodes_without_their_settings_are_refused():
    done = subprocess.run(
        ["bash", LAUNCH / "torchrun.sh"], env={"NNODES": "2", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "set NODE_RANK" in done.stderr


@pytest.mark.slow
def test_a_chain_is_shown_where_there_is_no_slurm(run, tmp_path):
    """On a login node whose Slurm does not answer, or on a laptop."""
    for tool in "bash id tr sed awk grep sort paste cut find tail".split():
        (tmp_path / tool).symlink_to(shutil.which(tool))
    words = ["slurm/pipeline.sh", "--dry-run", "--recipe", "demo", "--out", tmp_path / "chain"]
    done = run(*words, PATH=str(tmp_path), PYTHON=sys.executable)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("sbatch --parsable ")
    assert re.fullmatch(r"(\d+) of \1 stages would be submitted", lines[-1])
    assert done.stderr.startswith("note: Slurm does not answer here") and not (tmp_path / "chain").exists()
    refused = run(*(word for word in words if word != "--dry-run"), code=2, PATH=str(tmp_path), PYTHON=sys.executable)
    assert "pipeline.sh: Slurm does not answer (see above)" in refused.stderr and not (tmp_path / "chain").exists()


@pytest.mark.slow
def test_the_scripts_are_clean(run):
    run(
        "shellcheck",
        "-x",
        LAUNCH / "minislurm",
        *(LAUNCH.parent / "slurm" / name for name in ("pipeline.sh", "sweep.sh", "site.sh.example")),
        *sorted(LAUNCH.glob("*.sh")),
        *SBATCH,
    )


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        ("train_gemma", {}, "src/train.py --recipe gemma2-9b --out OUT --resume auto --engine auto"),
        ("train_llama", {"DATA": "t.csv"}, "src/train.py --recipe llama2-7b --out OUT --resume auto --data t.csv"),
        (
            "train_deberta",
            {"ENGINE": "deepspeed"},
            "src/train.py --recipe deberta-v3-base --out OUT --resume auto --ds",
        ),
        ("train_gemma", {"RECIPE": "demo-gemma2", "FOLD": "0/5", "MODEL": "m"}, "--model m --fold 0/5 --engine auto"),
        ("distill", {"TEACHERS": "a b"}, "src/distill.py --recipe distill-deberta-v3-xsmall --out OUT --resume auto"),
    ],
)
def test_a_batch_file_starts_its_script_from_wherever_slurm_copied_it(tmp_path, file, settings, words):
    for name, body in (("scontrol", "echo localhost"), ("srun", f'echo "$@" >{tmp_path}/words')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    spooled = tmp_path / "slurm_script"
    spooled.write_text((LAUNCH.parent / "slurm" / f"{file}.sbatch").read_text())
    out = tmp_path / "run"
    job = {"SLURM_SUBMIT_DIR": str(LAUNCH.parent), "SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OUT": str(out), **job, **settings}
    subprocess.run(["bash", spooled, "--set", "train.lr=1e-4"], env=environment, cwd=tmp_path, check=True)
    started = (tmp_path / "words").read_text()
    assert words.replace("OUT", str(out)) in started
    assert ("--teachers a b" in started) == ("TEACHERS" in settings)
    assert started.endswith(" --set train.lr=1e-4\n")


@pytest.mark.parametrize(
    ("ranks", "code", "said"),
    [
        ('touch "$TIEBREAK_MISTAKE"; exit 75', 2, "not requeued: exit code 2 is a mistake"),
        ('touch "$TIEBREAK_MISTAKE"; exit 143', 2, "not requeued: exit code 2 is a mistake"),
        ("exit 75", 75, "exit code 75 (asked to stop, and did) at the start: requeueing job 7"),
    ],
)
def test_a_mistake_of_one_rank_counts_though_srun_tells_the_code_of_another(tmp_path, ranks, code, said):
    """srun has the highest code of all, and ranks that it ends because of the 2 end with 75 or by SIGTERM."""
    hosts, restarts = "hostnames) echo localhost ;;", 'job) echo "Requeue=1 Restarts=0" ;;'
    requeue = f"case $2 in {hosts} {restarts} 7) touch {tmp_path}/requeued; exit 1 ;; esac"
    for name, body in (("scontrol", requeue), ("srun", ranks)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(LAUNCH.parent), "SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1"}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "OUT": str(tmp_path / "run"), **job}
    batch = ["bash", LAUNCH.parent / "slurm" / "train_llama.sbatch"]
    done = subprocess.run(batch, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout, done
    assert (tmp_path / "requeued").exists() == (code == 75)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["requeues"]


@pytest.mark.parametrize("path", SBATCH, ids=lambda path: path.name)
def test_directives_hold_no_variables_and_stand_before_the_first_command(path):
    lines = path.read_text().splitlines()
    directives = [k for k, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert not [lines[k] for k in directives if "$" in lines[k]], "Slurm does not expand them"
    commands = [k for k, line in enumerate(lines) if line and not line.startswith("#")]
    assert max(directives) < min(commands), "Slurm ignores directives after the first command"
    text = path.read_text()
    assert "29500" not in text and "127.0.0.1" not in text
    assert {"--requeue", "--open-mode=append", "--signal=USR2@600"} <= {lines[k].split()[1] for k in directives}
