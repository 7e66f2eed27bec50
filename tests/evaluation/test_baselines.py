"""The baselines on held-out folds, and that `baseline` and `report` agree on them."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.folds import assign_folds
from tiebreak.data.predictions import read_predictions
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import BOOSTED, LENGTH, PRIOR, TFIDF, WITH_NUMBERS, baseline, cross_fit
from tiebreak.evaluation.inputs import read_labelled
from tiebreak.evaluation.measure import BASELINES, measure, predict_baselines
from tiebreak.evaluation.metrics import log_loss
from tiebreak.evaluation.text_baselines import count_words, fit_boosted, fit_text
from tiebreak.labels import CLASSES
from tiebreak.models.loading import load_tokenizer
from tiebreak.process import configure_logging
from tiebreak.sample.generator import write_sample
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

NAMES = (PRIOR, LENGTH, TFIDF, WITH_NUMBERS, BOOSTED)


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


@pytest.fixture
def said(capsys):
    """What was logged since the last call."""
    configure_logging()
    return lambda: capsys.readouterr().out


def test_each_baseline_learns_what_it_can_see(two, said):
    """Words decide here, lengths do not: TF-IDF comes near the law, the length model stays at the prior."""
    found = baseline([two])
    assert "two classes" in said() and found.classes == 2
    loss = {name: found.by_fold(name)[:, 0].mean() for name in NAMES}
    assert loss["prior"] == pytest.approx(np.log(2), abs=0.02)
    assert loss["length"] == pytest.approx(loss["prior"], abs=0.02)
    law = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert law - 0.1 < loss["tfidf+length"] < law + 0.15 < loss["prior"]
    assert found.by_fold("tfidf+length")[:, 1].mean() > 0.8
    for name in (WITH_NUMBERS, BOOSTED):
        assert law - 0.1 < loss[name] < law + 0.15, name


def test_predictions_are_out_of_fold_and_whole(two):
    """Every row is predicted, with no mass on the absent class, by a model that saw no row of its prompt."""
    found = baseline([two], folds=3)
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
        again = fit_text(count_words(seen), found.labels[train])(count_words([pairs[k] for k in held_out]))
        np.testing.assert_allclose(found.probabilities["tfidf+length"][held_out], again, atol=1e-9)


def test_folds_are_those_of_training(sample):
    """Fold K here is what `train --fold K/N` holds out, so a judge and the baselines are compared on equal rows."""
    recipe = load_recipe("demo-llama2")
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    trained = assign_folds(tokens.labels, tokens.groups, 4, recipe.data.folds_seed)
    found = baseline([sample], folds=4)
    assert np.array_equal(found.folds, trained)
    assert np.array_equal(found.labels, tokens.labels)
    assert found.classes == 3


def test_two_classes_may_be_asked_for_where_there_are_ties(tmp_path, said):
    path = write_table(tmp_path / "three.csv", worded(300, 3))
    found = baseline([path], classes=2)
    ties = int((found.labels == 2).sum())
    assert f"{ties} ties" in said() and ties > 50
    assert found.scored.sum() == 300 - ties and len(found.probabilities["prior"]) == 300
    three = baseline([path])
    assert three.classes == 3 and said() == ""
    assert three.by_fold("tfidf+length")[:, 0].mean() < three.by_fold("prior")[:, 0].mean() - 0.2


def test_the_command_prints_the_table_and_writes_predictions(two, tmp_path, capsys):
    assert main(["baseline", "--data", str(two), "--folds", "3", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    found = baseline([two], folds=3)
    assert str(found) in printed
    for name in NAMES:
        by_fold = found.by_fold(name)
        (line,) = [line for line in printed.splitlines() if line.split(" ")[0] == name]
        loss, accuracy = found.score(name)
        assert loss == log_loss(found.probabilities[name], found.labels)
        assert f"{loss:.4f} ± {by_fold[:, 0].std(ddof=1):.4f}" in line
        assert f"{accuracy:.3f} ± {by_fold[:, 1].std(ddof=1):.3f}" in line
        assert line.split()[-3:] == [f"{value:.4f}" for value in by_fold[:, 0]]
        ids, probabilities = read_predictions(tmp_path / "out" / f"{name}.csv")
        assert ids == found.ids
        # Nine decimals are written.
        assert log_loss(probabilities, found.labels) == pytest.approx(
            log_loss(found.probabilities[name], found.labels), abs=1e-8
        )


def test_too_few_rows_and_folds_are_reported(tmp_path):
    path = write_table(tmp_path / "few.csv", [(f"q{k}", "yes", "no", 0 if k else 1) for k in range(8)])
    with pytest.raises(UserError, match="at least 2"):
        baseline([path], folds=1)
    with pytest.raises(UserError, match="20 folds need at least 20 distinct prompts"):
        baseline([path], folds=20)
    with pytest.raises(UserError, match="a class does not occur"):
        baseline([path], folds=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "two classes", "by hand"])
def test_the_command_and_the_report_give_the_same_figures(kind, two, tmp_path, capsys):
    """One implementation and one set of folds: equal to the last digit on the same rows, prompts in any order."""
    path = {"two classes": two}.get(kind, tmp_path / "table.csv")
    if kind == "sample":
        write_sample(path, 600, seed=5, profile="short")
    elif kind == "by hand":
        rows = worded(240, 3, seed=2)
        write_table(path, [rows[k] for k in np.random.default_rng(1).permutation(len(rows))])
    found, rows = baseline([path]), read_labelled(path)
    reported = predict_baselines(rows)
    assert rows.ids == found.ids and rows.notes == []
    for name, probabilities in found.probabilities.items():
        np.testing.assert_array_equal(reported[BASELINES[name]], probabilities)
    assert main(["baseline", "--data", str(path)]) == 0
    printed, report = capsys.readouterr().out, measure(rows, [], path.name, resamples=2)
    for name in NAMES:
        scores = report.baselines[BASELINES[name]]
        (line,) = [line for line in printed.splitlines() if line.split(" ")[0] == name]
        assert line.split()[1] == f"{scores.log_loss.value:.4f}"
        assert (scores.log_loss.value, scores.accuracy.value) == pytest.approx(found.score(name), abs=1e-12)


def test_a_text_that_gives_its_own_label_away_does_not_help_on_other_prompts(sample):
    """Each prompt's answers hold a word of their own: learnt only if the prompt were in training too."""
    pairs = [pair for pair in read_table([sample]).pairs for _ in range(2)]
    labels = np.repeat(np.random.default_rng(0).integers(0, 3, 400), 2)
    for k, pair in enumerate(pairs):
        pair.prompt, pair.response_a, pair.response_b = [f"prompt {k // 2}"], [f"token{k // 2}"], ["nothing"]
    found = cross_fit([str(k) for k in range(len(pairs))], labels, pairs)
    assert found.score(TFIDF)[0] > 1.08


