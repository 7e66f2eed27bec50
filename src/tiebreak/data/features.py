"""Numeric features of a row beside its text: lengths, style, readability, turns, for the linear part of a head.

A feature that compares the answers changes its sign with their order; the others stay. On real two-class rows a
logistic model on all of them has a log loss of .660, where TF-IDF and lengths have .658 (docs/weights.md).
"""

import re
from collections.abc import Sequence

import numpy as np

from tiebreak.tables.rows import Pair

NAMES = {
    "length": ("log ratio", "|log ratio|", "sqrt difference", "|sqrt difference|"),
    "style": (
        *("lines", "list items", "bold", "headings", "code blocks", "digits", "questions", "capitals"),
        *("refusals", "first person"),
    ),
    "readability": ("reading ease", "words a sentence", "letters a word", "distinct words"),
    "turns": ("turns", "prompt"),
}
"""Features of each group; those of SYMMETRIC do not change with the order of the answers."""
SYMMETRIC = {"|log ratio|", "|sqrt difference|", "turns", "prompt"}

WORD, VOWELS, SENTENCE = re.compile(r"\w+"), re.compile(r"[aeiouy]+"), re.compile(r"(?<![.!?])[.!?]+(?:\s|$)")
LIST_ITEM, HEADING = re.compile(r"(?m)^[^\S\n]*(?:[-*•]|\d+[.)])\s"), re.compile(r"(?m)^#+\s")
"""Each is tried once for a run of blanks or marks: else work would grow with the square of its length."""
REFUSAL = re.compile(r"(?i)\b(?:sorry|apologi[sz]e|cannot|can't|unable|as an ai)\b")
FIRST_PERSON = re.compile(r"\bI\b")
EASE = (-100.0, 200.0)
"""Reading ease is clipped to these: a text without sentences has no limit."""


def swap_signs(groups: Sequence[str]) -> np.ndarray:
    """Signs (k,) float32 of the groups' features: -1 where the order of the answers changes the sign, else 1."""
    names = [name for group in groups for name in NAMES[group]]
    return np.array([1.0 if name in SYMMETRIC else -1.0 for name in names], dtype=np.float32)


def extract_features(pairs: Sequence[Pair], groups: Sequence[str]) -> np.ndarray:
    """Compute the features (n, k) float32 of each pair in its own order, the groups one after another."""
    rows = [[value for group in groups for value in EXTRACTORS[group](pair)] for pair in pairs]
    return np.array(rows, dtype=np.float32).reshape(len(pairs), len(swap_signs(groups)))


def log_length_ratio(chars: np.ndarray) -> np.ndarray:
    """log((1 + A) / (1 + B)) (n,) of answer lengths in characters (n, 2); 0 for equal lengths."""
    ratio: np.ndarray = np.log((1.0 + chars[:, 0]) / (1.0 + chars[:, 1]))
    return ratio


def compare_lengths(chars: np.ndarray) -> np.ndarray:
    """Compare answer lengths in characters (n, 2): the four `length` features (n, 4), float64.

    On real two-class rows the ratio alone has a log loss of .681, the four together .674 (docs/weights.md).
    """
    ratio = log_length_ratio(chars)
    roots = (np.sqrt(chars[:, 0]) - np.sqrt(chars[:, 1])) / 10
    return np.stack([ratio, np.abs(ratio), roots, np.abs(roots)], axis=1)


def reading_ease(text: str) -> float:
    """Flesch 1948 (J. Applied Psychology 32): 206.835 - 1.015 words/sentence - 84.6 syllables/word, clipped.

    Syllables are counted as groups of vowels, at least one a word; a text without words has 0.
    """
    words = WORD.findall(text.lower())
    if not words:
        return 0.0
    syllables = sum(max(1, len(VOWELS.findall(word))) for word in words)
    ease = 206.835 - 1.015 * len(words) / _sentences(text) - 84.6 * syllables / len(words)
    return min(max(ease, EASE[0]), EASE[1])


def _length(pair: Pair) -> list[float]:
    chars = [[sum(map(len, answer)) for answer in (pair.response_a, pair.response_b)]]
    return list(compare_lengths(np.array(chars))[0])


def _style(pair: Pair) -> list[float]:
    a, b = (_counts("\n".join(answer)) for answer in (pair.response_a, pair.response_b))
    return list(np.log1p(a) - np.log1p(b))


def _counts(text: str) -> list[int]:
    patterns = (LIST_ITEM, HEADING, REFUSAL, FIRST_PERSON)
    items, headings, refusals, first_person = (len(pattern.findall(text)) for pattern in patterns)
    digits, capitals = sum(map(str.isdigit, text)), sum(map(str.isupper, text))
    marks = [text.count("**"), headings, text.count("```"), digits, text.count("?"), capitals]
    return [text.count("\n"), items, *marks, refusals, first_person]


def _readability(pair: Pair) -> list[float]:
    a, b = (_read("\n".join(answer)) for answer in (pair.response_a, pair.response_b))
    return list(np.array(a) - b)


def _read(text: str) -> list[float]:
    words = WORD.findall(text.lower())
    count = max(1, len(words))
    letters = sum(map(len, words)) / count
    return [reading_ease(text), float(np.log1p(len(words) / _sentences(text))), letters, len(set(words)) / count]


def _turns(pair: Pair) -> list[float]:
    return list(np.log1p([len(pair.prompt), sum(map(len, pair.prompt))]))


def _sentences(text: str) -> int:
    return max(1, len(SENTENCE.findall(text)))


EXTRACTORS = {"length": _length, "style": _style, "readability": _readability, "turns": _turns}
