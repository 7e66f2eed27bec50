"""The sample's language: sentences with a subject, questions about one, and how an answer strings them together.

A row's questions all have one subject, and all sentences of an answer have one: the questions' own, or another that the
answer strays to. A subject has one aspect in all of a row ("the garden rules").
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ADVICE = [
    "First, check the {} with a concrete example.",
    "This is verified step by step for the {}.",
    "A clear summary of the {} follows below.",
    "The exact numbers for the {} are listed here.",
    "Note the important exception about the {}.",
    "This precise method works well for the {}.",
]
ASIDES = [
    "There are many ways to think about the {}.",
    "People often talk about the {} in this way.",
    "The {} can be part of a larger picture.",
    "Some readers see the {} as a matter of taste.",
    "You may also want to look at the {} again.",
    "Hope that helps with the {} 😊",
    "See the page on a/b tests for the {}.",
    'They call it "the {}" in most places.',
]
EXCUSES = [
    "Sorry, as an AI I cannot discuss the {}.",
    "Maybe the {} went wrong, who knows.",
    "I am confused by the {} somehow.",
    "The {} thing is whatever, anyway.",
    "It is useless to ask about the {}.",
    "Honestly I forgot the rest about the {}.",
]
SUBJECTS = "garden budget recipe river violin castle".split()
ASPECTS = "rules costs plans tools stories colours dates names".split()
QUESTIONS = [
    "How do I explain the {} to a friend?",
    "What is the best way to compare the {}?",
    "Write a short note about the {} for my team.",
    "Why do my {} not work like yours?",
    "Can you list three facts on the {} and/or their uses?",
]
KEEPERS = {(True, True): "Both", (True, False): "First", (False, True): "Second", (False, False): "Neither"}
"""Which answers keep to the subject, in a word."""
MODELS = [f"sample-{name}" for name in "alder birch cedar elm fir hazel larch maple".split()]

LENGTHS = {
    # profile: (median sentences, sigma of the log, most sentences in an answer)
    "short": (3.0, 0.5, 8),
    "arena": (16.5, 0.85, 215),
}
FORMS = [*ADVICE, *ASIDES, *EXCUSES]
KINDS = ("advice", "aside", "excuse")
"""What a sentence does."""
KIND_OF_FORM = np.repeat([0, 1, 2], [len(ADVICE), len(ASIDES), len(EXCUSES)])
RECAP_WORDS = [*KEEPERS.values(), *(f"{side}:{kind}" for side in "AB" for kind in (*KINDS, "nothing"))]
KEEPER_SHARE = 0.5
"""How often a recap begins by saying which answers keep to the subject."""
FAITHFUL = 0.6
"""Share of the answers that keep to the questions' subject; the others stray."""
INFORMATIVE = 0.7
"""How often a sentence is not an aside."""


@dataclass(frozen=True)
class Pool:
    """All sentences, (forms, subjects, aspects): as text, as encoded bytes of a cell, and their lengths."""

    texts: list[str]
    encoded: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class Answers:
    """One side of n rows, s sentences in all.

    Attributes:
        cells: the encoded cells.
        rows: (s,), the row of each sentence.
        kinds: (s,), of each sentence: index into `KINDS`.
        keeps: (n,), whether the answer keeps to the questions' subject.
        chars: (n,), the answers' lengths in characters.
    """

    cells: list[str]
    rows: np.ndarray
    kinds: np.ndarray
    keeps: np.ndarray
    chars: np.ndarray


def encode(text: str) -> str:
    """Text as it stands inside a quoted CSV field that holds a JSON string."""
    return json.dumps(text)[1:-1].replace("/", "\\/").replace('"', '""')


def _build_pool() -> Pool:
    topics = [f"{subject} {aspect}" for subject in SUBJECTS for aspect in ASPECTS]
    texts = [form.format(topic) for form in FORMS for topic in topics]
    shape = (len(FORMS), len(SUBJECTS), len(ASPECTS))
    encoded = np.array([encode(text) for text in texts], dtype=object).reshape(shape)
    return Pool(texts, encoded, np.array([len(text) for text in texts]).reshape(shape))


