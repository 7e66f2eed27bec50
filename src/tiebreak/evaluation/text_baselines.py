"""Baselines that read the answers: logistic models on TF-IDF, and boosted trees on the answers' numbers.

All are small and need no GPU. What a judge must beat to be worth its electricity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiebreak.data.features import NAMES, compare_lengths, extract_features, swap_signs
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.tables.rows import Pair

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BUCKETS = 2**18
"""Columns that words are hashed into: bounds memory, and no fold needs a vocabulary of its own."""
LEAST_ANSWERS = 2
"""Words of fewer training answers are left out."""
NUMBERS = tuple(NAMES)
"""All groups of numeric features (tiebreak.data.features)."""
MOST_SCALES = 5.0
"""A number is clipped to this many times its scale in the training rows."""

Predict = Callable[["Answers"], np.ndarray]
"""Answers of n rows -> probabilities (n, 3); 0 for a class that did not occur."""


@dataclass(frozen=True)
class Answers:
    """What these baselines know of n rows.

    Attributes:
        words_a: counts of A's words (n, BUCKETS). words_b: of B's.
        chars: of the two answers (n, 2).
        numbers: the rows' features (n, k) float64, those of `NUMBERS`.
    """

    words_a: "csr_matrix"
    words_b: "csr_matrix"
    chars: np.ndarray
    numbers: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Answers":
        """The rows of these numbers (m,)."""
        return Answers(self.words_a[chosen], self.words_b[chosen], self.chars[chosen], self.numbers[chosen])

    def exchanged(self) -> "Answers":
        """The same rows with A and B in each other's place."""
        return Answers(self.words_b, self.words_a, self.chars[:, ::-1], self.numbers * swap_signs(NUMBERS))


def count_chars(pairs: Sequence[Pair]) -> np.ndarray:
    """Characters of the two answers (n, 2)."""
    sizes = [[sum(map(len, pair.response_a)), sum(map(len, pair.response_b))] for pair in pairs]
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def count_words(pairs: Sequence[Pair]) -> Answers:
    """Hashed word counts and numbers of both answers; nothing is learnt from the rows, so folds may share them."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(n_features=BUCKETS, alternate_sign=False, norm=None, dtype=np.float32)
    a, b = (
        hashing.transform("\n".join(turns) for turns in answers)
        for answers in ((pair.response_a for pair in pairs), (pair.response_b for pair in pairs))
    )
    return Answers(a, b, count_chars(pairs), extract_features(pairs, NUMBERS).astype(np.float64))


def fit_text(answers: Answers, labels: np.ndarray, numbers: bool = False) -> Predict:
    """Fit a logistic model on TF-IDF of answer A minus that of answer B, and on their lengths or all their numbers.

    Args:
        answers: of m rows.
        labels: (m,), at least two classes.
        numbers: all of `NUMBERS` in the place of the lengths alone.
    """
    from scipy.sparse import csr_matrix, hstack, vstack
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    words = vstack([answers.words_a, answers.words_b])
    kept = np.flatnonzero(np.bincount(words.indices, minlength=BUCKETS) >= LEAST_ANSWERS)
    tfidf = TfidfTransformer(sublinear_tf=True).fit(words[:, kept])
    scaled = _scaling(answers.numbers) if numbers else None

    def features(answers: Answers) -> csr_matrix:
        difference = tfidf.transform(answers.words_a[:, kept]) - tfidf.transform(answers.words_b[:, kept])
        beside = compare_lengths(answers.chars) if scaled is None else scaled(answers.numbers)
        return hstack([difference, csr_matrix(beside)], format="csr")

    model = LogisticRegression(max_iter=1_000).fit(features(answers), labels)
    return lambda answers: _all_classes(model, features(answers))


def _scaling(numbers: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Scale features (n, k) to those of the training rows (m, k) and clip them; what compares answers stays odd."""
    signs = swap_signs(NUMBERS)
    mean = np.where(signs > 0, numbers.mean(0), 0.0)
    scale = np.sqrt(((numbers - mean) ** 2).mean(0))
    scale[scale < 1e-6] = 1.0
    return lambda values: ((values - mean) / scale).clip(-MOST_SCALES, MOST_SCALES)


def fit_boosted(answers: Answers, labels: np.ndarray, text: Predict) -> Predict:
    """Fit gradient-boosted trees (Friedman 2001, Annals of Statistics 29) on the numbers, and average them with `text`.

    Rows are learnt from and predicted in both orders: which answer stands first is no evidence to the trees.

    Args:
        answers: of m rows.
        labels: (m,), at least two classes.
        text: `fit_text` with all numbers, of these rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    signs = swap_signs(NUMBERS)
    model = HistGradientBoostingClassifier(
        learning_rate=0.06,
        max_iter=200,
        max_leaf_nodes=8,
        min_samples_leaf=100,
        l2_regularization=20.0,
        early_stopping=False,
        random_state=0,
    )
    both = np.concatenate([answers.numbers, answers.numbers * signs])
    with threadpool_limits(1, "openmp"):  # sums over threads would depend on their number
        model.fit(both, np.concatenate([labels, SWAPPED_CLASS[labels]]))

    def predict(answers: Answers) -> np.ndarray:
        there, back = (_all_classes(model, numbers) for numbers in (answers.numbers, answers.numbers * signs))
        mean: np.ndarray = (there + back[:, SWAPPED_CLASS]) / 4 + text(answers) / 2
        return mean

    return predict


def _all_classes(model: Any, features: Any) -> np.ndarray:
    """Probabilities (n, 3) of a fitted classifier of scikit-learn; 0 for a class that it does not know."""
    probabilities = np.zeros((features.shape[0], 3))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities
