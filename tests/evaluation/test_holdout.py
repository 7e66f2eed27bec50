"""Rows held out by model family or by time: nothing of tomorrow is trained on, and a cost of new families is seen."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.data.encode import prompt_group
from tiebreak.errors import UserError
from tiebreak.evaluation.holdout import hold_out
from tiebreak.evaluation.inputs import read_labelled
from tiebreak.evaluation.self_enhancement import family_of
from tiebreak.evaluation.slices import cut_slices
from tiebreak.evaluation.split_tables import split_tables, unseen_families
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
MODELS = ["gpt-4", "gpt-3.5", "claude-2", "llama-2-7b", "vicuna-13b", "qwen-7b", "elm-1", "oak-2", "yi-34b"]


def families(pairs, rows):
    return {family_of(name) for row in rows for name in (pairs[row].model_a, pairs[row].model_b)}


def prompts(pairs, rows):
    return {prompt_group(pairs[row].prompt) for row in rows}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(MODELS), st.sampled_from(MODELS), st.integers(0, 25)), min_size=30, max_size=90),
    st.integers(2, 3),
    st.integers(0, 5),
    st.data(),
)
def test_no_family_and_no_prompt_of_a_held_out_row_is_trained_on(rows, n, seed, data):
    pairs = [Pair(str(i), [f"p{p}"], ["a"], ["b"], 0, a, b) for i, (a, b, p) in enumerate(rows)]
    k = data.draw(st.integers(0, n - 1))
    try:
        split = hold_out(pairs, "models", (k, n), seed)
    except UserError:
        return
    new = families(pairs, split.held_out)
    assert new <= set(split.families) and not new & families(pairs, split.train)
    assert not families(pairs, split.seen) & set(split.families)
    for others in (split.train, split.control):
        assert not prompts(pairs, others) & (prompts(pairs, split.held_out) | prompts(pairs, split.seen))
    assert len(split.control) <= len(split.train) and not set(split.control) & set(split.held_out)


def test_every_set_has_its_families_once_and_the_control_is_as_large():
    rng = np.random.default_rng(0)
    names = rng.choice(MODELS, (600, 2))
    pairs = [Pair(str(i), [f"p{i}"], ["a"], ["b"], 0, a, b) for i, (a, b) in enumerate(names)]
    splits = [hold_out(pairs, "models", (k, 3)) for k in range(3)]
    assert sorted(name for split in splits for name in split.families) == sorted({family_of(name) for name in MODELS})
    for split in splits:
        assert len(split.control) == len(split.train) > 100 and families(pairs, split.control) & set(split.families)


def test_time_trains_on_what_came_before_alone():
    pairs = [Pair(str(i), [f"p{i % 17}" if i % 5 == 0 else f"q{i}"], ["a"], ["b"], 0) for i in range(100)]
    split = hold_out(pairs, "time", (3, 4))
    assert split.held_out.tolist() == list(range(75, 100)) and split.train.max() < 75 and len(split.train) < 75
    assert not prompts(pairs, split.train) & prompts(pairs, split.held_out)
    with pytest.raises(UserError, match="nothing comes before"):
        hold_out(pairs, "time", (0, 4))


def test_mistakes_are_told(write_table):
    table = write_table({"model_a": ""}, {})
    with pytest.raises(UserError, match="row 1: no model_a"):
        hold_out(read_table([table]).pairs, "models", (0, 2))
    few = read_table([write_table({}, {}, name="few.csv")]).pairs
    with pytest.raises(UserError, match="at least 5 model families; the table has 2"):
        hold_out(few, "models", (0, 5))


def test_the_tables_of_a_split_bring_their_slices(sample, tmp_path):
    tables = split_tables([sample], tmp_path / "split", "models", (1, 3))
    again = split_tables([sample], tmp_path / "split", "models", (1, 3))
    assert again == tables
    with pytest.raises(UserError, match="another split"):
        split_tables([sample], tmp_path / "split", "models", (0, 3))
    rows = read_labelled(tables.test)
    assert rows.unseen == unseen_families(tables.test) == set(tables.manifest.families) != set()
    masks = cut_slices(rows.pairs, rows.chars, rows.unseen)
    held_out = {pair.id for pair in read_table([tables.held_out]).pairs}
    new = masks["models", "both unseen in training"]
    assert {row_id for row_id, mask in zip(rows.ids, new, strict=True) if mask} == held_out
    assert (
        masks["models", "both seen in training"].sum() == tables.manifest.rows["seen"] == len(rows.ids) - len(held_out)
    )
    assert not any(key[0] == "models" for key in cut_slices(rows.pairs, rows.chars))


@pytest.mark.parametrize(("effect", "found"), [(1.5, True), (0.0, False)])
def test_a_planted_cost_of_new_families_is_found_and_none_is_invented(effect, found):
    from unseen_models import planted

    cost, se = planted(effect, seed=0, rows=4_000)
    assert (cost > 2 * se) is found
