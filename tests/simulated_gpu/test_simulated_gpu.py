"""The memory estimate against a step of every shipped recipe at full size, on a GPU that is simulated.

Needs the CUDA build of torch (docs/preflight.md has the commands); one process for each recipe.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiebreak.config import load_recipe, shipped
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.preflight.memory import ERROR, estimate

pytestmark = pytest.mark.simulated_gpu

HERE = Path(__file__).parent
FULL_SIZE = [name for name in shipped() if load_recipe(name).model.base in ARCHITECTURES]
OFF = "train.gradient_checkpointing=false"
"""Without it, at full depth, all of a layer counts as often as there are layers."""


def cases() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in FULL_SIZE:
        recipe = load_recipe(name)
        decoder = recipe.model.method != "full"
        kinds = ("flash", "packed") if "deberta" not in recipe.model.base and decoder else ("packed",)
        found += [(name, kind, *more) for kind in kinds for more in ([()] if not decoder else [(), (OFF,)])]
    return [*found, ("gemma2-9b", "flash", OFF, "model.method=lora"), ("llama2-7b", "packed", "model.method=lora")]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Run one of our scripts under a driver without a card; returns what it prints as JSON."""
    assert torch.version.cuda, "the CUDA build of torch is not installed here: docs/preflight.md has the commands"
    driver = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([os.environ.get("CC", "cc"), *options, "-o", driver, HERE / "device.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(driver), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

    def simulated(script: str, *words: str) -> dict:
        command = [sys.executable, "-W", "ignore", HERE / script, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1700)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return simulated


@pytest.mark.parametrize("case", cases(), ids=" ".join)
def test_the_estimate_is_near_the_peak_of_a_step(simulated, case):
    name, kind, *changes = case
    found = simulated("simulate.py", *case)
    needs = estimate(load_recipe(name, changes), flash=kind == "flash")
    assert needs.kept == pytest.approx(found["held"], rel=0.02), "weights, gradients and optimizer states"
    assert needs.running == pytest.approx(found["peak"], rel=ERROR)


@pytest.mark.parametrize(("name", "rank", "world", "card_gib"), [("gemma2-27b", 1, 64, 80), ("gemma2-9b", 0, 8, 24)])
def test_fsdp_loads_what_fits_no_card(simulated, name, rank, world, card_gib):
    """Full fine-tuning: a part and one group on the card, one copy on the host of rank 0 and none on the others'."""
    found = simulated("load.py", name, str(rank), str(world))
    needs = estimate(load_recipe(name, ["model.method=full"]), "fsdp", world)
    assert found["device"] == pytest.approx(needs.loading, rel=ERROR)
    assert found["device"] < card_gib * 2**30
    assert found["host"] < (1.2 * needs.reading if rank == 0 else 2**30)
