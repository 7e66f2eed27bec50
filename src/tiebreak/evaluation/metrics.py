"""Scores of class probabilities against labels."""

import numpy as np

CLIP = 1e-15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Class probabilities (n, 3) float64 of logits (n, 3)."""
    logits = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean -log p of the true class, in nats; probabilities (n, 3), labels (n,)."""
    return float(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], CLIP, 1.0)).mean())


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Log loss, accuracy and macro F1 of probabilities (n, 3) against labels (n,)."""
    from sklearn.metrics import accuracy_score, f1_score

    decided = probabilities.argmax(1)
    return {
        "rows": len(labels),
        "log_loss": log_loss(probabilities, labels),
        "accuracy": float(accuracy_score(labels, decided)),
        "macro_f1": float(f1_score(labels, decided, average="macro", labels=[0, 1, 2], zero_division=0.0)),
    }


def gap_closed(model: float, prior: float, bayes: float) -> float:
    """The share of the learnable gap in log loss: 0 for the prior, 1 for the known law."""
    return (prior - model) / (prior - bayes)
