"""Prompts of a suite that a judge was trained on: the same ones, and those that were changed a little."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.errors import UserError
from tiebreak.suites.minhash import Vocabulary, WordPairs, find_alike, hash_word_pairs
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_rows

LEAST = 0.5
"""Jaccard similarity of word pairs from which on two prompts are near-duplicates: a tenth of the words changed leaves
0.5 to 0.8."""
FEWEST = 6
"""Words of a prompt: of a shorter one a changed word is more than a sixth, so it is only found if no word differs."""


@dataclass(frozen=True)
class Copies:
    """For each of n prompts the trained one that is most like it.

    Attributes:
        similarity: (n,), 1 for the same prompt, 0 where none is like it.
        place: int (n,), of that prompt among the trained texts; -1 where there is none, or only its hash is known.
    """

    similarity: np.ndarray
    place: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        """A mask (n,) of the prompts that were trained on as they stand, but for case and white space."""
        same: np.ndarray = self.similarity == 1
        return same

    @property
    def near(self) -> np.ndarray:
        """A mask (n,) of those of which only something alike was."""
        alike: np.ndarray = (self.similarity > 0) & (self.similarity < 1)
        return alike


def find_copies(
    prompts: Sequence[Sequence[str]],
    trained: Sequence[Sequence[str]] = (),
    groups: np.ndarray | None = None,
    least: float = LEAST,
) -> Copies:
    """Find the prompts that a judge has seen.

    Args:
        prompts: n, each as its turns.
        trained: texts that were trained on; near-duplicates are looked for among them.
        groups: hashes of prompts (`prompt_group`) that were trained on.
        least: similarity of a near-duplicate, 0.4 or more.

    Example:
        >>> find_copies([["What is 2+2?"]], [["what is  2+2?"]]).exact.tolist()
        [True]
    """
    similarity, place = np.zeros(len(prompts)), np.full(len(prompts), -1)
    if groups is not None:
        similarity[np.isin([prompt_group(prompt) for prompt in prompts], groups)] = 1
    texts, number = _distinct(prompts)
    known, first = _distinct_places(trained)
    found = np.array([known.get(text, -1) for text in texts], dtype=np.int64)
    vocabulary = Vocabulary()
    others = hash_word_pairs(list(known), vocabulary)
    unseen = np.flatnonzero(found < 0)
    mine = hash_word_pairs([texts[place] for place in unseen.tolist()], vocabulary)
    alike, among, how = find_near(mine, others, least)
    best, at = np.zeros(len(texts)), found
    best[found >= 0] = 1
    leading = np.unique(alike, return_index=True)[1]
    # Other texts with the same words (say, without a full stop) are near-duplicates of similarity 1.
    best[unseen[alike[leading]]], at[unseen[alike[leading]]] = np.minimum(how[leading], 0.999), among[leading]
    similarity = np.maximum(similarity, best[number])
    place = np.where(at[number] >= 0, np.append(first, -1)[at[number]], -1)
    return Copies(similarity, place)


def find_near(texts: WordPairs, among: WordPairs, least: float = LEAST) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Near-duplicates: `find_alike`, but short texts only where no word differs."""
    first, second, similarity = find_alike(texts, among, least)
    words = np.minimum(np.diff(texts.starts)[first], np.diff(among.starts)[second])
    kept = (words >= FEWEST) | (similarity == 1)
    return first[kept], second[kept], similarity[kept]


def _distinct(prompts: Iterable[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The distinct normalised texts, and each prompt's number (n,) among them."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(normalise_prompt(prompt), len(known)) for prompt in prompts]
    return list(known), np.array(numbers, dtype=np.int64)


def _distinct_places(prompts: Iterable[Sequence[str]]) -> tuple[dict[str, int], np.ndarray]:
    """The number of each distinct normalised text, and where each stands first among the prompts."""
    known: dict[str, int] = {}
    first = []
    for place, prompt in enumerate(prompts):
        text = normalise_prompt(prompt)
        if text not in known:
            known[text] = len(known)
            first.append(place)
    return known, np.array(first, dtype=np.int64)


def read_trained(files: Sequence[Path]) -> list[list[str]]:
    """The prompts of training tables; rows that cannot be read are left out, as training does with --on-bad-row=skip.

    Raises:
        UserError: a table that cannot be used.
    """
    prompts = []
    for path in files:
        rows = [row.prompt for row in read_rows(path, Counter(), "lenient") if isinstance(row, Pair)]
        if not rows:
            raise UserError(f"--trained {path}: no readable rows; tiebreak check says why")
        prompts += rows
    return prompts
