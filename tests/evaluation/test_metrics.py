"""Scores and baselines against scikit-learn and direct formulas."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.metrics import log_loss as sklearn_log_loss

from tiebreak.evaluation import baselines
from tiebreak.evaluation.metrics import gap_closed, log_loss, scores, softmax

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 500)
PROBABILITIES = RNG.dirichlet([2, 2, 1], 500)
CHARS = RNG.integers(0, 3_000, (500, 2))


def length_features(chars):
    ratio = np.log((1.0 + chars[:, 0]) / (1.0 + chars[:, 1]))
    roots = (np.sqrt(chars[:, 0]) - np.sqrt(chars[:, 1])) / 10
    return np.stack([ratio, np.abs(ratio), roots, np.abs(roots)], axis=1)


def test_scores_equal_scikit_learns():
    found = scores(PROBABILITIES, LABELS)
    assert found["log_loss"] == pytest.approx(sklearn_log_loss(LABELS, PROBABILITIES), abs=1e-12)
    assert found["accuracy"] == pytest.approx((PROBABILITIES.argmax(1) == LABELS).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(LABELS, PROBABILITIES.argmax(1), average="macro"))


def test_a_certain_mistake_is_clipped_not_infinite():
    assert log_loss(np.array([[1.0, 0.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-15))


def test_softmax_is_stable_and_in_float64():
    found = softmax(np.array([[1e4, 0, 0], [-1e4, 0, 0]], dtype=np.float32))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0.5, 0.5]], atol=1e-12)


def test_length_baseline_equals_the_logistic_model_it_stores():
    fitted = baselines.fit(CHARS, LABELS)
    features = length_features(CHARS)
    expected = LogisticRegression(max_iter=1_000, tol=1e-9).fit(features, LABELS).predict_proba(features)
    np.testing.assert_allclose(baselines.length(fitted, CHARS), expected, atol=1e-6)  # where two solvers stop
    assert fitted["prior"] == pytest.approx(np.bincount(LABELS) / 500)


def test_length_baseline_of_a_table_without_ties_is_the_two_class_model():
    chars, labels = CHARS[LABELS < 2], LABELS[LABELS < 2]
    found = baselines.length(baselines.fit(chars, labels), chars)
    features = length_features(chars)
    expected = LogisticRegression(max_iter=1_000, tol=1e-9).fit(features, labels).predict_proba(features)
    assert found[:, 2].max() < 0.01
    np.testing.assert_allclose(found[:, :2] / found[:, :2].sum(1, keepdims=True), expected, atol=1e-6)


def test_length_baseline_of_an_earlier_version_still_reads():
    fitted = baselines.fit(CHARS, LABELS)
    ratio_alone = fitted | {"length_weights": [weights[:2] for weights in fitted["length_weights"]]}
    scores = length_features(CHARS)[:, :2] @ np.array(ratio_alone["length_weights"]).T + fitted["length_intercepts"]
    np.testing.assert_allclose(baselines.length(ratio_alone, CHARS), softmax(scores), atol=1e-12)


def test_baselines_of_a_single_class_are_finite():
    fitted = baselines.fit(CHARS[:10], np.zeros(10, dtype=np.int64))
    assert np.isfinite(baselines.length(fitted, CHARS)).all()
    assert (np.array(fitted["prior"]) > 0).all()


def test_the_gap_is_zero_for_the_prior_and_one_for_the_law():
    assert gap_closed(1.1, 1.1, 0.7) == 0
    assert gap_closed(0.7, 1.1, 0.7) == pytest.approx(1)
    assert gap_closed(0.9, 1.1, 0.7) == pytest.approx(0.5)


def test_table_names_each_row_and_leaves_the_gap_out_where_no_law_is_known():
    rows = baselines.compare_with_baselines(PROBABILITIES, LABELS, CHARS, baselines.fit(CHARS, LABELS), None)
    assert list(rows) == ["prior", "length", "model"]
    assert "gap" not in baselines.render_comparison(rows)
    assert f"{rows['model']['log_loss']:.4f}" in baselines.render_comparison(rows)
