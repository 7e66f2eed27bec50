"""Invariant 1, and DeepSpeed files that contradict the recipe."""

import json
import sys
from pathlib import Path

import pytest
import torch

from tiebreak.config import TrainSettings
from tiebreak.engines.choose import check_engine
from tiebreak.engines.zero import read_ds_config
from tiebreak.errors import UserError

HERE = Path(__file__).parent
BACKBONES = ("demo-gemma2", "demo-llama2", "demo-deberta")
METHODS = ("full", "qlora")
ENGINES = {
    "plain": "DistributedDataParallel",
    "zero1": "DeepSpeedEngine",
    "zero2": "DeepSpeedEngine",
    "fsdp": "FSDPJudge",
}


@pytest.fixture(scope="module")
def results(run, sample, tmp_path_factory):
    """World size -> combination -> what steps.py saved."""
    folder = tmp_path_factory.mktemp("engines")
    saved = {}
    for world in (1, 2, 4):
        engines = ENGINES if world == 2 else ["plain"]
        combinations = [f"{name}:{method}:{kind}" for name in BACKBONES for method in METHODS for kind in engines]
        launcher = ["torchrun", "--nproc-per-node", world, "--master-port", 0, "--rdzv-backend", "c10d"]
        launcher += ["--rdzv-endpoint", "localhost:0"]
        command = [sys.executable] if world == 1 else launcher
        run(*command, HERE / "steps.py", sample, folder / f"{world}.pt", *combinations)
        saved[world] = torch.load(folder / f"{world}.pt", weights_only=False)
    return saved


@pytest.mark.processes
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("world", "kind"), [(2, "plain"), (4, "plain"), (2, "zero1"), (2, "zero2"), (2, "fsdp")])
def test_invariant_1_one_process_equals_several(results, name, method, world, kind):
    """Losses, gradients and weights agree to 1e-5 in fp32 without dropout, whatever runs the steps."""
    one = results[1][f"{name}:{method}:plain"]
    several = results[world][f"{name}:{method}:{kind}"]
    assert several["wrapper"] == ENGINES[kind]
    assert several["engine"] == ("ddp" if kind == "plain" else kind)
    if kind == "fsdp":
        assert several["whole"] == [], "the 4-bit base too must be cut over the ranks"
    assert max(one["micro_batches"]) > 1, "one micro-batch a step would not test the accumulation"
    assert len(one["records"]) == len(several["records"]) == 4
    for alone, shared in zip(one["records"], several["records"], strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=1e-5)
        assert shared["grad_norm"] == pytest.approx(alone["grad_norm"], abs=1e-5, rel=1e-5)
        assert shared["tokens"] == alone["tokens"]
    assert one["moments"].keys() == several["moments"].keys() == one["weights"].keys()
    for key, moment in one["moments"].items():
        # exp_avg is a tenth of the gradient.
        torch.testing.assert_close(several["moments"][key], moment, atol=1e-6, rtol=0, msg=key)
        torch.testing.assert_close(several["weights"][key], one["weights"][key], atol=1e-5, rtol=0, msg=key)


@pytest.mark.processes
def test_the_steps_do_change_the_weights(results):
    losses = [record["loss"] for record in results[1]["demo-llama2:full:plain"]["records"]]
    assert len(set(losses)) == len(losses)
    assert min(record["grad_norm"] for record in results[1]["demo-llama2:full:plain"]["records"]) > 0.5, "never clipped"


@pytest.mark.parametrize("stage", [1, 2])
def test_shipped_configurations_are_accepted(stage):
    config = read_ds_config(Path(f"ds_configs/zero{stage}.json"), TrainSettings(), world=4)
    assert config["zero_optimization"]["stage"] == stage
    assert config["train_batch_size"] == 4
    assert config["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("zero_optimization", {"stage": 3}, r"stage is 3"),
        ("zero_optimization", {"stage": 2, "offload_optimizer": {"device": "cpu"}}, r"offload_optimizer is 'cpu'"),
        ("train_batch_size", 7, r"train_batch_size is 7, train\.batch_size is 64"),
        ("gradient_clipping", 5.0, r"gradient_clipping is 5\.0, train\.max_grad_norm is 1\.0"),
        ("gradient_accumulation_steps", 4, r"gradient_accumulation_steps is 4"),
        ("train_micro_batch_size_per_gpu", 2, r"train_micro_batch_size_per_gpu is 2"),
        ("optimizer", {"type": "Lion"}, r"Lion"),
        ("scheduler", {"type": "WarmupLR"}, r"WarmupLR"),
        ("fp16", {"enabled": True}, r"fp16\.enabled is true; train\.precision \(auto\)"),
    ],
)
def test_a_field_against_the_recipe_is_an_error_that_names_both(tmp_path, field, value, sentence):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}} | {field: value}))
    with pytest.raises(UserError, match=sentence):
        read_ds_config(path, TrainSettings(), world=1)


def test_fields_that_agree_or_are_auto_are_accepted(tmp_path):
    path = tmp_path / "ds.json"
    fields = {"train_batch_size": 64, "gradient_clipping": "auto", "gradient_accumulation_steps": "auto"}
    path.write_text(json.dumps({"zero_optimization": {"stage": 1}, "fp16": {"enabled": False}} | fields))
    assert read_ds_config(path, TrainSettings(), world=2)["train_batch_size"] == 2


def test_unreadable_configurations_and_contradicting_options(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        check_engine("auto", broken, TrainSettings(), 1)
    with pytest.raises(UserError, match="no such file"):
        check_engine("auto", tmp_path / "none.json", TrainSettings(), 1)
    with pytest.raises(UserError, match="give one of them"):
        check_engine("ddp", broken, TrainSettings(), 1)
    with pytest.raises(UserError, match="--ds"):
        check_engine("deepspeed", None, TrainSettings(), 1)
