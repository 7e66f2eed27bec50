"""Predictions in fp16: where they are chosen, and rows that fp16 cannot hold."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import demo_judge

from tiebreak.cli import main
from tiebreak.data.predictions import read_predictions
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.fp16 import in_fp32
from tiebreak.models.loading import choose_precision
from tiebreak.prediction import compute
from tiebreak.sample.generator import write_sample

CPU = torch.device("cpu")
NEAR = 0.02
"""Of logits of size one: fp16 keeps 11 bits, and a few layers' roundings add up."""


@pytest.mark.parametrize(
    ("capability", "trains", "predicts"),
    [
        ((6, 1), torch.float32, torch.float32),  # P40: fp16 at a 64th of the rate of fp32
        ((7, 0), torch.float32, torch.float16),  # V100
        ((7, 5), torch.float32, torch.float16),  # T4
        ((8, 0), torch.bfloat16, torch.bfloat16),  # A100
        ((9, 0), torch.bfloat16, torch.bfloat16),  # H100
    ],
)
def test_gpus_without_bf16_predict_in_fp16_and_train_in_fp32(capability, trains, predicts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0))
    gpu = torch.device("cuda")
    assert choose_precision("auto", gpu) is trains
    assert choose_precision("auto", gpu, predicting=True) is predicts
    assert choose_precision("auto", CPU, predicting=True) is torch.float32


def judge_of(name, method, precision=torch.float16):
    return demo_judge(name, method, precision, spread=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-qwen2", "demo-deberta"])
def test_fp16_is_near_fp32_and_its_fp32_is_fp32(name, method, sample):
    judge, recipe, tokenizer = judge_of(name, method)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    rows = np.arange(12)
    half = compute.forward(judge, tokens, rows, False)
    dtypes = {parameter.dtype for parameter in judge.parameters()}
    with in_fp32(judge):
        whole = compute.forward(judge, tokens, rows, False)
    assert {parameter.dtype for parameter in judge.parameters()} == dtypes
    assert np.array_equal(compute.forward(judge, tokens, rows, False), half), "as before"
    exact = compute.forward(judge_of(name, method, torch.float32)[0], tokens, rows, False)
    size = max(1.0, np.abs(exact).max())
    assert exact.std() > 1e-3 and not np.array_equal(half, exact)
    np.testing.assert_allclose(half, exact, atol=NEAR * size)
    # The weights of a base in fp16 are rounded ones, as those of 4 bits are once they are made numbers.
    np.testing.assert_allclose(whole, exact, atol=(1e-5 if method == "full" else 5e-3) * size)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-deberta"])
def test_rows_that_fp16_cannot_hold_are_computed_again_in_fp32(name, method, sample, caplog):
    judge, recipe, tokenizer = judge_of(name, method)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    rows = np.arange(12)
    texts = [set(tokens.input_ids(int(row), False)[0].tolist()) for row in rows]
    marker = next(token for token in sorted(texts[3]) if 0 < sum(token in text for text in texts) < 6)
    large = np.array([marker in text for text in texts])

    def enlarge(module, inputs, states):
        return torch.where((inputs[0] == marker)[..., None], states * 1e6, states)

    judge.classifier.get_input_embeddings().register_forward_hook(enlarge)
    lost = ~np.isfinite(compute._forward(judge, tokens, rows, False)).all(1)
    assert np.array_equal(lost, large), "the marked rows and no others"
    compute._tell_of_fp32.cache_clear()
    with caplog.at_level(logging.INFO, "tiebreak"):
        found = compute.forward(judge, tokens, rows, False)
        compute.forward(judge, tokens, rows, False)
    assert [message for message in caplog.messages if "fp16" in message] == [
        "some rows are beyond what fp16 holds: they are computed again in fp32 (said once)"
    ]
    with in_fp32(judge):
        expected = compute._forward(judge, tokens, rows, False)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found[large], expected[large], atol=1e-5)
    np.testing.assert_allclose(found[~large], expected[~large], atol=NEAR * max(1.0, np.abs(expected).max()))


@pytest.mark.slow
def test_the_command_predicts_in_fp16(tmp_path):
    run, sample = str(tmp_path / "run"), str(tmp_path / "few.csv")
    write_sample(Path(sample), 40, seed=3, profile="short")
    small = ["--set", "data.max_tokens=96", "--set", "train.max_steps=1", "--valid", "none"]
    assert main(["train", "--recipe", "demo-llama2", "--data", sample, "--out", run, *small]) == 0
    tables = []
    for precision in ("fp16", "fp32"):
        words = ["predict", "--model", run, "--data", sample, "--out", str(tmp_path / precision)]
        assert main([*words, "--set", f"train.precision={precision}"]) == 0
        tables.append(read_predictions(tmp_path / precision / "predictions.csv")[1])
    assert not np.array_equal(*tables)
    np.testing.assert_allclose(*tables, atol=NEAR)
