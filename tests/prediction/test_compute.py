"""Blocks within memory, and which rows are seen in the other order."""

import numpy as np
import pytest
import torch

from tiebreak.cli import main
from tiebreak.data.predictions import ORDERS, read_predictions, round_probabilities, write_predictions
from tiebreak.data.prepare import prepare
from tiebreak.models.folder import find_model_folder
from tiebreak.models.loading import load_model
from tiebreak.models.tokenizer import load_saved_tokenizer
from tiebreak.prediction.compute import SwapPolicy, predict_tokens, run_blocks
from tiebreak.prediction.merge import merge
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


@pytest.mark.slow
@pytest.mark.parametrize(("option", "swap"), [([], False), (["--swap"], True), (["--swap", "adaptive:0.3"], None)])
def test_a_prediction_in_memory_is_the_commands_table(model, table, tmp_path, option, swap):
    """Bit for bit, an unreadable row included; rounded as tables are."""
    odd = tmp_path / "odd.csv"
    text = table.read_text(encoding="utf-8").splitlines()
    text[5] = text[5].replace('"[', '"', 1)
    odd.write_text("\n".join(text) + "\n", encoding="utf-8")
    changes = ["predict.tokens_per_block=1500"]
    command = ["predict", "--model", str(model), "--data", str(odd), "--out", str(tmp_path / "out"), *option]
    assert main([*command, "--set", *changes]) == 0
    folder, stored = find_model_folder(model)
    recipe = stored.make_recipe(changes)
    tokenizer, template = load_saved_tokenizer(folder), stored.text_template(recipe)
    tokens = prepare([odd], tokenizer, template, recipe.data, on_bad_row="keep", keep_ids=True)
    assert tokens.unreadable.sum() == 1
    prior = stored.baselines["prior"]
    loaded = load_model(folder, recipe, torch.device("cpu"), torch.float32)
    found = predict_tokens(
        loaded, tokens, SwapPolicy(True, 0.3) if swap is None else swap, tokens_per_block=1500, prior=prior
    )
    ids, probabilities = read_predictions(tmp_path / "out" / "predictions.csv")
    assert ids == tokens.ids
    np.testing.assert_array_equal(round_probabilities(found.probabilities), probabilities)
    write_predictions(tmp_path / "memory.csv", tokens.ids, found.probabilities)
    assert (tmp_path / "memory.csv").read_bytes() == (tmp_path / "out" / "predictions.csv").read_bytes()
    merged = merge(tmp_path / "out", keep_probabilities=True)
    np.testing.assert_array_equal(merged.probabilities, found.probabilities)
    assert (found.orders is not None) == (swap is True)
    if found.orders is not None:
        for order, name in zip(found.orders, ORDERS, strict=True):
            np.testing.assert_array_equal(round_probabilities(order), read_predictions(tmp_path / "out" / name)[1])
