"""What a judge has to beat: the class prior and the answers' lengths."""

import numpy as np


def prior(labels: np.ndarray, rows: int) -> np.ndarray:
    """The training labels' class shares (rows, 3), with one added to each count."""
    counts = np.bincount(labels, minlength=3) + 1.0
    return np.tile(counts / counts.sum(), (rows, 1))


def length(train_chars: np.ndarray, train_labels: np.ndarray, chars: np.ndarray) -> np.ndarray:
    """Probabilities (n, 3) of a logistic model on how much longer an answer is.

    Args:
        train_chars, chars: characters of the answers A and B, (m, 2) and (n, 2).
        train_labels: (m,).
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train_labels)) < 2:
        return prior(train_labels, len(chars))
    model = LogisticRegression(max_iter=1_000).fit(_features(train_chars), train_labels)
    probabilities = np.full((len(chars), 3), 1e-6)
    probabilities[:, model.classes_] = np.maximum(model.predict_proba(_features(chars)), 1e-6)
    return probabilities / probabilities.sum(1, keepdims=True)


def _features(chars: np.ndarray) -> np.ndarray:
    """Log ratio of the lengths, and its size."""
    ratio = np.log((1.0 + chars[:, 0]) / (1.0 + chars[:, 1]))
    return np.stack([ratio, np.abs(ratio)], axis=1)
