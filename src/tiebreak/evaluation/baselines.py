"""What a judge has to beat: the class prior, the answers' lengths and their words."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from tiebreak.data.features import compare_lengths
from tiebreak.data.table import Pair


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
    weights, intercepts = fit_logistic(compare_lengths(chars), labels)
    shares = _shares(labels)
    return {"prior": shares.tolist(), "length_weights": weights.tolist(), "length_intercepts": intercepts.tolist()}


def fit_logistic(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (3, k) and intercepts (3,) of a multinomial logistic model on features (m, k) and labels (m,).

    A class that does not occur gets the score of one row.
    """
    from sklearn.linear_model import LogisticRegression

    weights, intercepts = np.zeros((3, features.shape[1])), np.log(_shares(labels))
    classes = np.unique(labels)
    if len(classes) > 1:
        model = LogisticRegression(max_iter=1_000).fit(features, labels)
        two = len(classes) == 2  # then scikit-learn keeps the second class's scores against the first's zeros
        weights[classes[1:] if two else classes] = model.coef_
        intercepts[classes] = [0.0, model.intercept_[0]] if two else model.intercept_
        if two:
            (absent,) = set(range(3)) - set(classes.tolist())
            intercepts[absent] = intercepts[classes].max() - np.log(len(labels))
    return weights, intercepts


def _shares(labels: np.ndarray) -> np.ndarray:
    """The classes' shares (3,); one that does not occur counts as one row."""
    counts = np.maximum(np.bincount(labels, minlength=3), 1)
    return counts / counts.sum()


def prior(fitted: Baselines, rows: int) -> np.ndarray:
    """The class shares for each of `rows` rows, (rows, 3)."""
    return np.tile(np.array(fitted["prior"]), (rows, 1))


def length(fitted: Baselines, chars: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) from answer lengths in characters (n, 2)."""
    from scipy.special import softmax

    weights = np.array(fitted["length_weights"])
    features = compare_lengths(chars)[:, : weights.shape[1]]  # models of an earlier version know the log ratio alone
    return softmax(features @ weights.T + np.array(fitted["length_intercepts"]), axis=1)


Answers = tuple[Sequence[str], Sequence[str]]


def answers_of(pairs: Sequence[Pair]) -> tuple[Answers, np.ndarray]:
    """The texts of the answers A and B, n each, and their characters (n, 2)."""
    chars = np.array([[len("".join(pair.response_a)), len("".join(pair.response_b))] for pair in pairs])
    return (["\n".join(pair.response_a) for pair in pairs], ["\n".join(pair.response_b) for pair in pairs]), chars


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
        return hstack([difference, csr_matrix(compare_lengths(chars))], format="csr")

    model = LogisticRegression(max_iter=1_000).fit(features(answers, chars), labels)

    def predict(answers: Answers, chars: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(chars), 3))
        probabilities[:, model.classes_] = model.predict_proba(features(answers, chars))
        return probabilities

    return predict
