"""The launch scripts: two ranks each, the losses of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"
CHANGES = ["data.sample_rows=400", "train.max_steps=3", "train.batch_size=16", "train.eps=1e-6", "data.max_tokens=128"]
OPTIONS = [part for change in CHANGES for part in ("--set", change)]
SCRIPTS = {"torchrun.sh": "ddp", "fsdp.sh": "fsdp", "deepspeed.sh": "zero2"}


def losses(out: Path) -> list[float]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.processes
def test_each_script_trains_on_two_ranks(run, tmp_path):
    run(sys.executable, "src/train.py", *OPTIONS, "--out", tmp_path / "alone")
    for script, engine in SCRIPTS.items():
        out = tmp_path / script
        run("bash", LAUNCH / script, *OPTIONS, "--out", out, GPUS="2")
        environment = json.loads((out / "environment.json").read_text())
        assert (environment["engine"], environment["world"]) == (engine, 2)
        assert losses(out) == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)


@pytest.mark.processes
def test_two_nodes_meet(run, tmp_path):
    """Two launchers on this machine, as on two nodes."""
    import os
    import socket

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
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    assert json.loads((out / "environment.json").read_text())["world"] == 2
    assert len(losses(out)) == 3


def test_several_nodes_without_their_settings_are_refused():
    done = subprocess.run(
        ["bash", LAUNCH / "torchrun.sh"], env={"NNODES": "2", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "set NODE_RANK" in done.stderr


def test_the_scripts_are_clean(run):
    run("shellcheck", *sorted(LAUNCH.glob("*.sh")))
