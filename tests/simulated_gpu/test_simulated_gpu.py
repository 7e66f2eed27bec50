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

from tiebreak.compatibility import FAMILIES
from tiebreak.config import load_recipe, shipped
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.preflight.memory import ERROR, estimate

pytestmark = pytest.mark.simulated_gpu

HERE = Path(__file__).parent
FULL_SIZE = [name for name in shipped() if load_recipe(name).model.base in ARCHITECTURES]
OFF = "train.gradient_checkpointing=false"
FULL = "model.method=full"
FSDP = (
    ("gemma2-27b", "flash", "64", FULL),
    ("gemma2-9b", "packed", "8", FULL),
    ("gemma2-9b", "flash", "8"),
    ("llama2-7b", "flash", "8", FULL, OFF),
    ("llama3-8b", "flash", "2", "model.method=lora"),
    ("deberta-v3-large", "packed", "8"),
)


def cases() -> list[tuple[str, ...]]:
    """Every shipped recipe, with each attention of its family; and with activations kept, where it makes them again."""
    found: list[tuple[str, ...]] = []
    for name in FULL_SIZE:
        recipe = load_recipe(name)
        decoder = FAMILIES[ARCHITECTURES[recipe.model.base]["model_type"]].decoder
        ways: list[tuple[str, ...]] = [(), (OFF,)] if recipe.train.gradient_checkpointing else [()]
        found += [(name, kind, *more) for kind in (("flash", "packed") if decoder else ("packed",)) for more in ways]
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


def told(estimated: float, found: float) -> str:
    """A line of the summary, in GiB."""
    return f"estimate {estimated / 2**30:6.1f}, simulated {found / 2**30:6.1f} GiB, {estimated / found - 1:+.1%}"


@pytest.mark.parametrize("case", cases(), ids=" ".join)
def test_the_estimate_is_near_the_peak_of_a_step(simulated, case, record_property):
    name, kind, *changes = case
    found = simulated("simulate.py", *case)
    needs = estimate(load_recipe(name, changes), flash=kind == "flash")
    record_property("peak", told(needs.running, found["peak"]))
    assert needs.kept == pytest.approx(found["held"], rel=0.02), "weights, gradients and optimizer states"
    assert needs.running == pytest.approx(found["peak"], rel=ERROR)


@pytest.mark.parametrize("case", FSDP, ids=" ".join)
def test_the_estimate_is_near_the_peak_of_a_rank_under_fsdp(simulated, case, record_property):
    name, kind, world, *changes = case
    found = simulated("fsdp.py", *case)
    needs = estimate(load_recipe(name, changes), "fsdp", int(world), flash=kind == "flash")
    record_property("peak", told(needs.running, found["peak"]))
    assert needs.weights + needs.states == pytest.approx(found["held"], rel=0.02)
    assert needs.running == pytest.approx(found["peak"], rel=ERROR)


@pytest.mark.parametrize(
    ("name", "rank", "world", "card_gib"),
    [("gemma2-27b", 0, 64, 80), ("gemma2-27b", 1, 64, 80), ("gemma2-9b", 0, 8, 24)],
)
def test_fsdp_loads_what_fits_no_card(simulated, name, rank, world, card_gib, record_property):
    """Full fine-tuning: a part and one group on the card, one copy on the host of rank 0 and none on the others'."""
    found = simulated("load.py", name, str(rank), str(world))
    needs = estimate(load_recipe(name, [FULL]), "fsdp", world)
    record_property("peak", f"{told(needs.loading, found['device'])}, {found['host'] / 2**30:.1f} on the host")
    assert found["device"] == pytest.approx(needs.loading, rel=ERROR)
    assert found["device"] < card_gib * 2**30
    assert found["host"] < (1.2 * needs.reading if rank == 0 else 2**30)
