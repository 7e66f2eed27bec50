"""Attention by tiles against the plain formula, forward and backward."""

import itertools

import pytest
import torch

from tiebreak.attention import packed_sdpa, tiles
from tiebreak.attention import tiled as module
from tiebreak.attention.packed_sdpa import Packing, attend_packed
from tiebreak.attention.tiled import attend_tiled
from tiebreak.attention.tiles import Distances, Rule

LENGTHS, QUERIES = [37, 34], {False: 16, True: 16}
CASES = [
    (causal, window, softcap, sinks)
    for causal, window, softcap, sinks in itertools.product((True, False), (None, 9), (None, 3.0), (False, True))
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "QUERIES", QUERIES)
    monkeypatch.setattr(module, "QUERIES", QUERIES)
    monkeypatch.setattr(tiles, "KEYS", 37 * 3)  # three heads of four, then one


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
    gradient = real_gradient(found)
    below = torch.ones(length, length, dtype=torch.bool).tril() & (gradient != 0)
    dropped = (found == 0)[below].double().mean()
    assert dropped == pytest.approx(0.4, abs=0.03)  # 5,192 draws: more than four standard errors
    kept = (~below | (found != 0)).double() / 0.6
    expected = plain(query, key, value, rule, None, kept)
    torch.testing.assert_close(found, expected * (gradient != 0), atol=1e-12, rtol=0)
    for of_found, of_expected in zip(
        torch.autograd.grad(found, [query, key, value], gradient),
        torch.autograd.grad(expected, [query, key, value], gradient),
        strict=True,
    ):
        torch.testing.assert_close(of_found, of_expected, atol=1e-12, rtol=0)
    torch.manual_seed(3)
    assert torch.equal(attend_tiled(query, key, value, LENGTHS, rule), found)


def deberta_like() -> tuple[list[torch.Tensor], Distances]:
    query, key, value, far_keys, far_queries = tensors(*[(2, 4, 37, 6)] * 3, *[(4, 11, 6)] * 2)
    away = torch.arange(37)[:, None] - torch.arange(37)
    distances = Distances(far_keys, far_queries, away.clamp(-5, 5) + 5)
    return [query, key, value, far_keys, far_queries], distances


def test_distances_are_those_of_the_plain_formula():
    inputs, distances = deberta_like()
    query, key, value, far_keys, far_queries = inputs
    rule = Rule(0.3, causal=False)
    found = attend_tiled(query, key, value, LENGTHS, rule, distances=distances)
    by_query = torch.einsum("nhid,hijd->nhij", query, far_keys[:, distances.slots])
    by_key = torch.einsum("nhjd,hijd->nhij", key, far_queries[:, distances.slots])
    scores = query @ key.transpose(-1, -2) * rule.scale + by_query + by_key
    gradient = real_gradient(value)
    real = (torch.arange(37) < torch.tensor(LENGTHS)[:, None])[:, None, None, :]
    expected = scores.masked_fill(~real, -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(found, expected * (gradient != 0), atol=1e-12, rtol=0)
    for of_found, of_expected in zip(
        torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(of_found, of_expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["causal", "distances"])
def test_threads_and_kept_weights_change_no_bit(kind, monkeypatch):
    """Of outputs and gradients, with dropout: one thread or three, weights kept for the way back or made again."""
    inputs, distances = deberta_like()
    if kind == "causal":
        inputs, distances = inputs[:3], None
    rule = Rule(0.3, kind == "causal", softcap=3.0 if kind == "causal" else None, dropout=0.2)
    found = []
    for threads, kept_up_to in ((1, 1_000), (3, 1_000), (3, 0)):
        monkeypatch.setattr(module, "KEPT_UP_TO", kept_up_to)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            torch.manual_seed(5)
            attended = attend_tiled(*inputs[:3], LENGTHS, rule, distances=distances)
            found.append([attended, *torch.autograd.grad(attended, inputs, real_gradient(attended))])
        finally:
            torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(mine, other) for mine, other in zip(found[0], others, strict=True))


def test_nothing_waits_for_the_way_back_where_none_comes():
    """Weights are kept up to a length and with gradients alone: no table of a long row stands in memory."""
    inputs, _ = deberta_like()
    attended = attend_tiled(*inputs[:3], LENGTHS, Rule(0.3, causal=True))
    assert attended.grad_fn.saved_tensors[8].numel() >= 2 * 4 * 34 * 34 / 2
    with torch.no_grad():
        assert attend_tiled(*inputs[:3], LENGTHS, Rule(0.3, causal=True)).grad_fn is None


def test_tanh_is_as_exact_as_torchs():
    values = torch.cat([torch.linspace(-30, 30, 2_001), torch.linspace(-0.1, 0.1, 2_001)])
    expected = values.double().tanh()
    error = (module._tanh(values.clone()).double() - expected).abs() / expected.abs().clamp_min(1e-30)
    assert error.max() < 4e-7  # three units in the last place of fp32


@pytest.mark.parametrize("options", [{"softcap": 30.0}, {"sliding_window": 20}])
def test_packed_rows_give_the_same_by_tiles(options, monkeypatch):
    """Long rows go by tiles, without a table of all scores; the same rows by hand differ by rounding."""
    query, key, value = tensors((1, 4, 71, 8), (1, 2, 71, 8), (1, 2, 71, 8), dtype=torch.float32)
    packing = Packing.of(LENGTHS, torch.device("cpu"))
    found = {}
    for tiled in (False, True):
        monkeypatch.setattr(packed_sdpa, "TILED_FROM", 1 if tiled else 1000)
        called = []
        monkeypatch.setattr(packed_sdpa, "attend_tiled", lambda *a, seen=called: seen.append(a) or attend_tiled(*a))
        found[tiled], _ = attend_packed(torch.nn.Module(), query, key, value, None, packing=packing, **options)
        assert bool(called) is tiled
    torch.testing.assert_close(found[True], found[False], atol=1e-6, rtol=0)  # fp32
