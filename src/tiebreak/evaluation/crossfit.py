"""Baselines on the report's own rows: each row is predicted by a model that never saw its prompt."""

from collections.abc import Callable, Sequence

import numpy as np

from tiebreak.data.table import Pair
from tiebreak.evaluation import baselines

FOLDS = 5
LEAST_GROUPS = 50
READ_CHARS = 1_000
"""Characters of an answer that TF-IDF reads: a bound on time where answers run to hundreds of pages."""
FEATURES = 2**16


def prior(labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """Class shares of the other folds (n, 3)."""

    def fit(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        shares = np.maximum(np.bincount(labels[train], minlength=3), 1)
        return np.tile(shares / shares.sum(), (len(test), 1))

    return _crossfit(labels, groups, fit)


def length(chars: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """The logistic model on how much longer an answer is (n, 3), from characters (n, 2)."""

    def fit(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return baselines.length(baselines.fit(chars[train], labels[train]), chars[test])

    return _crossfit(labels, groups, fit)


def tfidf(pairs: Sequence[Pair], chars: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """A logistic model on the difference of the answers' TF-IDF vectors and of their log lengths (n, 3)."""
    from scipy import sparse
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(groups)) < LEAST_GROUPS:
        return None
    # Words only, in any script: the texts are long, and scikit-learn's own tokeniser reads them fastest.
    hashing = HashingVectorizer(n_features=FEATURES, alternate_sign=False, norm=None, dtype=np.float32)
    a, b = (
        hashing.transform("\n".join(getattr(pair, side))[:READ_CHARS] for pair in pairs)
        for side in ("response_a", "response_b")
    )
    ratio = np.log((1.0 + chars[:, 0]) / (1.0 + chars[:, 1])).astype(np.float32)
    lengths = sparse.csr_matrix(np.stack([ratio, np.abs(ratio)], axis=1))

    def fit(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        weigh = TfidfTransformer(sublinear_tf=True).fit(sparse.vstack([a[train], b[train]]))
        seen, unseen = (
            sparse.hstack([weigh.transform(a[k]) - weigh.transform(b[k]), lengths[k]], "csr") for k in (train, test)
        )
        model = LogisticRegression(C=1.0, tol=1e-3, max_iter=60).fit(seen, labels[train])
        found = np.full((len(test), 3), 1e-6)
        found[:, model.classes_] = model.predict_proba(unseen)
        return found / found.sum(1, keepdims=True)

    return _crossfit(labels, groups, fit)


def _crossfit(
    labels: np.ndarray, groups: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray | None:
    """Out-of-fold predictions (n, 3), folds grouped by prompt; None where there are too few prompts or classes."""
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < LEAST_GROUPS:
        return None
    found = np.empty((len(labels), 3))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=0).split(labels, groups=groups):
        if len(np.unique(labels[train])) < 2:
            return None
        found[test] = fit(train, test)
    return found
