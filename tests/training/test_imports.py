"""A short training does not import what it has no use for: each of these takes a tenth of a second or more."""

import json
import sys

import pytest

from tiebreak.cli import main

UNUSED = {
    "demo-deberta": {
        *("datasets", "peft", "bitsandbytes", "wandb", "torch._inductor.compile_fx", "torchvision"),
        *("sklearn", "scipy.stats", "matplotlib", "pandas", "deepspeed", "transformers.trainer", "networkx"),
        *("transformers.models.llama.modeling_llama", "transformers.models.gemma2.modeling_gemma2"),
    },
    "demo-llama2": {
        *("datasets", "deepspeed", "wandb", "torchvision", "transformers.models.gemma2.modeling_gemma2"),
        *("sklearn", "scipy.stats", "matplotlib", "pandas", "transformers.trainer", "torch._inductor.compile_fx"),
    },
}
"""By recipe. The token cache is there already, as in every run on a table but the first: `datasets` writes it. A single
step has no curves."""
CODE = """
import json, sys
from tiebreak.cli import main
code = main(json.loads(sys.argv[1]))
print(*sys.modules, sep="\\n", file=open(sys.argv[2], "w"))
sys.exit(code)
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("name", UNUSED)
def test_a_training_imports_only_what_it_uses(name, sample, tmp_path, run):
    command = ["train", "--recipe", name, "--data", str(sample), "--set", "train.max_steps=1"]
    command += ["--set", "data.max_tokens=128"]
    assert main([*command, "--out", str(tmp_path / "first")]) == 0
    script = [sys.executable, "-c", CODE, json.dumps([*command, "--out", str(tmp_path / "run")]), tmp_path / "modules"]
    run(*script, cold=True)
    imported = (tmp_path / "modules").read_text().split()
    assert "torch" in imported and "transformers" in imported
    assert sorted(UNUSED[name].intersection(imported)) == []
