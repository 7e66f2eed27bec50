"""What packed rows do on a GPU alone, by a switch of the device's type: key heads repeated, lengths rounded."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from tiebreak.attention import packed_sdpa, packing
from tiebreak.attention.packed_sdpa import takes_key_heads
from tiebreak.attention.packing import Packing
from tiebreak.config import load_recipe
from tiebreak.models.loading import build_model, load_tokenizer

CPU = torch.device("cpu")
LENGTHS = [5, 17, 33, 33, 1, 48, 31]
NAMES = ("demo-gemma2", "demo-llama2", "demo-deberta")


def judge_of(name):
    recipe = load_recipe(name, ["model.method=full"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    return build_model(recipe, tokenizer, CPU, torch.float32).eval()


def logits_and_gradients(judge):
    torch.manual_seed(1)
    judge.zero_grad(set_to_none=True)
    logits = judge(torch.randint(5, 200, (sum(LENGTHS),)), LENGTHS)
    logits.square().sum().backward()
    return logits.detach(), torch.cat([p.grad.flatten() for p in judge.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_rounded_lengths_change_no_logit_and_no_gradient(name, monkeypatch):
    judge = judge_of(name)
    expected, gradients = logits_and_gradients(judge)
    monkeypatch.setitem(packing.LENGTHS_ROUNDED, "cpu", 16)
    assert {group.length % 16 for group in Packing.of(LENGTHS, CPU).groups} == {0}
    logits, others = logits_and_gradients(judge)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(others, gradients, atol=1e-5 * float(gradients.abs().max()), rtol=0)


def test_lengths_are_rounded_on_gpus_alone():
    assert packing.LENGTHS_ROUNDED == {"cuda": 16}, "on a CPU results stay what they are, bit for bit"
    assert [group.length for group in Packing.of([3, 31], CPU).groups] == [3, 31]


def test_rows_of_rounded_groups_are_marked_as_padded(monkeypatch):
    monkeypatch.setitem(packing.LENGTHS_ROUNDED, "cpu", 16)
    plan = Packing.of([20, 20, 8, 8], CPU)
    assert [(group.length, group.padded) for group in plan.groups] == [(16, True), (32, True)]
    assert [group.padded for group in Packing.of([16, 16, 48], CPU).groups] == [False, False]
    tokens = torch.randn(56, 2)
    assert torch.equal(plan.scatter(list(plan.gather(tokens))), tokens)


@pytest.mark.parametrize(
    ("capability", "dtype", "masked", "width", "taken"),
    [
        ((8, 0), torch.bfloat16, False, 128, True),
        ((7, 5), torch.float16, False, 128, False),  # T4: torch's flash begins with 8.0
        ((9, 0), torch.float32, False, 128, False),
        ((9, 0), torch.bfloat16, True, 128, False),  # a window that bites
        ((8, 6), torch.bfloat16, False, 256, False),
    ],
)
def test_key_heads_are_left_to_the_kernel_that_surely_takes_them(capability, dtype, masked, width, taken, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    query = SimpleNamespace(device=torch.device("cuda"), dtype=dtype, shape=(1, 8, 64, width))
    assert takes_key_heads(query, torch.ones(()) if masked else None) is taken
    assert takes_key_heads(torch.zeros(1, 8, 4, width), None), "a CPU's does"


@pytest.mark.slow
def test_repeated_key_heads_change_nothing(monkeypatch):
    seen = []
    real = functional.scaled_dot_product_attention

    def watched(query, key, value, *args, **kwargs):
        seen.append((query.shape[1], key.shape[1], value.shape[1]))
        return real(query, key, value, *args, **kwargs)

    monkeypatch.setattr(packed_sdpa.F, "scaled_dot_product_attention", watched)
    judge = judge_of("demo-qwen2")
    expected, gradients = logits_and_gradients(judge)
    assert all(heads > keys for heads, keys, _ in seen), "the demo has grouped heads"
    seen.clear()
    monkeypatch.setattr(packed_sdpa, "takes_key_heads", lambda query, mask: False)
    logits, others = logits_and_gradients(judge)
    assert seen and all(heads == keys == values for heads, keys, values in seen)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(others, gradients, atol=1e-5 * float(gradients.abs().max()), rtol=0)
