"""Parts of a table that are scored on their own."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tiebreak.data.table import Pair

LOOKED_AT = 200
"""Characters of a prompt that the language guess reads."""
LEAST_ROWS = 10
"""Smaller slices say nothing and are left out, except the two kinds of degenerate answers."""
STOP_WORDS = {
    "English": "the and of to is what how you for that with are this can write an my it not",
    "Spanish": "que de la el los las un una por para como con del es se cuál cómo qué",
    "French": "le la les des une est et que pour dans avec sur qui je vous du pas quel",
    "German": "der die das und ist ein eine nicht für mit auf wie ich zu den von was dem",
    "Portuguese": "que uma um para com não os as do da em como por você é qual no na",
    "Italian": "che di il la per con una un non come sono del della gli è cosa mi",
}
WORDS = {name: frozenset(words.split()) for name, words in STOP_WORDS.items()}
SCRIPTS = {
    "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean", "CYRILLIC": "Cyrillic script",
    "ARABIC": "Arabic script", "HEBREW": "Hebrew", "GREEK": "Greek", "THAI": "Thai", "DEVANAGARI": "Devanagari script",
}  # fmt: skip


def cut_slices(pairs: Sequence[Pair], chars: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Masks (n,) of the slices by (what they are parted by, name).

    Args:
        chars: (n, 2) characters of the two answers.
    """
    turns = np.array([len(pair.prompt) for pair in pairs])
    longer = chars.max(1)
    found: dict[tuple[str, str], np.ndarray] = {}
    found["turns", "one turn"], found["turns", "several turns"] = turns == 1, turns > 1
    edges = np.quantile(longer, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(edges, longer, side="left")
    shown = ["0", *(f"{edge:,.0f}" for edge in edges)]
    names = [*(f"{low}–{high} characters" for low, high in pairwise(shown)), f"over {shown[3]} characters"]
    for k, name in enumerate(names):
        found["longer answer", name] = quarter == k
    languages = np.array([pair.language or guess_language(pair.prompt) for pair in pairs])
    for name, _ in Counter(languages.tolist()).most_common(6):
        found["language", name] = languages == name
    found = {key: mask for key, mask in found.items() if mask.sum() >= LEAST_ROWS}
    empty = chars.sum(1) == 0
    identical = np.array([pair.response_a == pair.response_b for pair in pairs])
    found["answers", "both empty"] = empty
    found["answers", "identical"] = identical & ~empty
    return {key: mask for key, mask in found.items() if mask.any()}


def guess_language(prompt: Sequence[str]) -> str:
    """A guess from script and stop words; `other` where neither tells."""
    text = " ".join(prompt)[:LOOKED_AT]
    if not text.isascii():
        letters = [character for character in text if character.isalpha()]
        scripts = Counter("Latin" if character.isascii() else _script(character) for character in letters)
        if letters and scripts["Latin"] < 0.7 * len(letters):
            # Japanese mixes kana into Chinese characters, never the other way round.
            japanese = scripts["Japanese"] > 0.05 * len(letters)
            del scripts["Latin"]
            return "Japanese" if japanese else scripts.most_common(1)[0][0]
    words = re.findall(r"[^\W\d_]+", text.casefold())
    hits = {name: sum(word in stops for word in words) for name, stops in WORDS.items()}
    best = max(hits, key=lambda name: hits[name])
    if hits[best] >= max(1, len(words) // 20):
        return best
    return "other"


def _script(character: str) -> str:
    first = unicodedata.name(character, "").split(" ")[0]
    return SCRIPTS.get(first, "Latin" if first == "LATIN" else "other script")
