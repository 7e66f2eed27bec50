"""Truncation: the budget holds, nobody goes empty, and neither answer is favoured."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.data.truncation import cut_turns, head_and_tail, join_turns, share

FUZZ = settings(deadline=None, max_examples=300, derandomize=True)
POLICIES = ("spread", "tail-trim", "right")
LEAST_BUDGET = 30
SEPARATOR = 0


def truncate(parts, budget, policy, turn, prompt_cap):
    """The parts cut, each with the separator between its turns."""
    return [join_turns(part, turn) for part in cut_turns(parts, budget, policy, turn, prompt_cap)]


@st.composite
def rows(draw, most_tokens=60):
    """Prompt and two answers with equally many turns; every token is a number of its own, above 0."""
    turns = draw(st.integers(1, 8))
    lengths = draw(st.lists(st.integers(0, most_tokens), min_size=3 * turns, max_size=3 * turns))
    return number_tokens(*(lengths[k * turns : (k + 1) * turns] for k in range(3)))


def number_tokens(*parts: list[int]) -> list[list[list[int]]]:
    """Parts from the lengths of their turns."""
    fresh = iter(range(1, 1 + sum(map(sum, parts))))
    return [[[next(fresh) for _ in range(length)] for length in part] for part in parts]


def separators(count: int) -> list[int]:
    return [SEPARATOR] * count


def joined(part, turn):
    whole = list(part[0])
    for tokens in part[1:]:
        whole += [*turn, *tokens]
    return whole


any_policy = st.sampled_from(POLICIES)
any_turn = st.integers(0, 6).map(separators)
any_cap = st.integers(1, 100)


@FUZZ
@given(rows(), st.integers(3, 200), any_policy, any_turn, any_cap)
def test_the_kept_tokens_never_exceed_the_budget(parts, budget, policy, turn, cap):
    assert sum(map(len, truncate(parts, budget, policy, turn, cap))) <= budget


@FUZZ
@given(rows(), st.integers(LEAST_BUDGET, 200), any_policy, any_turn, any_cap)
def test_every_answer_with_a_last_turn_keeps_some_tokens(parts, budget, policy, turn, cap):
    kept = truncate(parts, budget, policy, turn, cap)
    for answer, tokens in zip(parts[1:], kept[1:], strict=True):
        assert any(token != SEPARATOR for token in tokens) or not answer[-1]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_whose_last_turn_is_empty_keeps_some_of_the_earlier(policy):
    parts = number_tokens([1, 1], [40, 0], [5, 5])
    _, answer, _ = truncate(parts, LEAST_BUDGET, policy, separators(2), 256)
    assert any(token != SEPARATOR for token in answer)


@FUZZ
@given(rows(), st.integers(3, 200), any_policy, any_turn, any_cap)
def test_swapping_the_answers_swaps_what_is_kept(parts, budget, policy, turn, cap):
    prompt, a, b = truncate(parts, budget, policy, turn, cap)
    assert truncate([parts[0], parts[2], parts[1]], budget, policy, turn, cap) == [prompt, b, a]


@FUZZ
@given(rows(), st.integers(3, 200), any_policy, any_turn, any_cap)
def test_kept_tokens_stay_in_order(parts, budget, policy, turn, cap):
    for part, tokens in zip(parts, truncate(parts, budget, policy, turn, cap), strict=True):
        kept = [token for token in tokens if token != SEPARATOR]
        assert kept == sorted(kept)
        assert set(kept) <= {token for own in part for token in own}


@FUZZ
@given(rows(), any_policy, any_turn, any_cap)
def test_a_row_of_one_turn_that_fits_is_not_cut(parts, policy, turn, cap):
    parts = [part[:1] for part in parts]
    budget = max(3, sum(map(len, (tokens for part in parts for tokens in part))))
    assert truncate(parts, budget, policy, turn, cap) == [part[0] for part in parts]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_row_of_many_short_turns_that_fits_is_not_cut(policy):
    parts, turn = number_tokens([1] * 10, [1] * 10, [1] * 10), separators(2)
    whole = [joined(part, turn) for part in parts]
    assert truncate(parts, sum(map(len, whole)), policy, turn, 256) == whole


def test_of_too_many_turns_the_last_stay_apart_and_the_early_ones_run_together():
    parts = number_tokens([20] * 9, [20] * 9, [20] * 9)
    for part, tokens in zip(parts, truncate(parts, 100, "spread", separators(2), 256), strict=True):
        assert set(part[-1]) & set(tokens) and set(part[0]) & set(tokens)
        assert tokens.count(0) < 2 * 8, "a separator between all turns would eat the budget"


def test_spread_shares_one_to_two_to_two():
    kept = truncate(number_tokens([500], [500], [500]), 100, "spread", separators(2), 256)
    assert [len(tokens) for tokens in kept] == [20, 40, 40]


def test_spread_keeps_head_and_tail_of_every_turn():
    parts = number_tokens([5, 5], [50, 50], [50, 50])
    _, answer, _ = truncate(parts, 90, "spread", separators(2), 256)
    for tokens in parts[1]:
        assert tokens[0] in answer and tokens[-1] in answer
        assert tokens[len(tokens) // 2] not in answer


@pytest.mark.parametrize("policy", ["spread", "right"])
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((10, 500, 500), (10, 45, 45)),
        ((500, 5, 500), (31, 5, 63)),
        ((5, 5, 500), (5, 5, 90)),
        ((500, 0, 0), (100, 0, 0)),
    ],
)
def test_spare_budget_is_handed_on(policy, lengths, expected):
    kept = truncate(number_tokens(*([length] for length in lengths)), 100, policy, separators(2), 256)
    assert tuple(map(len, kept)) == expected


def test_right_keeps_the_beginning_of_each_part():
    parts = number_tokens([50], [30, 30], [30, 30])
    prompt, answer, _ = truncate(parts, 90, "right", separators(2), 256)
    assert prompt == parts[0][0][: len(prompt)]
    assert answer == joined(parts[1], separators(2))[: len(answer)]


def test_tail_trim_caps_the_prompt_then_trims_the_longer_answer():
    parts = number_tokens([80], [100], [20])
    prompt, a, b = truncate(parts, 100, "tail-trim", separators(2), 30)
    assert prompt == parts[0][0][:30]
    assert a == parts[1][0][:50]
    assert b == parts[2][0]


def test_tail_trim_leaves_the_answers_half_of_the_budget_whatever_the_cap():
    prompt, a, b = truncate(number_tokens([500], [500], [500]), 100, "tail-trim", separators(2), 10_000)
    assert (len(prompt), len(a), len(b)) == (50, 25, 25)


@FUZZ
@given(st.integers(0, 300), st.lists(st.tuples(st.integers(0, 99), st.integers(1, 4)), min_size=1, max_size=8))
def test_a_share_is_within_need_and_budget_and_wastes_little(budget, parts):
    needs, weights = [need for need, _ in parts], [weight for _, weight in parts]
    granted = share(budget, needs, weights)
    assert all(0 <= got <= need for got, need in zip(granted, needs, strict=True))
    unused = min(budget, sum(needs)) - sum(granted)
    assert 0 <= unused <= len(needs) - 1


@FUZZ
@given(st.integers(0, 300), st.lists(st.integers(0, 99), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_equal_needs_get_equal_shares(budget, needs, random):
    granted = share(budget, needs)
    shuffled = list(range(len(needs)))
    random.shuffle(shuffled)
    assert share(budget, [needs[k] for k in shuffled]) == [granted[k] for k in shuffled]


@pytest.mark.parametrize(
    ("limit", "expected"), [(6, [1, 2, 3, 4, 5, 6]), (5, [1, 2, 3, 5, 6]), (2, [1, 6]), (1, [1]), (0, [])]
)
def test_head_and_tail(limit, expected):
    assert list(head_and_tail([1, 2, 3, 4, 5, 6], limit)) == expected
