"""Blocks within memory, and which rows are seen in the other order."""

import numpy as np
import pytest
import torch

from tiebreak.prediction.compute import SwapPolicy, run_blocks
from tiebreak.prediction.parts import Failure

LENGTHS = np.array([10, 20, 30, 40, 500, 60])
BLOCKS = [np.array([0, 1, 2]), np.array([3, 5, 4])]


def logits_of(rows, swapped):
    """Some logits of each row, whoever is beside it."""
    return np.stack([np.sin(np.arange(3) + 7 * row + 100 * swapped) for row in rows]).astype(np.float32)


def limited(most, error, only_swapped=False):
    """A view whose memory holds so many tokens."""
    calls = []

    def view(rows, swapped):
        calls.append(rows.tolist())
        if LENGTHS[rows].sum() > most and (swapped or not only_swapped):
            raise error
        return logits_of(rows, swapped)

    return view, calls


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_a_block_that_does_not_fit_is_split_and_a_row_that_fails_alone_has_no_logits(error, caplog):
    view, calls = limited(70, error)
    part = run_blocks(view, LENGTHS, BLOCKS, SwapPolicy())
    assert part.rows.tolist() == [0, 1, 2, 3, 5, 4]
    assert part.failed.tolist() == [0, 0, 0, 0, 0, Failure.OUT_OF_MEMORY]
    np.testing.assert_array_equal(part.logits[:5], logits_of([0, 1, 2, 3, 5], False))
    assert np.isnan(part.logits[5]).all() and part.swapped_logits.shape == (0, 3)
    assert calls == [[0, 1, 2], [3, 5, 4], [3, 5], [3], [5], [4]]
    assert [line.split(":")[0] for line in caplog.messages] == [
        "out of memory at 3 rows of 600 tokens",
        "out of memory at 2 rows of 100 tokens",
        "out of memory at one row of 500 tokens, alone",
    ]


def test_other_errors_are_not_taken_for_memory():
    view, _ = limited(70, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        run_blocks(view, LENGTHS, BLOCKS, SwapPolicy())


def test_a_second_view_that_does_not_fit_leaves_the_first():
    view, _ = limited(70, MemoryError(), only_swapped=True)
    part = run_blocks(view, LENGTHS, BLOCKS, SwapPolicy(True))
    assert part.failed.tolist() == [0, 0, 0, 0, 0, Failure.SWAPPED_OUT_OF_MEMORY]
    np.testing.assert_array_equal(part.logits, logits_of(part.rows, False))
    np.testing.assert_array_equal(part.swapped_logits[:5], logits_of(part.rows[:5], True))
    assert np.isnan(part.swapped_logits[5]).all()


def test_logits_that_are_not_finite_are_a_failure_of_that_row():
    def view(rows, swapped):
        found = logits_of(rows, swapped)
        found[rows == 1, 2] = np.inf
        return found

    part = run_blocks(view, LENGTHS, BLOCKS, SwapPolicy(True))
    assert part.failed.tolist() == [0, Failure.NOT_FINITE, 0, 0, 0, 0]
    assert np.isnan(part.logits[1]).all() and np.isnan(part.swapped_logits[1]).all()


def test_adaptive_sees_close_rows_again_and_counts_their_tokens():
    rows = np.arange(6)
    first = logits_of(rows, False).astype(np.float64)
    odds = np.exp(first) / np.exp(first).sum(1, keepdims=True)
    top = np.sort(odds, axis=1)
    margins = top[:, 2] - top[:, 1]
    margin = float(np.median(margins))
    part = run_blocks(lambda *args: logits_of(*args), LENGTHS, BLOCKS, SwapPolicy(True, margin))
    twice = np.isfinite(part.swapped_logits).all(1)
    assert 0 < twice.sum() < 6
    np.testing.assert_array_equal(twice, margins[part.rows] < margin)
    np.testing.assert_array_equal(part.swapped_logits[twice], logits_of(part.rows[twice], True))
    assert part.tokens.tolist() == [LENGTHS.sum(), LENGTHS[part.rows[twice]].sum()]
