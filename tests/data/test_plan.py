"""The plan: every example once an epoch, and a layout that changes speed alone."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.data.plan import LAID_AT_ONCE, Plan, blocks
from tiebreak.labels import SWAPPED_CLASS

FUZZ = settings(deadline=None, max_examples=100, derandomize=True)
SWAPS = ("never", "random", "both")


def lengths_like_arena(rows: int, seed: int = 0) -> np.ndarray:
    """Lognormal with mean 821 and median 600, capped at 2,048: the real tokens per row."""
    spread = np.sqrt(2 * np.log(821 / 600))
    drawn = 600 * np.exp(spread * np.random.default_rng(seed).standard_normal(rows))
    return np.clip(drawn, 1, 2_048).astype(np.int32)


def examples(plan: Plan, steps: range) -> list[tuple[int, bool]]:
    return [pair for k in steps for pair in zip(plan.step(k).rows.tolist(), plan.step(k).swapped.tolist(), strict=True)]


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_epoch_holds_every_example_once(swap, epoch):
    plan = Plan(lengths_like_arena(103), batch_size=8, epochs=3, seed=5, swap=swap)
    per_epoch = plan.steps_per_epoch
    assert plan.steps == 3 * per_epoch
    seen = examples(plan, range(epoch * per_epoch, (epoch + 1) * per_epoch))
    if swap == "both":
        assert sorted(seen) == [(row, swapped) for row in range(103) for swapped in (False, True)]
    else:
        assert sorted(row for row, _ in seen) == list(range(103))
        assert any(swapped for _, swapped in seen) == (swap == "random")


@pytest.mark.parametrize("swap", ["never", "random"])
def test_the_order_and_the_coins_of_an_epoch_stay_as_they_were_in_earlier_versions(swap: str):
    rng = np.random.default_rng([9, 1])
    order, coins = rng.permutation(50), rng.random(50) < 0.5
    step = Plan(np.ones(50, np.int32), batch_size=50, epochs=2, seed=9, swap=swap).step(1)
    assert (step.rows == order).all()
    assert (step.swapped == (coins[order] if swap == "random" else np.zeros(50, bool))).all()


def test_epochs_and_seeds_differ_in_order():
    plan = Plan(np.ones(64, np.int32), batch_size=64, epochs=2, seed=0)
    other = Plan(np.ones(64, np.int32), batch_size=64, epochs=2, seed=1)
    orders = [plan.step(0).rows, plan.step(1).rows, other.step(0).rows]
    assert len({tuple(order.tolist()) for order in orders}) == 3


@pytest.mark.slow
@FUZZ
@given(
    rows=st.integers(1, 80),
    batch_size=st.integers(1, 20),
    swap=st.sampled_from(SWAPS),
    world=st.integers(1, 6),
    tokens=st.integers(1, 9_000),
)
def test_a_steps_examples_depend_on_no_layout(rows, batch_size, swap, world, tokens):
    lengths = lengths_like_arena(rows)
    alone = Plan(lengths, batch_size, 2, seed=9, swap=swap)
    laid = Plan(lengths, batch_size, 2, seed=9, swap=swap, world=world, tokens=tokens)
    assert laid.steps == alone.steps
    for k in reversed(range(alone.steps)):  # asked in another order, too
        assert (laid.step(k).rows == alone.step(k).rows).all()
        assert (laid.step(k).swapped == alone.step(k).swapped).all()


@FUZZ
@given(
    lengths=st.lists(st.integers(1, 2_048), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    world=st.integers(1, 6),
    tokens=st.integers(1, 6_000),
)
def test_the_layout_holds_every_example_once_within_the_budget(lengths, batch_size, world, tokens):
    lengths = np.array(lengths, np.int32)
    plan = Plan(lengths, batch_size, 1, seed=0, world=world, tokens=tokens)
    for k in range(plan.steps):
        step = plan.step(k)
        assert len(step.micro_batches) == world
        assert len({len(of_rank) for of_rank in step.micro_batches}) == 1, "collectives must line up"
        micro_batches = [batch for of_rank in step.micro_batches for batch in of_rank]
        assert sorted(np.concatenate(micro_batches).tolist()) == list(range(len(step.rows)))
        for batch in micro_batches:
            assert len(batch) <= 1 or lengths[step.rows[batch]].sum() <= tokens


def test_steps_past_the_first_block_of_layouts_are_laid_as_well():
    plan = Plan(np.full(LAID_AT_ONCE * 2 + 10, 5, np.int32), batch_size=2, epochs=1, seed=0, world=2, tokens=5)
    for k in (0, LAID_AT_ONCE - 1, LAID_AT_ONCE, plan.steps - 1, 0):
        assert [[len(batch) for batch in of_rank] for of_rank in plan.step(k).micro_batches] == [[1], [1]]


def test_ranks_are_balanced():
    """Eight ranks wait for the slowest of each step: that costs less than 2 % on lengths like the real ones."""
    lengths = lengths_like_arena(64 * 300)
    plan = Plan(lengths, batch_size=64, epochs=1, seed=0, world=8)
    slowest = mean = 0.0
    for k in range(plan.steps):
        step = plan.step(k)
        loads = [sum(int(lengths[step.rows[batch]].sum()) for batch in of_rank) for of_rank in step.micro_batches]
        slowest, mean = slowest + max(loads), mean + np.mean(loads)
    assert slowest / mean < 1.02


def test_as_few_micro_batches_as_the_tokens_need():
    """Large micro-batches are fast ones: at most one more than the tokens alone would ask for."""
    lengths = lengths_like_arena(64 * 50)
    plan = Plan(lengths, batch_size=64, epochs=1, seed=0, world=2, tokens=8_192)
    for k in range(plan.steps):
        step = plan.step(k)
        least = -(-int(lengths[step.rows].sum()) // (2 * 8_192))
        assert least <= len(step.micro_batches[0]) <= least + 1


def test_a_micro_batch_is_added_only_where_the_rows_do_not_pack():
    """Three rows of 6 tokens are 18, less than two budgets of 10, but no two of them go together."""
    plan = Plan(np.full(3, 6, np.int32), batch_size=3, epochs=1, seed=0, tokens=10)
    assert [len(batch) for batch in plan.step(0).micro_batches[0]] == [1, 1, 1]


def test_about_half_of_the_rows_are_swapped_afresh_each_epoch():
    rows = 10_000
    plan = Plan(np.ones(rows, np.int32), batch_size=rows, epochs=2, seed=0, swap="random")
    coins = np.zeros((2, rows), bool)
    for epoch in range(2):
        step = plan.step(epoch)
        coins[epoch, step.rows] = step.swapped
    error = np.sqrt(0.25 / rows)
    assert abs(coins[0].mean() - 0.5) < 4 * error
    assert abs((coins[0] == coins[1]).mean() - 0.5) < 4 * error


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(1, None, 10), (0.5, None, 5), (0.01, None, 1), (2.25, None, 23), (3, 7, 7), (1, 99, 10)],
)
def test_epochs_may_be_fractions_and_steps_limited(epochs, max_steps, steps):
    plan = Plan(np.ones(77, np.int32), batch_size=8, epochs=epochs, seed=0, max_steps=max_steps)
    assert (plan.steps_per_epoch, plan.steps) == (10, steps)


def test_a_swapped_row_has_the_first_two_classes_swapped():
    assert SWAPPED_CLASS.tolist() == [1, 0, 2]


TEN_MILLION = """
import time, numpy as np
from tiebreak.data.plan import Plan
lengths = np.random.default_rng(0).integers(1, 2_049, 10_000_000, dtype=np.int32)
started = time.process_time()
plan = Plan(lengths, 64, 1, seed=0, swap="random", world=8)
plan.step(0)
plan.step(plan.steps - 1)
# Not ru_maxrss: a child begins with its parent's.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.process_time() - started, peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_ten_million_rows_are_planned_in_seconds():
    """About 2 s of CPU time; 10 s are allowed, since machines differ."""
    done = subprocess.run([sys.executable, "-c", TEN_MILLION], capture_output=True, text=True, check=True)
    seconds, kibibytes = map(float, done.stdout.split())
    assert seconds < 10
    assert kibibytes < 2**20


