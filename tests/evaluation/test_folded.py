"""The baselines on held-out folds."""

import csv
import json

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.cells import normalise_prompt
from tiebreak.data.folds import assign_folds
from tiebreak.data.predictions import read_predictions
from tiebreak.data.prepare import prepare
from tiebreak.data.table import read_table
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import fit_text
from tiebreak.evaluation.folded import NAMES, cross_validate, render
from tiebreak.evaluation.metrics import log_loss
from tiebreak.labels import CLASSES
from tiebreak.models.loading import load_tokenizer


def write_table(path, rows):
    """Rows of (prompt, answer a, answer b, class)."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "response_a", "response_b", *CLASSES])
        for k, (prompt, a, b, label) in enumerate(rows):
            writer.writerow([k, *(json.dumps([text]) for text in (prompt, a, b)), *(int(label == j) for j in range(3))])
    return path


def worded(rows: int, classes: int, seed: int = 0):
    """Answers of one length whose winner says `good`; four in five labels follow it, and each prompt occurs twice."""
    generator = np.random.default_rng(seed)
    made = []
    for k in range(rows):
        label = int(generator.integers(classes))
        words = {0: ("good", "poor"), 1: ("poor", "good"), 2: ("fair", "fair")}[label]
        if generator.random() < 0.2:
            label = int(generator.integers(classes))
        made.append(
            (f"  Question {k // 2}" if k % 2 else f"question {k // 2}", *(f"a {w} reply" for w in words), label)
        )
    return made


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("two") / "two.csv", worded(300, 2))


def test_each_baseline_learns_what_it_can_see(two):
    """Words decide here, lengths do not: TF-IDF comes near the law, the length model stays at the prior."""
    said: list[str] = []
    found = cross_validate([two], say=said.append)
    assert said == ["no row is a tie: two classes"] and found.classes == 2
    loss = {name: found.by_fold(name)[:, 0].mean() for name in NAMES}
    assert loss["prior"] == pytest.approx(np.log(2), abs=0.02)
    assert loss["length"] == pytest.approx(loss["prior"], abs=0.02)
    law = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert law - 0.1 < loss["tfidf+length"] < law + 0.15 < loss["prior"]
    assert found.by_fold("tfidf+length")[:, 1].mean() > 0.8


def test_predictions_are_out_of_fold_and_whole(two):
    """Every row is predicted, with no mass on the absent class, by a model that saw no row of its prompt."""
    found = cross_validate([two], folds=3, say=lambda text: None)
    assert found.ids == [str(k) for k in range(300)]
    for probabilities in found.probabilities.values():
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
        assert (probabilities[:, :2] > 0).all() and (probabilities[:, 2] == 0).all()
    pairs = read_table([two]).pairs
    prompts = np.array([normalise_prompt(pair.prompt) for pair in pairs])
    for fold in range(3):
        train, held_out = found.folds != fold, np.flatnonzero(found.folds == fold)
        assert set(prompts[train]).isdisjoint(prompts[held_out])
        seen = [pair for pair, kept in zip(pairs, train, strict=True) if kept]
        chars = np.full((len(seen), 2), 12)
        model = fit_text(([p.response_a[0] for p in seen], [p.response_b[0] for p in seen]), chars, found.labels[train])
        mine = [pairs[k] for k in held_out]
        again = model(([p.response_a[0] for p in mine], [p.response_b[0] for p in mine]), np.full((len(mine), 2), 12))
        np.testing.assert_allclose(found.probabilities["tfidf+length"][held_out], again, atol=1e-9)


def test_folds_are_those_of_training(sample):
    """Fold K here is what `train --fold K/N` holds out, so a judge and the baselines are compared on equal rows."""
    recipe = load_recipe("demo-llama2")
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    trained = assign_folds(tokens.labels, tokens.groups, 4, recipe.data.folds_seed)
    found = cross_validate([sample], folds=4, say=lambda text: None)
    assert np.array_equal(found.folds, trained)
    assert np.array_equal(found.labels, tokens.labels)
    assert found.classes == 3


def test_two_classes_may_be_asked_for_where_there_are_ties(tmp_path):
    path = write_table(tmp_path / "three.csv", worded(300, 3))
    said: list[str] = []
    found = cross_validate([path], classes=2, say=said.append)
    ties = int((found.labels == 2).sum())
    assert said == [f"two classes: {ties} ties are neither learnt from nor scored"] and ties > 50
    assert found.scored.sum() == 300 - ties and len(found.probabilities["prior"]) == 300
    three = cross_validate([path], say=said.append)
    assert three.classes == 3 and len(said) == 1
    assert three.by_fold("tfidf+length")[:, 0].mean() < three.by_fold("prior")[:, 0].mean() - 0.2


def test_the_command_prints_the_table_and_writes_predictions(two, tmp_path, capsys):
    assert main(["baseline", "--data", str(two), "--folds", "3", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    found = cross_validate([two], folds=3, say=lambda text: None)
    assert render(found) in printed
    for name in NAMES:
        by_fold = found.by_fold(name)
        (line,) = [line for line in printed.splitlines() if line.startswith(name)]
        assert f"{by_fold[:, 0].mean():.4f} ± {by_fold[:, 0].std(ddof=1):.4f}" in line
        assert line.split()[-3:] == [f"{value:.4f}" for value in by_fold[:, 0]]
        ids, probabilities = read_predictions(tmp_path / "out" / f"{name}.csv")
        assert ids == found.ids
        # Nine decimals are written.
        assert log_loss(probabilities, found.labels) == pytest.approx(
            log_loss(found.probabilities[name], found.labels), abs=1e-8
        )


def test_too_few_rows_and_folds_are_told(tmp_path):
    path = write_table(tmp_path / "few.csv", [(f"q{k}", "yes", "no", 0 if k else 1) for k in range(8)])
    with pytest.raises(UserError, match="at least 2"):
        cross_validate([path], folds=1, say=lambda text: None)
    with pytest.raises(UserError, match="20 folds need at least 20 distinct prompts"):
        cross_validate([path], folds=20, say=lambda text: None)
    with pytest.raises(UserError, match="a class does not occur"):
        cross_validate([path], folds=2, say=lambda text: None)