def test_without_texts_there_is_the_prior_of_the_other_rows():
    labels = np.random.default_rng(3).integers(0, 3, 300)
    found = cross_fit([str(k) for k in range(300)], labels, None)
    assert list(found.probabilities) == [PRIOR]
    for fold in range(5):
        rest = labels[found.folds != fold]
        shares = np.bincount(rest, minlength=3) / len(rest)
        np.testing.assert_allclose(found.probabilities[PRIOR][found.folds == fold], [shares] * (60), atol=1e-12)


def numbered(rows: int, seed: int = 0):
    """Pairs of the same words and characters; nine in ten votes are for the answer on three lines."""
    generator = np.random.default_rng(seed)
    pairs, labels = [], []
    for k in range(rows):
        winner, flipped = int(generator.integers(2)), generator.random() < 0.1
        answers = ["one two three ", "one two three "]
        answers[winner] = "one\ntwo\nthree\n"
        pairs.append(Pair(str(k), [f"question {k}"], [answers[0]], [answers[1]]))
        labels.append(winner ^ flipped)
    return pairs, np.array(labels)


def test_all_numbers_see_what_words_and_lengths_do_not():
    """The answers differ in line breaks alone, which neither words nor lengths tell."""
    pairs, labels = numbered(400)
    found = cross_fit([pair.id for pair in pairs], labels, pairs)
    assert found.score(WITH_NUMBERS)[0] < 0.45 and found.score(BOOSTED)[0] < 0.45 < 0.6 < found.score(TFIDF)[0]


def test_trees_give_swapped_answers_the_swapped_probabilities():
    pairs, labels = numbered(400, seed=1)
    answers = count_words(pairs)
    swapped = count_words([replace(pair, response_a=pair.response_b, response_b=pair.response_a) for pair in pairs])
    predict = fit_boosted(answers, labels, lambda some: np.full((len(some.chars), 3), 1 / 3))
    np.testing.assert_allclose(predict(answers)[:, [1, 0, 2]], predict(swapped), atol=1e-12)


def test_trees_are_the_same_whatever_the_threads():
    pairs, labels = numbered(300, seed=2)
    answers, text = count_words(pairs), lambda some: np.full((len(some.chars), 3), 1 / 3)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(fit_boosted(answers, labels, text)(answers))
    np.testing.assert_array_equal(*found)
