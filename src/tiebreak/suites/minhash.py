"""Texts that are alike: MinHash over word pairs, banded buckets, and the true Jaccard similarity of what they find.

MinHash: Broder 1997, "On the resemblance and containment of documents". Bands: Leskovec, Rajaraman & Ullman, "Mining of
Massive Datasets", section 3.4: two texts of similarity s fall into a common bucket with the probability
1 - (1 - s^ROWS)^BANDS, which is 99.6 % at s = 0.5 and 4 % at s = 0.1.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BANDS, ROWS = 42, 3
CHUNK = 1 << 16
"""Word pairs whose hashes are at work at a time: half a megabyte, which stays in a processor's cache."""
PAIRS = 1 << 16
"""Pairs of texts that are compared at a time."""
LEAST_ESTIMATE = 0.25
"""Pairs whose signatures agree on less are not looked at further: 5.6 standard errors below a similarity of 0.5."""
_WORD = re.compile("[^\\W\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]")
"""A word; Chinese and Japanese are written without spaces, so there each character is one."""


class Vocabulary(dict[str, int]):
    """Numbers words from 1 as they come; 0 stands before the first word of each text."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self) + 1
        return number


@dataclass(frozen=True)
class WordPairs:
    """The word pairs of n texts, text after text.

    Attributes:
        hashes: uint64 (total,), each pair's.
        starts: int (n + 1,), where each text's begin; none is empty.
    """

    hashes: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


def hash_word_pairs(texts: Sequence[str], vocabulary: Vocabulary) -> WordPairs:
    """Every word of each text together with the word before it.

    Args:
        texts: case folded.
        vocabulary: shared by the texts that are to be compared.
    """
    numbers, lengths = array("I"), array("I")
    for text in texts:
        words = _WORD.findall(text) or [text]
        numbers.append(0)
        numbers.extend(map(vocabulary.__getitem__, words))
        lengths.append(len(words))
    ends = np.cumsum(np.frombuffer(lengths, dtype=np.uint32), dtype=np.int64) if texts else np.zeros(0, dtype=np.int64)
    starts = np.concatenate([[0], ends])
    known = np.frombuffer(numbers, dtype=np.uint32).astype(np.uint64) if texts else np.zeros(0, dtype=np.uint64)
    at = np.flatnonzero(known)  # all but the zeros before each text
    return WordPairs(_mix((known[at - 1] << np.uint64(32)) | known[at]), starts)


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Numbers (n,) uint64 spread over 64 bits: the finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def sign(pairs: WordPairs) -> np.ndarray:
    """MinHash signatures (n, BANDS * ROWS) uint32: the share of equal entries estimates the Jaccard similarity."""
    rng = np.random.default_rng(0)
    count = BANDS * ROWS
    factors = rng.integers(1, 1 << 63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    masks = rng.integers(0, 1 << 63, count, dtype=np.uint64)
    signatures = np.empty((len(pairs), count), dtype=np.uint32)
    begin = 0
    while begin < len(pairs):
        end = max(begin + 1, int(np.searchsorted(pairs.starts, pairs.starts[begin] + CHUNK, "right")) - 1)
        hashes = pairs.hashes[pairs.starts[begin] : pairs.starts[end]]
        places = pairs.starts[begin:end] - pairs.starts[begin]
        for k in range(count):
            hashed = (((hashes ^ masks[k]) * factors[k]) >> np.uint64(32)).astype(np.uint32)
            signatures[begin:end, k] = np.minimum.reduceat(hashed, places)
        begin = end
    return signatures


def find_alike(texts: WordPairs, among: WordPairs, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a text and one of others whose Jaccard similarity is at least `least`.

    Args:
        texts: n of them.
        among: m others, hashed with the same vocabulary.
        least: no less than 0.4, below which the buckets find too few.

    Returns:
        Places (k,) in the first and in the second, and similarities (k,): of a text's pairs the most alike comes first.
    """
    if not len(texts) or not len(among):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    mine, theirs = sign(texts), sign(among)
    found = [_agreeing(mine, theirs, *chunk) for chunk in _in_buckets(mine, theirs)]
    keys = np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    first, second = keys >> 32, keys & 0xFFFFFFFF
    similarity = jaccard(texts, among, first, second)
    kept = similarity >= least
    first, second, similarity = first[kept], second[kept], similarity[kept]
    order = np.lexsort((second, -similarity, first))
    return first[order], second[order], similarity[order]


def _in_buckets(mine: np.ndarray, theirs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of the pairs with a common bucket, a chunk at a time; pairs may come several times."""
    for band in range(BANDS):
        columns = slice(band * ROWS, (band + 1) * ROWS)
        ours, others = _bucket(mine[:, columns]), _bucket(theirs[:, columns])
        order = np.argsort(others)
        sorted_others = others[order]
        left = np.searchsorted(sorted_others, ours, "left")
        counts = np.searchsorted(sorted_others, ours, "right") - left
        ends = np.cumsum(counts)
        for start in range(0, int(ends[-1]), PAIRS):
            number = np.arange(start, min(start + PAIRS, int(ends[-1])))
            text = np.searchsorted(ends, number, "right")
            yield text, order[left[text] + number - (ends[text] - counts[text])]


def _bucket(part: np.ndarray) -> np.ndarray:
    """One number (n,) for the entries (n, ROWS) of a band."""
    key = np.zeros(len(part), dtype=np.uint64)
    for column in part.T:
        key = _mix(key ^ column.astype(np.uint64))
    return key


def _agreeing(mine: np.ndarray, theirs: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The pairs whose signatures agree on enough entries, each as one number."""
    kept = (mine[first] == theirs[second]).mean(1) >= LEAST_ESTIMATE
    keys: np.ndarray = np.unique((first[kept].astype(np.int64) << 32) | second[kept])
    return keys


def jaccard(texts: WordPairs, among: WordPairs, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """True similarities (k,): word pairs in both texts by those in any of the two, each counted once."""
    from scipy.sparse import csr_array

    if not len(first):
        return np.zeros(0)
    some, mine = np.unique(first, return_inverse=True)
    others, theirs = np.unique(second, return_inverse=True)
    chosen = [_only(texts, some), _only(among, others)]
    known, columns = np.unique(np.concatenate([part.hashes for part in chosen]), return_inverse=True)
    split = len(chosen[0].hashes)
    sets = []
    for part, at in zip(chosen, (columns[:split], columns[split:]), strict=True):
        matrix = csr_array((np.ones(len(at), dtype=np.int32), at, part.starts), shape=(len(part), len(known)))
        matrix.sum_duplicates()
        matrix.data[:] = 1
        sets.append(matrix)
    sizes = [np.diff(matrix.indptr) for matrix in sets]
    similarity = np.empty(len(first))
    for start in range(0, len(first), PAIRS):
        a, b = mine[start : start + PAIRS], theirs[start : start + PAIRS]
        common = sets[0][a].multiply(sets[1][b]).sum(1)
        similarity[start : start + PAIRS] = common / (sizes[0][a] + sizes[1][b] - common)
    return similarity


def _only(pairs: WordPairs, chosen: np.ndarray) -> WordPairs:
    """The word pairs of some texts (k,)."""
    lengths = np.diff(pairs.starts)[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(pairs.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
    return WordPairs(pairs.hashes[places], starts)