@FUZZ
@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 1_000), st.randoms(use_true_random=False))
def test_blocks_hold_each_row_once_within_the_budget_whatever_the_order(lengths, tokens, random):
    cut = blocks(np.array(lengths, np.int32), tokens)
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(lengths)))
    held = [[lengths[row] for row in block] for block in cut]
    assert all(len(block) == 1 or sum(block) <= tokens for block in held)
    random.shuffle(lengths)
    assert [[lengths[row] for row in block] for block in blocks(np.array(lengths, np.int32), tokens)] == held


@pytest.mark.parametrize("longest", [2_048, 2**16 - 1, 2**16, 2**20])
def test_blocks_take_rows_in_the_order_of_a_stable_sort_however_long_the_longest_is(longest: int):
    lengths = np.random.default_rng(3).integers(1, 40, 500).astype(np.int32)
    lengths[[7, 300]] = longest
    cut = np.concatenate(blocks(lengths, 100))
    assert cut.tolist() == sorted(range(500), key=lambda row: lengths[row]) and cut[-2:].tolist() == [7, 300]
    assert blocks(lengths[:0], 100) == []


def test_blocks_of_many_tokens_do_not_overflow():
    cut = blocks(np.full(3_000_000, 2_048, np.int32), 2_048 * 1_000)
    assert [len(block) for block in cut] == [1_000] * 3_000
