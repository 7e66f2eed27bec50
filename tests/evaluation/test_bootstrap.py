"""The resamples: whole prompts, drawn with replacement, and intervals that hold what they say."""

import numpy as np
import pytest

from tiebreak.evaluation.bootstrap import Bootstrap, estimate


def test_each_resample_draws_as_many_prompts_as_there_are():
    boot = Bootstrap(np.array([7, 7, 3, 9, 3, 7]), resamples=500, seed=2)
    assert boot.groups == 3
    assert (boot.weights.sum(1) == 3).all()
    assert boot.weights.mean(0) == pytest.approx([1, 1, 1], abs=0.1)
    assert (Bootstrap(np.arange(5), 4, seed=1).weights == Bootstrap(np.arange(5), 4, seed=1).weights).all()


def test_rows_of_a_prompt_stay_together():
    """Sums over a resample equal those of its rows, each as often as its prompt was drawn."""
    groups = np.array([0, 1, 1, 2, 2, 2])
    boot = Bootstrap(groups, resamples=30)
    values = np.arange(12.0).reshape(6, 2)
    total, resampled = boot.sums(values)
    np.testing.assert_allclose(total, values.sum(0))
    for weights, sums in zip(boot.weights, resampled, strict=True):
        np.testing.assert_allclose(sums, sum(weights[group] * row for group, row in zip(groups, values, strict=True)))


@pytest.mark.slow
def test_the_interval_of_a_mean_holds_it_95_times_in_100():
    """Copies of rows, taken for rows of their own, would make the interval too narrow by a factor of two."""
    held = wrong = 0
    for seed in range(300):
        values = np.random.default_rng(seed).exponential(1.0, 150)
        rows = np.repeat(np.arange(150), 4)
        right = Bootstrap(rows, 300, seed).ratios(mean=values[rows])["mean"]
        alone = Bootstrap(np.arange(600), 300, seed).ratios(mean=values[rows])["mean"]
        held += right.low <= 1 <= right.high
        wrong += alone.low <= 1 <= alone.high
    # 300 draws at 95 %: three standard deviations are 3.8 points; the percentile interval lacks one more here.
    assert 0.90 <= held / 300 <= 0.99
    assert wrong / 300 < 0.80


def test_what_is_undefined_is_none_and_leaves_its_resamples_out():
    boot = Bootstrap(np.arange(4), 200)
    rare = np.array([1.0, 0, 0, 0])
    found = boot.ratios(never=(np.zeros(4), np.zeros(4)), rare=(2 * rare, rare))
    assert found["never"] is None
    assert (found["rare"].value, found["rare"].low, found["rare"].high) == (2, 2, 2)
    assert estimate(1.0, np.array([np.nan])) is None
