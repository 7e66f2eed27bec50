"""On a GPU: the same judges, runs and predictions as on the CPU, to what bf16 keeps of them."""

import json
import sys

import numpy as np
import pytest
import torch

from tiebreak.cli import main
from tiebreak.config import load_recipe, make_recipe
from tiebreak.data.predictions import read_predictions
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.folder import save_model
from tiebreak.models.loading import build_model, load_model, load_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
BF16 = 0.05
"""Of logits of size one: bf16 keeps 8 bits, and a few layers' roundings add up."""
SMALL = ["data.max_tokens=96", "train.batch_size=16", "train.eval_every=100"]


def options(*changes):
    return [word for change in (*SMALL, *changes) for word in ("--set", change)]


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-deberta"])
def test_every_backend_gives_the_logits_of_fp32_on_the_cpu(name, method, sample, tmp_path):
    """`auto` is flash-attn where that is installed and the family has it."""
    cpu = torch.device("cpu")
    recipe = load_recipe(name, [f"model.method={method}"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    judge = build_model(recipe, tokenizer, cpu, torch.float32).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in judge.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.05)
    save_model(judge, tokenizer, recipe, {"prior": [0.4, 0.4, 0.2]}, tmp_path / "model")
    rows = [torch.from_numpy(tokens.input_ids(k)[0]).long() for k in range(24)]
    flat, lengths = torch.cat(rows), [len(row) for row in rows]
    with torch.no_grad():
        expected = judge(flat, lengths)
        assert expected.std() > 1e-3, "equal logits everywhere would prove nothing"
        for attention in ("auto", "rows", "eager"):
            other = make_recipe(recipe.model_dump(), [f"model.attention={attention}"])
            found = load_model(tmp_path / "model", other, torch.device("cuda"), torch.bfloat16)(flat.cuda(), lengths)
            size = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(found.float().cpu(), expected, atol=BF16 * size, rtol=0, msg=attention)


@pytest.mark.parametrize("recipe", ["demo-gemma2", "demo-llama2", "demo-deberta-siamese"])
def test_a_run_learns_and_says_how_fast_it_is(recipe, tmp_path):
    assert main(["train", "--recipe", recipe, "--out", str(tmp_path / "run"), *options("train.max_steps=200")]) == 0
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"]
    assert rows["model"]["log_loss"] < rows["prior"]["log_loss"] - 0.02
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 < step["memory_gib"] < 8 for step in steps if "loss" in step)


@pytest.mark.parametrize("engine", [["--engine", "ddp"], ["--engine", "fsdp"], *(
    ["--ds", f"ds_configs/{name}.json"] for name in ("zero1", "zero2", "zero3", "zero3_offload")
)], ids=lambda words: words[1])  # fmt: skip
def test_engines_give_the_losses_of_one_process(engine, run, sample, tmp_path):
    """As many ranks as there are GPUs, two at most; in fp32, so that engines' mixed precision does not differ."""
    changes = options("train.max_steps=4", "train.precision=fp32", "model.method=lora")
    command = ["src/train.py", "--recipe", "demo-llama2", "--data", sample, *changes]
    run(sys.executable, *command, "--out", tmp_path / "one", timeout=300)
    world = min(2, torch.cuda.device_count())
    launcher = ["torchrun", "--nproc-per-node", world, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    run(*launcher, *command, *engine, "--out", tmp_path / "many", timeout=300)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines() if "lr" in line]
        for name in ("one", "many")
    ]
    assert len(losses[0]) == 4
    # TF32 is off by default; what is left is the order of sums in kernels, which grows over the four steps.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_a_prediction_is_that_of_the_cpu(run, sample, tmp_path):
    assert main(["train", "--data", str(sample), "--out", str(tmp_path / "run"), *options("train.max_steps=60")]) == 0
    command = ["src/predict.py", "--model", tmp_path / "run", "--data", sample, "--swap"]
    run(sys.executable, *command, "--out", tmp_path / "gpu", timeout=300)
    run(sys.executable, *command, "--out", tmp_path / "cpu", timeout=300, CUDA_VISIBLE_DEVICES="")
    (ids, found), (other, expected) = (read_predictions(tmp_path / name / "predictions.csv") for name in ("gpu", "cpu"))
    assert ids == other
    np.testing.assert_allclose(found, expected, atol=BF16)


@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2"])
def test_flash_attention_and_packed_rows_give_the_same_gradients(name, tmp_path):
    """In rows longer than a layer's window; with checkpointing, as the large recipes have it."""
    if choose_attention_of(name) != "flash":
        pytest.skip("flash-attn is not installed")
    lengths = [700, 5, 300, 300, 64]
    torch.manual_seed(1)
    tokens, found = torch.randint(5, 200, (sum(lengths),)).cuda(), []
    for attention in ("flash", "packed-sdpa"):
        changes = ["model.method=full", "train.gradient_checkpointing=true", f"model.attention={attention}"]
        recipe = load_recipe(name, changes)
        tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
        judge = build_model(recipe, tokenizer, torch.device("cuda"), torch.bfloat16).train()
        judge(tokens, lengths).square().sum().backward()
        found.append(torch.cat([p.grad.flatten().float() for p in judge.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() < BF16 * found[1].norm()


@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-deberta"])
@pytest.mark.parametrize("attention", ["auto", "packed-sdpa"])
def test_no_layer_waits_for_the_gpu(name, attention):
    recipe = load_recipe(name, ["model.method=lora", f"model.attention={attention}"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, torch.device("cuda"), torch.bfloat16).train()
    lengths = [60, 5, 300, 31]
    tokens = torch.randint(5, 200, (sum(lengths),)).cuda()
    judge(tokens, lengths).sum().backward()  # what is made once, first
    torch.cuda.set_sync_debug_mode("error")
    try:
        judge(tokens, lengths).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_that_runs_out_leaves_the_result_as_it_is(tmp_path, capsys):
    """The allocator is held to less than a whole step needs in one micro-batch."""
    changes = options("train.max_steps=3", "train.precision=fp32", "train.tokens_per_micro_batch=100000")
    command = ["train", "--recipe", "demo-llama2", "--valid", "none", *changes]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    whole = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * whole / torch.cuda.get_device_properties(0).total_memory)
    try:
        assert main([*command, "--out", str(tmp_path / "cut")]) == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    told = capsys.readouterr()
    assert "memory ran out" in told.out + told.err
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines() if "lr" in line]
        for name in ("whole", "cut")
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def choose_attention_of(name):
    from transformers import AutoConfig

    from tiebreak.attention.backends import choose_attention
    from tiebreak.models.demo import demo_folder

    config = AutoConfig.from_pretrained(demo_folder(name))
    return choose_attention(config, "auto", torch.device("cuda"), torch.bfloat16).backend
