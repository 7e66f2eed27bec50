"""flash-attn by its stand-in: where it is chosen, what it is given, and that it computes what the packed rows mean."""

import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import fake_flash
import pytest
import torch
from tiny import WINDOW, tiny_folder
from transformers import AutoConfig

from tiebreak.attention import flash
from tiebreak.attention.backends import Attention, choose_attention
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.models.demo import demo_folder
from tiebreak.models.loading import build_model, load_tokenizer

pytestmark = pytest.mark.slow  # models are loaded in each

CPU = torch.device("cpu")
TWINS = {"bert": "demo-deberta", "gemma3_text": "demo-gemma2"}
LENGTHS = [5, 60, 33, 33, 1, 2 * WINDOW, 140]


@pytest.fixture(autouse=True)
def looked_for_anew():
    flash.find_flash.cache_clear()
    yield
    flash.find_flash.cache_clear()


def install_flash(monkeypatch, version="2.8.3.post2", function=fake_flash.varlen):
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = function
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr(flash, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(flash, "version", lambda name: version)


@pytest.mark.parametrize(
    ("name", "there", "sentence"),
    [
        ("demo-gemma2", {}, None),
        ("demo-gemma2", {"precision": torch.float32}, "bf16 and fp16 alone"),
        ("demo-llama2", {"capability": (7, 5)}, "compute capability 8.0"),
        ("demo-gemma2", {"version": "2.6.2.post1"}, "older than 2.6.3"),
        ("demo-gemma2", {"dropout": 0.1}, "no dropout beside soft-capping"),
        ("demo-llama2", {"dropout": 0.1}, None),
        ("demo-llama2", {"installed": False}, r"not installed \(make gpu\)"),
        ("demo-deberta", {}, "no relative positions"),
    ],
)
def test_flash_attention_is_chosen_where_it_can_run(name, there, sentence, monkeypatch):
    """By a stand-in for a GPU: the checks are those of flash-attn 2.8.3's own code."""
    if there.get("installed", True):
        install_flash(monkeypatch, there.get("version", "2.8.3.post2"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: there.get("capability", (9, 0)))
    config = AutoConfig.from_pretrained(demo_folder(name))
    config.attention_dropout = there.get("dropout", 0.0)
    precision = there.get("precision", torch.bfloat16)
    chosen = choose_attention(config, "auto", torch.device("cuda"), precision)
    assert (chosen.backend == "flash") is (sentence is None)
    if sentence is None:
        assert chosen.reason == "flash-attn 2.8.3.post2"
    else:
        with pytest.raises(UserError, match=sentence):
            choose_attention(config, "flash", torch.device("cuda"), precision)


def test_a_kernel_that_kernels_has_stands_in_for_flash_attn(monkeypatch):
    asked = []

    def get_kernel(repository, version):
        asked.append((repository, version))
        return SimpleNamespace(flash_attn_varlen_func=fake_flash.varlen)

    monkeypatch.setattr(flash, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=get_kernel))
    assert flash.find_flash() == (fake_flash.varlen, "kernels-community/flash-attn2 of kernels")
    assert asked == [("kernels-community/flash-attn2", 4)]


def test_a_kernel_that_cannot_be_had_is_no_error_but_a_reason(monkeypatch):
    def get_kernel(repository, version):
        raise FileNotFoundError("no build for torch 2.13")

    monkeypatch.setattr(flash, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=get_kernel))
    found, why = flash.find_flash()
    assert found is None and "make gpu" in why and "no build for torch 2.13" in why


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", *TWINS])
def test_logits_and_gradients_are_those_of_packed_rows(name, method, checkpointing, monkeypatch, tmp_path):
    """All weights in fp32, which only the stand-in takes, to rounding; in bf16, with every check on, to what it keeps.

    Adapters are trained in bf16. Some rows are longer than the window of the models that have one.
    """
    fp32 = method == "full"
    base = str(tiny_folder(name, tmp_path)) if name in TWINS else None
    changes = [f"model.method={method}", f"train.gradient_checkpointing={str(checkpointing).lower()}"]
    recipe = load_recipe(TWINS.get(name, name), changes, base)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32 if fp32 else torch.bfloat16).train()
    packed, varlen = judge.attention, Attention("flash", "the stand-in")
    install_flash(monkeypatch, function=partial(fake_flash.varlen, types=(torch.float32,)))
    if fp32:
        check_equal(judge, packed, varlen, near=1e-5)
        judge.autocast = torch.bfloat16
    flash.find_flash.cache_clear()
    install_flash(monkeypatch)
    check_equal(judge, packed, varlen, near=0.05)


def check_equal(judge, *backends, near):
    """Compare logits, and gradients by the length of their difference."""
    torch.manual_seed(1)
    tokens = torch.randint(5, 200, (sum(LENGTHS),))
    found = []
    for backend in backends:
        judge.attention = backend
        judge.early = judge.is_decoder or backend.backend != "flash"
        judge.classifier.set_attn_implementation(backend.implementation)
        judge.zero_grad(set_to_none=True)
        logits = judge(tokens, LENGTHS)
        logits.square().sum().backward()
        found.append((logits.detach(), {n: p.grad for n, p in judge.named_parameters() if p.grad is not None}))
    (expected, gradients), (logits, others) = found
    assert expected.std() > 1e-3 and gradients.keys() == others.keys()
    torch.testing.assert_close(logits, expected, atol=near * float(expected.abs().max()), rtol=0)
    length = sum(gradient.square().sum() for gradient in gradients.values()).sqrt()
    apart = sum((gradients[n] - others[n]).square().sum() for n in gradients).sqrt()
    assert apart < near * length
