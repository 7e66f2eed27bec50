"""Activation checkpointing over 8-bit layers, whose inputs autograd does not hold: on a GPU only, so by a stand-in."""

import gc
import weakref

import pytest
import torch
from bitsandbytes.nn import Linear8bitLt

from tiebreak.config import load_recipe
from tiebreak.models.loading import build_model, load_tokenizer

pytestmark = pytest.mark.slow

LENGTHS = [9, 30, 21]


class LikeTheGpus(torch.autograd.Function):
    """Keeps its input where bitsandbytes' MatMul8bitLt does: as an attribute of the context."""

    kept: list = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.tensors = inputs.clone(), weight
        LikeTheGpus.kept.append(weakref.ref(ctx.tensors[0]))
        return inputs @ weight.t()

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.tensors[1], None


def judge_of(checkpointing):
    changes = ["model.method=qlora", "model.bits=8", f"train.gradient_checkpointing={checkpointing}"]
    recipe = load_recipe("demo-llama2", changes)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, torch.device("cpu"), torch.float32).train()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return judge


def gradients(judge):
    torch.manual_seed(1)
    judge(torch.randint(5, 200, (sum(LENGTHS),)), LENGTHS).square().sum().backward()
    return {name: parameter.grad for name, parameter in judge.named_parameters() if parameter.grad is not None}


def test_gradients_are_those_without_it():
    plain, repeated = gradients(judge_of("false")), gradients(judge_of("true"))
    assert plain.keys() == repeated.keys() and len(plain) > 20
    assert all(torch.equal(plain[name], repeated[name]) for name in plain)


def alive_after_a_forward(monkeypatch):
    def forward(layer, inputs):
        return LikeTheGpus.apply(inputs, layer.weight.float() * 0.01)

    monkeypatch.setattr(Linear8bitLt, "forward", forward)
    LikeTheGpus.kept = []
    judge = judge_of("true")
    logits = judge(torch.randint(5, 200, (sum(LENGTHS),)), LENGTHS)
    gc.collect()
    alive = sum(kept() is not None for kept in LikeTheGpus.kept)
    assert logits.requires_grad and len(LikeTheGpus.kept) >= 7
    return alive


def test_no_input_of_an_8_bit_layer_outlives_its_layer(monkeypatch):
    assert alive_after_a_forward(monkeypatch) == 0


def test_the_usual_checkpointing_would_keep_them_all(monkeypatch):
    def usual(network, settings):
        network.gradient_checkpointing_enable({"use_reentrant": False})

    monkeypatch.setattr("tiebreak.models.loading.recompute_activations", usual)
    assert alive_after_a_forward(monkeypatch) >= 7
