"""What a judge has to beat: the class prior and the answers' lengths."""

from typing import TypedDict

import numpy as np


class Baselines(TypedDict):
    """Fitted on training labels, kept in the model folder: plain numbers.

    `prior` are the class shares (3). `length` is a multinomial logistic model on how much longer an
    answer is: weights (3, 2) and intercepts (3).
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
    weights, intercepts = np.zeros((3, 2)), np.log(shares)
    classes = np.unique(labels)
    if len(classes) > 1:
        model = LogisticRegression(max_iter=1_000).fit(_features(chars), labels)
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

    scores = _features(chars) @ np.array(fitted["length_weights"]).T + np.array(fitted["length_intercepts"])
    return softmax(scores, axis=1)


def _features(chars: np.ndarray) -> np.ndarray:
    """Log ratio of the lengths, and its size."""
    ratio = np.log((1.0 + chars[:, 0]) / (1.0 + chars[:, 1]))
    return np.stack([ratio, np.abs(ratio)], axis=1)
