"""Whole runs on GPUs: going on under each engine with fused and offloaded optimizers, and predictions on two GPUs."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict

import numpy as np
import pytest
import torch

from tiebreak.data.predictions import read_predictions

pytestmark = pytest.mark.processes

SMALL = ["data.max_tokens=96", "train.batch_size=16", "train.eval_every=100", "train.max_steps=4", "train.save_every=2"]
FUSED, OFFLOAD = "train.optimizer=adamw-fused", "fsdp.cpu_offload=true"
RUNS = {
    "ddp": (["--engine", "ddp"], [FUSED]),
    "ddp, 8-bit": (["--engine", "ddp"], ["train.optimizer=paged-adamw-8bit", "model.lora.r=64"]),
    "zero1": (["--ds", "ds_configs/zero1.json"], [FUSED]),
    "zero2": (["--ds", "ds_configs/zero2.json"], [FUSED]),
    "zero3": (["--ds", "ds_configs/zero3.json"], [FUSED]),
    "zero3, offloaded": (["--ds", "ds_configs/zero3_offload.json"], []),
    "fsdp": (["--engine", "fsdp"], [FUSED]),
    "fsdp, offloaded": (["--engine", "fsdp"], [OFFLOAD]),
}
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
ON_A_CPU = ("fsdp, offloaded",)
"""Also run where there is none, so that the test itself is known to work."""


def losses(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines) if "lr" in record}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in ON_A_CPU else [NO_GPU]) for name in RUNS])
def test_a_run_goes_on_under_each_engine_and_optimizer(name, run, sample, tmp_path):
    """As many ranks as there are GPUs, two at most; in fp32. What is left is the order of sums in kernels."""
    engine, changes = RUNS[name]
    world = min(2, torch.cuda.device_count()) or 1
    launcher = ["torchrun", "--nproc-per-node", world, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    words = [word for change in [*SMALL, "train.precision=fp32", *changes] for word in ("--set", change)]
    command = [*launcher, "src/train.py", "--recipe", "demo-llama2", "--data", sample, *words, *engine]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(*command, "--out", whole, timeout=300)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "model")
    shutil.rmtree(cut / "checkpoints" / "step-00000004")
    run(*command, "--out", cut, "--resume", "auto", timeout=300)
    expected, found = losses(whole), losses(cut)
    assert list(found) == [1, 2, 3, 4]
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    assert (cut / "model").is_dir()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs on this machine")
def test_each_rank_of_a_prediction_stays_on_its_own_gpu(run, sample, tmp_path):
    """By what the driver says of the processes; and the table is that of one GPU."""
    words = [word for change in SMALL for word in ("--set", change)]
    run(sys.executable, "src/train.py", "--data", sample, "--out", tmp_path / "run", *words, timeout=300)
    command = ["src/predict.py", "--model", tmp_path / "run", "--data", sample, "--swap"]
    run(sys.executable, *command, "--out", tmp_path / "one", timeout=300)
    seen, done = defaultdict(set), threading.Event()

    def watch():
        asked = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
        while not done.is_set():
            for line in subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines():
                pid, _, gpu = line.partition(", ")
                seen[pid].add(gpu)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    launcher = ["torchrun", "--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    run(*launcher, *command, "--out", tmp_path / "two", timeout=300)
    done.set()
    watcher.join()
    assert max(map(len, seen.values()), default=1) == 1, "a process on several GPUs"
    (ids, found), (others, expected) = (
        read_predictions(tmp_path / each / "predictions.csv") for each in ("two", "one")
    )
    assert ids == others
    np.testing.assert_allclose(found, expected, atol=0.02)
