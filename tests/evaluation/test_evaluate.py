"""`evaluate`: from arrays of any usual form, the figures of the report, readable in a terminal and a notebook."""

import numpy as np
import pytest
from planted import make_world, noisy
from sklearn import metrics

from tiebreak.errors import UserError
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.calibration import calibrate
from tiebreak.evaluation.evaluate import evaluate
from tiebreak.evaluation.position import audit_position
from tiebreak.evaluation.scores import score
from tiebreak.labels import CLASSES

WORLD = make_world(11, 120)
LAW, LABELS = WORLD.law, WORLD.labels
ORDERS = np.stack([noisy(LAW, WORLD.groups, WORLD.rng) for _ in range(2)])


def test_figures_are_scikit_learns_and_the_reports():
    found = evaluate(LAW, LABELS, groups=WORLD.groups, orders=ORDERS, resamples=100, seed=4)
    verdicts = LAW.argmax(1)
    assert found.scores.log_loss.value == pytest.approx(metrics.log_loss(LABELS, LAW), abs=1e-12)
    assert found.scores.accuracy.value == pytest.approx(metrics.accuracy_score(LABELS, verdicts), abs=1e-12)
    assert found.scores.macro_f1.value == pytest.approx(metrics.f1_score(LABELS, verdicts, average="macro"), abs=1e-12)
    shares = np.tile(np.bincount(LABELS) / len(LABELS), (len(LABELS), 1))
    assert found.class_shares_log_loss.value == pytest.approx(metrics.log_loss(LABELS, shares), abs=1e-12)
    boot = Bootstrap(WORLD.groups, 100, 4)
    assert found.scores == score(LAW, LABELS, boot)
    assert found.calibration == calibrate(LAW, LABELS, boot, 4)
    assert found.position == audit_position(LAW, LABELS, ORDERS, boot)
    assert (found.rows, found.prompts) == (160, 120)
    assert found.position.both_orders and found.position.consistency is not None


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(),
        LABELS.astype(float),
        np.eye(3)[LABELS],
        np.eye(3, dtype=bool)[LABELS],
        [CLASSES[label] for label in LABELS],
        ["abt"[label].replace("t", "tie") for label in LABELS],
        [("model_a", "model_b", "Tie")[label] for label in LABELS],
        [("A", np.int64(1), "tie (bothbad)")[label] for label in LABELS],
        np.array([int(label) for label in LABELS], dtype=object),
    ],
)
def test_labels_may_be_numbers_names_or_one_hot(labels):
    expected = evaluate(LAW, LABELS, resamples=100)
    assert evaluate(LAW.tolist(), labels, resamples=100) == expected
    assert expected.prompts == len(LABELS)


def test_groups_may_be_prompts_which_are_normalised_as_in_a_table():
    expected = evaluate(LAW, LABELS, groups=WORLD.groups, resamples=100)
    texts = [f"Prompt  {group}" if k % 2 else f"prompt {group}" for k, group in enumerate(WORLD.groups)]
    assert evaluate(LAW, LABELS, groups=texts, resamples=100) == expected
    assert evaluate(LAW, LABELS, groups=[[text] for text in texts], resamples=100) == expected


def test_it_reads_well():
    found = evaluate(LAW, LABELS, groups=WORLD.groups, orders=ORDERS, resamples=100)
    text, page = repr(found), found._repr_html_()
    for shown in (f"{found.scores.log_loss.value:.4f}", f"{found.scores.log_loss.low:.4f}", "160 rows, 120 prompts"):
        assert shown in text and shown in page
    for name in ("log loss", "class shares", "accuracy", "macro F1", "Brier", "temperature", "swapped", "tie"):
        assert name in text and name in page
    assert "calibration error" in text and "calibration error" in page
    assert max(map(len, text.splitlines())) < 80 and len(text.splitlines()) < 20
    assert page.count("<table>") == page.count("</table>") == 2
    assert "swapped" not in repr(evaluate(LAW, LABELS, resamples=100))


@pytest.mark.parametrize("rows", range(1, 13))
def test_few_rows_are_measured_too(rows):
    """Among few prompts some resamples draw none of those that the temperature is fitted on."""
    found = evaluate(LAW[:rows], LABELS[:rows])
    assert found.scores.log_loss.value == pytest.approx(-np.log(LAW[range(rows), LABELS[:rows]]).mean())
    assert (found.calibration.temperature is None) == (rows < 3)
    shown = next(line for line in repr(found).splitlines() if "temperature" in line)
    assert shown.count("–") == (2 if rows < 3 else 0)
    assert ("to" in repr(found).splitlines()[1]) == (rows > 1), "one prompt has no interval"


def test_a_judge_without_an_opinion_has_no_temperature():
    same = np.full_like(LAW, 1 / 3)
    found = evaluate(same, LABELS, resamples=100)
    assert found.calibration.temperature is None and found.calibration.held_out_gain is None
    assert evaluate(np.eye(3)[LABELS], LABELS, resamples=100).calibration.temperature is not None


def test_a_temperature_at_the_end_of_its_search_is_no_measurement():
    """Verdicts that are always right, always wrong, and as sure as they may be."""
    for probabilities, shown in ((np.eye(3)[LABELS], "≤ 0.05 "), (np.eye(3)[LABELS - 1], "≥ 20.00 ")):
        assert shown in repr(evaluate(0.9 * probabilities + 0.1 / 3, LABELS, resamples=100))
    usual = repr(evaluate(LAW, LABELS, resamples=100))
    assert not {"≤", "≥"} & set(usual)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"probabilities": LAW[:, :2]}, ["probabilities", "(n, 3)", "(160, 2)"]),
        ({"probabilities": LAW * 2}, ["probabilities[0]", "160"]),
        ({"probabilities": np.where(np.arange(160)[:, None] == 3, np.nan, LAW)}, ["probabilities[3]", "nan"]),
        ({"labels": LABELS[:5]}, ["labels", "5", "160"]),
        ({"labels": np.where(np.arange(160) == 7, 3, LABELS)}, ["labels[7]", "3"]),
        ({"labels": ["a"] * 159 + ["c"]}, ["labels[159]", "'c'"]),
        ({"labels": [0, 1, None] + [2] * 157}, ["labels[2]", "None", "(1 such"]),
        ({"labels": [0, 1, float("nan")] + [2] * 157}, ["labels[2]", "nan"]),
        ({"labels": ["a", 3] + ["b"] * 158}, ["labels[1]", "3"]),
        ({"labels": [0, -1] + [1] * 158}, ["labels[1]", "-1", "without a label"]),
        ({"labels": np.ones((160, 3))}, ["labels[0]", "one-hot"]),
        ({"labels": [[0, 1, 0], [0, None, 1]] * 80}, ["labels[1]", "None"]),
        ({"labels": [["a", "b", "tie"]] * 160}, ["labels", "(160, 3)", "one-hot"]),
        ({"labels": np.ones((160, 2))}, ["labels", "(160, 2)"]),
        ({"groups": range(9)}, ["groups", "9", "160"]),
        ({"orders": LAW}, ["orders", "(2, 160, 3)", "(160, 3)"]),
        ({"resamples": 5}, ["resamples=5", "100"]),
    ],
)
def test_arrays_that_cannot_be_measured_are_refused_with_the_first_bad_row(change, facts):
    given = {"probabilities": LAW, "labels": LABELS} | change
    with pytest.raises(UserError) as error:
        evaluate(given.pop("probabilities"), given.pop("labels"), **given)
    assert all(fact in str(error.value) for fact in facts), error.value
