"""The memory estimate against the most that a rank's tensors take in a step, under every engine."""

import json
from pathlib import Path

import pytest
from peaks import ask
from tiny import wide_llama

from tiebreak.models.architectures import find_architecture
from tiebreak.preflight.memory import ERROR, estimate

SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8}
SIZES |= {"num_key_value_heads": 8, "head_dim": 64}
ENGINES = ("plain", "zero1", "zero2", "zero3", "fsdp")
COMBINATIONS = [f"{method}:{kind}" for method in ("full", "lora") for kind in ENGINES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama-2 as wide as its activations are like those of real ones."""
    return wide_llama(tmp_path_factory.mktemp("wide"), **SIZES)


@pytest.fixture(scope="module")
def found(run, folder):
    command = ["torchrun", "--nproc-per-node", 2, "--master-port", 0, "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", Path(__file__).parent / "peaks.py", folder / "found.json", folder]
    run(*command, *COMBINATIONS, timeout=900)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.processes
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_peak_of_a_step_is_as_estimated(found, folder, combination, record_property):
    recipe, choice = ask(folder, combination, 2)
    needs = estimate(recipe, choice.kind, 2, "cpu", find_architecture(str(folder)), choice.ds)
    peak = found[combination]["peak"]
    record_property(
        "peak", f"estimate {needs.running / 1e6:.0f}, found {peak / 1e6:.0f} MB, {needs.running / peak - 1:+.1%}"
    )
    assert peak == pytest.approx(needs.running, rel=ERROR)
