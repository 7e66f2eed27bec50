"""Folds: no prompt in two of them, label shares alike."""

import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from tiebreak.data.encode import prompt_group
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.errors import UserError
from tiebreak.sample.generator import write_sample
from tiebreak.tables.table import read_table

FOLDS = 5


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Labels and prompt groups of a sample in which every fourth row repeats an earlier prompt."""
    path = tmp_path_factory.mktemp("folds") / "sample.csv"
    write_sample(path, 2_000, profile="short")
    pairs = read_table([path]).pairs
    prompts = [pair.prompt for pair in pairs]
    prompts[::4] = [[turn.upper() + " " for turn in prompt] for prompt in prompts[: len(prompts[::4])]]
    return np.array([pair.label for pair in pairs]), np.array([prompt_group(prompt) for prompt in prompts])


def test_no_prompt_is_in_two_folds(rows):
    labels, groups = rows
    assert len(np.unique(groups)) < len(groups) * 0.9, "the sample must repeat prompts"
    folds = assign_folds(labels, groups, FOLDS, seed=0)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1


def test_every_fold_is_a_fair_share(rows):
    labels, groups = rows
    folds = assign_folds(labels, groups, FOLDS, seed=0)
    assert set(folds.tolist()) == set(range(FOLDS))
    for fold in range(FOLDS):
        # A group goes to one fold as a whole, so shares are only about equal: within 1 % of the rows.
        assert abs((folds == fold).mean() - 1 / FOLDS) < 0.01
        for label in range(3):
            assert abs((labels[folds == fold] == label).mean() - (labels == label).mean()) < 0.02


def test_folds_depend_on_the_seed_alone(rows):
    first = assign_folds(*rows, FOLDS, seed=1)
    assert (assign_folds(*rows, FOLDS, seed=1) == first).all()
    assert (assign_folds(*rows, FOLDS, seed=2) != first).any()


@pytest.mark.parametrize("seed", range(60))
def test_the_folds_are_those_of_scikit_learn(seed):
    """Tables of one label to three, of groups of all sizes, of odd folds: earlier runs' folds stay what they were."""
    rng = np.random.default_rng(seed)
    folds, rows = int(rng.integers(2, 12)), int(rng.integers(30, 300))
    labels = rng.choice(3, rows, p=[(0.4, 0.4, 0.2), (0.9, 0.1, 0), (1, 0, 0), (0.1, 0.1, 0.8)][seed % 4])
    groups = rng.integers(0, int(rng.integers(folds + 9, 2 * rows)), rows) * 10**12
    expected = np.empty(rows, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for fold, (_, held_out) in enumerate(splits):
            expected[held_out] = fold
    np.testing.assert_array_equal(assign_folds(labels, groups, folds, seed), expected)


@pytest.mark.parametrize(("text", "fold"), [("0/5", (0, 5)), ("4/5", (4, 5)), ("1/2", (1, 2)), ("10/100", (10, 100))])
def test_a_fold_is_written_as_k_of_n(text, fold):
    assert parse_fold(text) == fold


@pytest.mark.parametrize("text", ["", "1", "1/", "/5", "5/5", "-1/5", "0/1", "0/0", "a/b", "1/5/2", "1.0/5", " 1/5"])
def test_any_other_fold_is_reported(text):
    with pytest.raises(UserError) as caught:
        parse_fold(text)
    assert f"--fold {text}: write it as K/N" in str(caught.value) and "for example 0/5" in str(caught.value)


@pytest.mark.parametrize("text", ["²/5", "0/⑤"])
def test_a_fold_in_strange_digits_is_reported(text):
    with pytest.raises(UserError):
        parse_fold(text)


def test_fewer_prompts_than_folds_are_reported():
    labels, groups = np.array([0, 1, 2, 0, 1, 2]), np.array([7, 7, 7, 8, 8, 8])
    with pytest.raises(UserError, match="5 folds need at least 5 distinct prompts; the table has 2"):
        assign_folds(labels, groups, FOLDS, seed=0)


def test_fewer_rows_of_each_label_than_folds_are_folded_or_told():
    labels, groups = np.array([0, 1, 2, 0, 1, 2]), np.arange(6)
    try:
        folds = assign_folds(labels, groups, FOLDS, seed=0)
    except UserError:
        return
    assert len(np.unique(folds)) == FOLDS