POOL = _build_pool()
KIND_OF = dict(zip(POOL.texts, np.repeat(KIND_OF_FORM, len(POOL.texts) // len(FORMS)).tolist(), strict=True))
"""Kind of each sentence, an index into `KINDS`."""


def draw_turns(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Turns (n,) of each row: mostly one, as in the real table."""
    return np.where(rng.random(rows) < 0.131, rng.integers(2, 5, rows), 1)


def draw_questions(rng: np.random.Generator, turns: np.ndarray, subjects: np.ndarray, aspects: np.ndarray) -> list[str]:
    """Encoded prompt cells about these subjects (n,) and their aspects (n,).

    A few repeat an earlier wording with other spacing and case, as real ones do.
    """
    total = int(turns.sum())
    forms = rng.integers(0, len(QUESTIONS), total)
    cases = rng.integers(1, 100_000, total)
    sloppy = rng.random(total) < 0.02
    topics = zip(np.repeat(subjects, turns).tolist(), np.repeat(aspects, turns).tolist(), strict=True)
    texts = []
    for form, (subject, aspect), case, odd in zip(forms, topics, cases, sloppy, strict=True):
        text = QUESTIONS[form].format(f"{SUBJECTS[subject]} {ASPECTS[aspect]}")
        text = text.replace(" ", "  ").upper() if odd else f"{text} (case {case})"
        texts.append(encode(text))
    rest = iter(texts)
    return ['"[""' + '"",""'.join(itertools.islice(rest, int(n))) + '""]"' for n in turns]


def draw_answers(
    rng: np.random.Generator, turns: np.ndarray, subjects: np.ndarray, aspects: np.ndarray, profile: str
) -> Answers:
    """An answer for each row, of these turns (n,), to questions about these subjects (n,) and aspects (n,)."""
    median, sigma, most = LENGTHS[profile]
    count, total = len(turns), int(turns.sum())
    rows_of_turns = np.repeat(np.arange(count), turns)
    sentences = np.clip(np.rint(median * np.exp(sigma * rng.standard_normal(total))), 1, most).astype(np.int64)
    sentences[rng.random(total) < 0.003] = 0
    rows = np.repeat(rows_of_turns, sentences)
    drawn, informative = rng.uniform(-1, 1, len(rows)), rng.random(len(rows)) < INFORMATIVE
    advice, aside, excuse = range(len(KINDS))
    kinds = np.where(informative, np.where(drawn < rng.uniform(-1, 1, count)[rows], advice, excuse), aside)
    forms = np.empty(len(rows), dtype=np.int64)
    for kind in (excuse, aside, advice):
        members, chosen = np.flatnonzero(kind == KIND_OF_FORM), kinds == kind
        forms[chosen] = members[rng.integers(0, len(members), int(chosen.sum()))]

    keeps = rng.random(count) < FAITHFUL
    others = (subjects + rng.integers(1, len(SUBJECTS), count)) % len(SUBJECTS)
    their_aspects = rng.integers(0, len(ASPECTS), count)
    picks = (forms, np.where(keeps, subjects, others)[rows], np.where(keeps, aspects, their_aspects)[rows])
    newlines = np.bincount(rows_of_turns, weights=np.maximum(sentences - 1, 0), minlength=count)
    chars = np.bincount(rows, weights=POOL.lengths[picks], minlength=count) + newlines
    return Answers(_cells(POOL.encoded[picks].tolist(), sentences, turns), rows, kinds, keeps, chars)


def _cells(texts: list[str], sentences: np.ndarray, turns: np.ndarray) -> list[str]:
    """Encoded cells of encoded sentences, given how many a turn and how many turns a cell has."""
    empty_forms = ["null", '""""', "null"]
    turn_cells = []
    start = 0
    for k, end in enumerate(np.cumsum(sentences).tolist()):
        turn_cells.append('""' + "\\n".join(texts[start:end]) + '""' if end > start else empty_forms[k % 3])
        start = end
    rest = iter(turn_cells)
    cells = [f'"[{",".join(itertools.islice(rest, n))}]"' for n in turns.tolist()]
    # What pandas writes: a cell without quotes inside needs none around it.
    cells = [cell.replace('"[null]"', "[null]") for cell in cells]
    return ["[]" if cell == '"[""""]"' and k % 2 else cell for k, cell in enumerate(cells)]


def subjects_in(turns: Sequence[str]) -> set[str]:
    """Subjects that these turns speak of, of questions as of answers."""
    return {word for turn in turns for word in turn.lower().split()} & set(SUBJECTS)


def recap(prompt: Sequence[str], response_a: Sequence[str], response_b: Sequence[str]) -> dict[str, float]:
    """How a reader may begin to retell a conversation, each word with its probability.

    The reader says which answers keep to the questions' subject (one of `KEEPERS`), or else what one of the sentences
    does, under the letter of its answer ("A:advice"). What either is worth to people has no part in it.
    """
    asked, answers = subjects_in(prompt), (response_a, response_b)
    a, b = (bool(asked & subjects_in(turns)) for turns in answers)
    words = {KEEPERS[a, b]: KEEPER_SHARE}
    for side, turns in zip("AB", answers, strict=True):
        sentences = [sentence for turn in turns if turn for sentence in turn.split("\n")]
        for kind in [KINDS[KIND_OF[sentence]] for sentence in sentences] or ["nothing"]:
            word = f"{side}:{kind}"
            words[word] = words.get(word, 0.0) + (1 - KEEPER_SHARE) / 2 / max(len(sentences), 1)
    return words
