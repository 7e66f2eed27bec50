"""Adapters over a base that is cut over ranks are saved without a second base."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny import wide_llama

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from steps import ds_file

SIZES = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 8}
SIZES |= {"num_key_value_heads": 8, "head_dim": 128}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Llama-2 of 109 million weights, whose copies show beside what else a process takes and gives back."""
    return wide_llama(tmp_path_factory.mktemp("base"), torch.bfloat16, **SIZES)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_saving_adapters_takes_no_second_base(run, base, sample, tmp_path, kind, record_property):
    command = ["torchrun", "--nproc-per-node", 2, "--master-port", 0, "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", Path(__file__).parent / "saving.py", tmp_path / "found.json", base]
    run(*command, sample, "fsdp" if kind == "fsdp" else ds_file(kind), OMP_NUM_THREADS="1")
    found = json.loads((tmp_path / "found.json").read_text())
    before, grown = found["before"] / 2**20, (found["peak"] - found["before"]) / 2**20
    record_property("peak", f"{before:.0f} MiB before saving, {grown:.1f} more while it saves")
    whole = 4 * 109e6  # in fp32, as a base is read before it is quantised
    assert found["peak"] - found["before"] < 0.15 * whole, found
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
