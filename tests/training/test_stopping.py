"""Signals and the STOP file, at every stage: a checkpoint, exit code 75, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import warm
from safetensors.torch import load_file
from training_runs import SHORT, set_, steps_of

from tiebreak.cli import main
from tiebreak.training import checkpoints, loop, validation
from tiebreak.training.checkpoints import find_checkpoint

pytestmark = pytest.mark.slow


def code_of(command) -> int:
    try:
        return main(command)
    except SystemExit as error:
        return int(error.code)


class Once:
    """Wraps a function: a signal arrives during its k-th call."""

    def __init__(self, function, call: int) -> None:
        self.function, self.left = function, call

    def __call__(self, *arguments, **settings):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
        return self.function(*arguments, **settings)


@pytest.mark.parametrize(
    ("stage", "module", "name", "call", "stopped_at"),
    [
        ("training", loop, "lr_factor", 3, {3}),
        ("an evaluation", validation, "make_batch", 2, {4}),
        ("a checkpoint", checkpoints, "save_file", 1, {3, 4}),  # of step 2, written beside step 3
        ("the last evaluation", validation, "make_batch", None, {6}),
    ],
)
def test_a_signal_during(stage, module, name, call, stopped_at, sample, tmp_path, monkeypatch, capsys):
    """Within one step of the signal everything is saved, and the end is that of an undisturbed run, bit for bit."""
    changes = ["train.max_steps=6", "train.save_every=2", "train.tokens_per_micro_batch=512"]
    options = ["train", "--recipe", "demo-llama2", "--data", str(sample), "--resume", "auto", *SHORT, *set_(*changes)]
    calls = Once(validation.make_batch, 0)
    monkeypatch.setattr(validation, "make_batch", calls)
    assert main([*options, "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.undo()
    best = json.loads((tmp_path / "whole" / "metrics.json").read_text())["best_step"]
    passes = 2 if best == 6 else 3  # after steps 4 and 6, and once more where the last weights are not the best
    blocks, rest = divmod(-calls.left, passes)
    assert blocks > 2 and rest == 0
    call = call or (passes - 1) * blocks + 2
    monkeypatch.setattr(module, name, Once(getattr(module, name), call))
    out = tmp_path / "run"
    assert code_of([*options, "--out", str(out)]) == 75
    monkeypatch.undo()
    newest = find_checkpoint(out / "checkpoints")[0].name
    assert int(newest[5:]) in stopped_at
    assert not list(out.rglob(".tmp-*"))
    assert code_of([*options, "--out", str(out)]) == 0
    assert f"resumed from {newest}" in capsys.readouterr().out
    one, two = (load_file(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("whole", "run"))
    for key in one:
        assert torch.equal(one[key], two[key]), key


def test_a_stop_file_ends_the_run_once(sample, tmp_path):
    out = tmp_path / "run"
    command = [
        "train",
        "--data",
        str(sample),
        "--out",
        str(out),
        "--resume",
        "auto",
        *SHORT,
        *set_("train.max_steps=3"),
    ]
    out.mkdir()
    (out / "STOP").touch()
    assert code_of(command) == 75
    assert find_checkpoint(out / "checkpoints")[0].name == "step-00000001"
    assert not (out / "STOP").exists(), "it would stop the run that goes on"
    assert code_of(command) == 0


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_before_the_first_step(number, sample, tmp_path):
    """While it loads there is nothing to save: 75 at once."""
    out = tmp_path / "run"
    command = [sys.executable, "src/train.py", "--data", sample, "--out", out, *SHORT]
    process = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it reads the data now
    process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 75, errors
    assert f"stopped by {number.name}" in errors and "Traceback" not in errors
    assert not (out / "checkpoints").exists()


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_from_outside(number, run, sample, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "src/train.py", "--data", sample, "--out", out, "--resume", "auto", *SHORT]
    command += set_("train.max_steps=25", "train.epochs=9", "train.eval_every=1000")
    process = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 400
    while not (out / "log.jsonl").exists() or len(steps_of(out)) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 75, output
    stopped = find_checkpoint(out / "checkpoints")[0]
    assert stopped is not None and int(stopped.name[5:]) == len(steps_of(out))
    done = run(*command, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"resumed from {stopped.name}" in done.stdout
    assert [record["step"] for record in steps_of(out)] == list(range(1, 26))


@pytest.mark.processes
def test_a_sample_of_the_chaos(run):
    """The whole of it is `python tests/training/chaos.py --kills 100`."""
    done = run(sys.executable, "tests/training/chaos.py", "--kills", 6, "--seed", 1, timeout=1500)
    assert done.stdout.splitlines()[-1].startswith("6 kills")
    assert done.stdout.splitlines()[-1].endswith("0 lost checkpoints, 0 damaged checkpoints")
