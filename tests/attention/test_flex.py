"""FlexAttention: where it is chosen, its masks, and that it computes what packed rows mean."""

import re

import fake_flex
import numpy as np
import pytest
import torch
from tiny import WINDOW, tiny_folder
from transformers import AutoConfig

from tiebreak.attention import backends, flex
from tiebreak.attention.backends import Attention, choose_attention
from tiebreak.attention.flex import FlexRows, padded_length, soft_cap, visible_keys
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.models.demo import demo_folder
from tiebreak.models.loading import build_model, load_tokenizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TWINS = {"bert": "demo-deberta", "gemma3_text": "demo-gemma2"}
LENGTHS = [5, 60, 33, 1, 2 * WINDOW, 300, 140]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(flex, "compiled", lambda: fake_flex.flex_attention)
    flex.try_flex.cache_clear()
    yield
    flex.try_flex.cache_clear()


@pytest.mark.parametrize(
    ("name", "there", "backend", "sentence"),
    [
        ("demo-gemma2", {}, "flex", "flash-attn 2 is not installed"),
        ("demo-llama2", {}, "flex", "flash-attn 2 is not installed"),
        ("demo-llama2", {"flash": True}, "flash", "flash-attn 2.8.3"),
        ("demo-llama2", {"capability": (7, 5)}, "packed-sdpa", "compute capability 8.0"),
        ("demo-llama2", {"precision": torch.float32}, "packed-sdpa", "bf16 and fp16 alone"),
        ("demo-gemma2", {"dropout": 0.1}, "packed-sdpa", "FlexAttention has no dropout"),
        ("demo-gemma2", {"trial": "no C compiler"}, "packed-sdpa", "not installed.*; no C compiler"),
        ("demo-deberta", {}, "packed-deberta", "no relative positions"),
    ],
)
def test_it_is_chosen_on_a_gpu_without_flash_attn(name, there, backend, sentence, monkeypatch):
    found = (object(), "flash-attn 2.8.3") if there.get("flash") else (None, "flash-attn 2 is not installed (make gpu)")
    monkeypatch.setattr(backends, "find_flash", lambda: found)
    monkeypatch.setattr(backends, "try_flex", lambda *asked: there.get("trial"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: there.get("capability", (8, 0)))
    config = AutoConfig.from_pretrained(demo_folder(name))
    config.attention_dropout = there.get("dropout", 0.0)
    precision = there.get("precision", torch.bfloat16)
    chosen = choose_attention(config, "auto", GPU, precision)
    assert chosen.backend == backend
    assert re.search(sentence, chosen.reason)
    if backend not in ("flex", "flash"):
        with pytest.raises(UserError, match=r"model\.attention is flex, but"):
            choose_attention(config, "flex", GPU, precision)


@pytest.mark.parametrize(
    ("tokens", "padded"),
    [(1, 512), (512, 512), (513, 1024), (769, 1024), (1025, 1536), (1537, 2048), (4097, 6144), (8192, 8192)],
)
def test_batches_are_padded_to_few_lengths(tokens, padded):
    assert padded_length(tokens) == padded
    assert padded % 512 == 0, "index tensors begin at multiples of 16 bytes"


def test_a_million_lengths_are_few():
    assert len({padded_length(tokens) for tokens in range(1, 16_385)}) == 10 < flex.MOST_KERNELS // 4


@pytest.mark.parametrize("window", [None, 7, 200, 1000])
@pytest.mark.parametrize("causal", [True, False])
def test_masks_say_what_each_token_sees(causal, window):
    """Against the definition, pair by pair; the stand-in compares the blocks with the mask function."""
    lengths, padded = [5, 300, 1, 128, 77], 512 * 2
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row))
    sees = row[:, None] == row
    if causal:
        sees &= place[:, None] >= place
    if window is not None:
        sees &= np.abs(place[:, None] - place) < window
    first, last = visible_keys(lengths, padded, causal, window)
    keys = np.arange(padded)
    found = (keys >= first[:, None]) & (keys <= last[:, None])
    np.testing.assert_array_equal(found[: len(row), : len(row)], sees)
    assert found[len(row) :].sum(1).tolist() == [1] * (padded - len(row)), "padding sees itself, and no row sees it"
    assert not found[: len(row), len(row) :].any()
    fake_flex.check_blocks(flex.block_mask(first, last, CPU), torch.from_numpy(found))


