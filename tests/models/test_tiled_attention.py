"""Attention by tiles against the plain formula, forward and backward."""

import itertools

import pytest
import torch

from tiebreak.models import packed_sdpa, tiled_attention
from tiebreak.models.packed_sdpa import Packing, attend_packed
from tiebreak.models.tiled_attention import Rule, attend_tiled

LENGTHS = [37, 34]
CASES = [
    (causal, window, softcap, sinks)
    for causal, window, softcap, sinks in itertools.product((True, False), (None, 9), (None, 3.0), (False, True))
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled_attention, "QUERIES", 16)
    monkeypatch.setattr(tiled_attention, "SCORES", 16 * 37 * 3)  # three heads of four, then one


def tensors(*shapes: tuple[int, ...], dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def plain(query, key, value, rule, sinks, kept=1.0):
    """softmax(scores) @ value with whole tables; `kept` multiplies the weights."""
    heads, length = query.shape[1:3]
    key, value = (states.repeat_interleave(heads // key.shape[1], 1) for states in (key, value))
    scores = query @ key.transpose(-1, -2) * rule.scale
    if rule.softcap:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    away = torch.arange(length)[:, None] - torch.arange(length)
    seen = (away >= 0).expand(len(LENGTHS), 1, length, length)
    if not rule.causal:
        seen = (torch.arange(length) < torch.tensor(LENGTHS)[:, None])[:, None, None, :].expand(-1, 1, length, length)
    if rule.window:
        seen = seen & ((away if rule.causal else away.abs()) < rule.window)
    scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    if sinks is not None:
        scores = torch.cat([scores, sinks[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    return (scores.softmax(-1)[..., :length] * kept) @ value


def real_gradient(like: torch.Tensor) -> torch.Tensor:
    """Random where there are tokens: what becomes of padding nobody sees."""
    real = (torch.arange(like.shape[2]) < torch.tensor(LENGTHS)[:, None])[:, None, :, None]
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1), dtype=like.dtype) * real


@pytest.mark.parametrize(("causal", "window", "softcap", "with_sinks"), CASES)
def test_outputs_and_gradients_are_those_of_whole_tables(causal, window, softcap, with_sinks):
    query, key, value, sinks = tensors((2, 4, 37, 6), (2, 2, 37, 6), (2, 2, 37, 6), (4,))
    rule = Rule(0.3, causal, window, softcap)
    inputs = [query, key, value, *([sinks] if with_sinks else [])]
    expected = plain(query, key, value, rule, sinks if with_sinks else None)
    found = attend_tiled(query, key, value, LENGTHS, rule, sinks if with_sinks else None)
    gradient = real_gradient(expected)
    torch.testing.assert_close(found * (gradient != 0), expected * (gradient != 0), atol=1e-12, rtol=0)
    for of_found, of_expected in zip(
        torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(of_found, of_expected, atol=1e-12, rtol=0)


def test_dropout_draws_the_same_weights_again_on_the_way_back():
    """With the identity as values the outputs are the weights, so what was dropped can be read off them."""
    length = 37
    query, key = tensors((2, 4, length, 6), (2, 4, length, 6))
    value = torch.eye(length, dtype=torch.float64).expand(2, 4, length, length).clone().requires_grad_()
    rule = Rule(0.3, True, None, 3.0, dropout=0.4)
    torch.manual_seed(3)
    found = attend_tiled(query, key, value, LENGTHS, rule)
    below = torch.ones(length, length, dtype=torch.bool).tril().expand_as(found)
    dropped = (found == 0)[below].double().mean()
    assert dropped == pytest.approx(0.4, abs=0.03)  # 5,624 draws: more than four standard errors
    kept = (~below | (found != 0)).double() / 0.6
    expected = plain(query, key, value, rule, None, kept)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    gradient = real_gradient(expected)
    for of_found, of_expected in zip(
        torch.autograd.grad(found, [query, key, value], gradient),
        torch.autograd.grad(expected, [query, key, value], gradient),
        strict=True,
    ):
        torch.testing.assert_close(of_found, of_expected, atol=1e-12, rtol=0)
    torch.manual_seed(3)
    assert torch.equal(attend_tiled(query, key, value, LENGTHS, rule), found)


@pytest.mark.parametrize("options", [{"softcap": 30.0}, {"sliding_window": 20}])
def test_packed_rows_give_the_same_by_tiles(options, monkeypatch):
    """Long rows go by tiles, without a table of all scores; the same rows by hand differ by rounding."""
    query, key, value = tensors((1, 4, 71, 8), (1, 2, 71, 8), (1, 2, 71, 8), dtype=torch.float32)
    packing = Packing.of(LENGTHS, torch.device("cpu"))
    found = {}
    for tiled in (False, True):
        monkeypatch.setattr(packed_sdpa, "TILED_FROM", dict.fromkeys((False, True), 1 if tiled else 1000))
        called = []
        monkeypatch.setattr(packed_sdpa, "attend_tiled", lambda *a, seen=called: seen.append(a) or attend_tiled(*a))
        found[tiled], _ = attend_packed(torch.nn.Module(), query, key, value, None, packing=packing, **options)
        assert bool(called) is tiled
    torch.testing.assert_close(found[True], found[False], atol=1e-6, rtol=0)  # fp32
