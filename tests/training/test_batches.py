"""Invariant 7 and the stand-in for a rank without rows."""

import numpy as np
import pytest
import torch

from tiebreak.config import load_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.loading import load_tokenizer
from tiebreak.tables.table import read_table
from tiebreak.training.batches import make_batch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(sample):
    recipe = load_recipe("demo-deberta", ["data.max_tokens=400"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    return tokenizer, prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)


def test_invariant_7_swapping_the_answers_swaps_the_first_two_classes(prepared, sample):
    """In the labels, and in the text: the swapped row is the row of a table with its columns swapped."""
    tokenizer, tokens = prepared
    rows = np.arange(len(tokens))
    plain = make_batch(tokens, rows, np.zeros(len(rows), bool), CPU)
    swapped = make_batch(tokens, rows, np.ones(len(rows), bool), CPU)
    assert sorted(set(plain.labels.tolist())) == [0, 1, 2]
    assert swapped.labels.tolist() == [{0: 1, 1: 0, 2: 2}[label] for label in plain.labels.tolist()]
    assert swapped.lengths == plain.lengths
    pair = read_table([sample]).pairs[7]
    text = tokenizer.decode(tokens.input_ids(7, swapped=True)[0])
    first, second = pair.response_b[0][:25], pair.response_a[0][:25]
    assert 0 < text.index(first) < text.index("[ANSWER_B]") < text.index(second)


def test_a_rank_without_rows_runs_one_with_weight_zero(prepared):
    _, tokens = prepared
    batch = make_batch(tokens, np.array([], dtype=np.int64), np.array([], dtype=bool), CPU)
    assert batch.weights.tolist() == [0.0]
    assert batch.lengths == [int(tokens.lengths.min())]
