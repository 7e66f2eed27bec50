"""What a judge has to beat: the class prior, the answers' lengths and their words."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np


class Baselines(TypedDict):
    """Fitted on training labels, kept in the model folder: plain numbers.

    `prior` are the class shares (3). `length` is a multinomial logistic model on how much longer an
    answer is: weights (3, features) and intercepts (3).
    """

    prior: list[float]
    length_weights: list[list[float]]
    length_intercepts: list[float]


def fit(chars: np.ndarray, labels: np.ndarray) -> Baselines:
    """Fit both on the training rows' answer lengths in characters (m, 2) and labels (m,).

    A class that does not occur gets the share and the score of one row.
    """
    from sklearn.linear_model import LogisticRegression

    counts = np.maximum(np.bincount(labels, minlength=3), 1)
    shares = counts / counts.sum()
    features = _features(chars)
    weights, intercepts = np.zeros((3, features.shape[1])), np.log(shares)
    classes = np.unique(labels)
    if len(classes) > 1:
        model = LogisticRegression(max_iter=1_000).fit(features, labels)
        two = len(classes) == 2  # then scikit-learn keeps the second class's scores against the first's zeros
        weights[classes[1:] if two else classes] = model.coef_
        intercepts[classes] = [0.0, model.intercept_[0]] if two else model.intercept_
        if two:
            (absent,) = set(range(3)) - set(classes.tolist())
            intercepts[absent] = intercepts[classes].max() - np.log(len(labels))
    return {"prior": shares.tolist(), "length_weights": weights.tolist(), "length_intercepts": intercepts.tolist()}


def prior(fitted: Baselines, rows: int) -> np.ndarray:
    """The class shares for each of `rows` rows, (rows, 3)."""
    return np.tile(np.array(fitted["prior"]), (rows, 1))


def length(fitted: Baselines, chars: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) from answer lengths in characters (n, 2)."""
    from scipy.special import softmax

    weights = np.array(fitted["length_weights"])
    features = _features(chars)[:, : weights.shape[1]]  # models of an earlier version know the log ratio alone
    return softmax(features @ weights.T + np.array(fitted["length_intercepts"]), axis=1)


Answers = tuple[Sequence[str], Sequence[str]]


def fit_text(answers: Answers, chars: np.ndarray, labels: np.ndarray) -> Callable[[Answers, np.ndarray], np.ndarray]:
    """A logistic model on TF-IDF of answer A minus that of answer B, and on their lengths.

    Args:
        answers: texts of the answers A and B, m each. chars (m, 2), labels (m,): of the same rows.

    Returns:
        The fitted model, (answers, chars) of n rows -> probabilities (n, 3); 0 for a class that did not occur.
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2), dtype=np.float32)
    words.fit([*answers[0], *answers[1]])

    def features(answers: Answers, chars: np.ndarray):
        difference = words.transform(answers[0]) - words.transform(answers[1])
        return hstack([difference, csr_matrix(_features(chars))], format="csr")

    model = LogisticRegression(max_iter=1_000).fit(features(answers, chars), labels)

    def predict(answers: Answers, chars: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(chars), 3))
        probabilities[:, model.classes_] = model.predict_proba(features(answers, chars))
        return probabilities

    return predict


def _features(chars: np.ndarray) -> np.ndarray:
    """Log ratio of the lengths and its size, difference of their square roots and its size: (n, 4).

    On real two-class rows the ratio alone has a log loss of .681, the four together .674 (docs/weights.md).
    """
    ratio = np.log((1.0 + chars[:, 0]) / (1.0 + chars[:, 1]))
    roots = (np.sqrt(chars[:, 0]) - np.sqrt(chars[:, 1])) / 10
    return np.stack([ratio, np.abs(ratio), roots, np.abs(roots)], axis=1)