def test_layers_share_masks_and_a_window_that_does_not_bite_is_none():
    rows = FlexRows([30, 20], CPU)
    assert rows.mask(True, None) is rows.mask(True, 30)
    assert rows.mask(True, 29) is rows.mask(True, 29) is not rows.mask(True, None)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("name", ["demo-gemma2", "demo-llama2", "demo-qwen2", *TWINS])
def test_logits_and_gradients_are_those_of_packed_rows(name, method, fake, tmp_path):
    """In fp32, to rounding; adapters under activation checkpointing. Some rows are longer than a window."""
    base = str(tiny_folder(name, tmp_path)) if name in TWINS else None
    changes = [f"model.method={method}", f"train.gradient_checkpointing={str(method != 'full').lower()}"]
    recipe = load_recipe(TWINS.get(name, name), changes, base)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in judge.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(0, 0.05)
    lengths = [min(n, 250) for n in LENGTHS] if name == "bert" else LENGTHS
    tokens = torch.randint(5, 200, (sum(lengths),))
    found = []
    for backend in (judge.attention, Attention("flex", "the stand-in")):
        judge.attention = backend
        judge.early = judge.is_decoder or backend.backend != "flex"
        judge.classifier.set_attn_implementation(backend.implementation)
        judge.zero_grad(set_to_none=True)
        logits = judge(tokens, lengths)
        logits.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in judge.parameters() if p.grad is not None])
        found.append((logits.detach(), gradients))
    (expected, gradients), (logits, others) = found
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)
    assert (gradients - others).norm() < 1e-5 * gradients.norm()


def states_of(lengths, heads=4, key_heads=2, width=16):
    torch.manual_seed(2)
    return [torch.randn(1, count, sum(lengths), width) for count in (heads, key_heads, key_heads)]


def traced(counter):
    """torch's own FlexAttention: traced and checked as on a GPU, then run by plain tensor operations."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    return torch.compile(flex_attention, backend=counter, dynamic=False, fullgraph=True)


@pytest.mark.slow
@pytest.mark.parametrize(("softcap", "window"), [(None, None), (5.0, None), (5.0, 40), (None, 40)])
def test_torchs_flex_attention_takes_our_masks_and_gives_the_same(softcap, window, monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend

    layer, lengths = torch.nn.Module(), [100, 300, 60]
    keywords = {"softcap": softcap, "sliding_window": window, "flex": FlexRows(lengths, CPU)}
    found = []
    for run in (traced(CompileCounterWithBackend("eager")), fake_flex.flex_attention):
        monkeypatch.setattr(flex, "compiled", lambda run=run: run)
        with torch.no_grad():
            found.append(flex.attend_flex(layer, *states_of(lengths), None, **keywords)[0])
    assert found[0].shape == (1, sum(lengths), 4, 16)
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_other_rows_of_a_like_sum_compile_nothing_new(monkeypatch):
    """One graph for each padded length and kind of layer, whatever the rows are."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter, layer = CompileCounterWithBackend("eager"), torch.nn.Module()
    run = traced(counter)
    monkeypatch.setattr(flex, "compiled", lambda: run)

    def attend(lengths, window=None):
        rows = FlexRows(lengths, CPU)
        with torch.no_grad():
            flex.attend_flex(layer, *states_of(lengths), None, flex=rows, softcap=5.0, sliding_window=window)
        return counter.frame_count

    assert [attend(lengths) for lengths in ([100, 300], [512], [3] * 70, [1, 500, 2])] == [1, 1, 1, 1]
    assert attend([100, 300], window=40) == 1, "a window is in the same two tensors"
    assert attend([1000]) == 2 and attend([400, 400]) == 2
    torch._dynamo.reset()


def test_a_trial_that_fails_or_gives_other_numbers_says_so(monkeypatch, fake):
    asked = (CPU, torch.bfloat16, 4, 2, 16, 30.0)
    assert flex.try_flex(*asked) is None
    flex.try_flex.cache_clear()
    monkeypatch.setattr(flex, "soft_cap", lambda most: soft_cap(most / 50))
    assert "other numbers" in flex.try_flex(*asked)
    flex.try_flex.cache_clear()

    def broken(*args, **kwargs):
        raise RuntimeError("out of resource: shared memory, Required: 114688\nHardware limit: 101376")

    monkeypatch.setattr(flex, "compiled", lambda: broken)
    assert flex.try_flex(*asked) == (
        "FlexAttention does not run here (RuntimeError: out of resource: shared memory, Required: 114688)"
    )
