"""The embedded sample: Arena-like tables whose labels follow a law that is known exactly.

Every sentence of an answer is helpful (+1), neutral (0) or unhelpful (-1). With `q` the mean of
these marks over an answer's sentences and `n` its length in characters, the strength of A over B is

    s = QUALITY * (q_a - q_b) + LENGTH * clip(log((1 + n_a) / (1 + n_b)), -3, 3) + POSITION

and the label is drawn from Davidson's model of paired comparison with ties (Davidson 1970, JASA 65):

    P(A) : P(B) : P(tie) = exp(s / 2) : exp(-s / 2) : TIES

So the lowest expected log loss that any model can reach is the mean entropy of these probabilities.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.config import DataSettings, cache_folder
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES

QUALITY, LENGTH, POSITION, TIES = 4.0, 0.5, 0.3, 1.2
LENGTH_CLIP = 3.0

HELPFUL = [
    "First, check the {} with a concrete example.",
    "This is verified step by step for the {}.",
    "A clear summary of the {} follows below.",
    "The exact numbers for the {} are listed here.",
    "Note the important exception about the {}.",
    "This precise method works well for a {}.",
]
NEUTRAL = [
    "There are many ways to think about the {}.",
    "People often talk about the {} in this way.",
    "The {} is part of a larger picture.",
    "Some readers see the {} as a matter of taste.",
    "You may also want to look at the {} again.",
    "Hope that helps with the {} 😊",
    "See the page on a/b tests for the {}.",
    'They call it "the {}" in most places.',
]
UNHELPFUL = [
    "Sorry, as an AI I cannot discuss the {}.",
    "Maybe the {} is wrong, who knows.",
    "I am confused by the {} somehow.",
    "The {} thing is whatever, anyway.",
    "It is useless to ask about the {}.",
    "Honestly I forgot the rest about the {}.",
]
TOPICS = (
    "garden budget bicycle recipe contract poem engine river market theorem password violin camera letter "
    "harbour vaccine telescope castle spreadsheet marathon compiler glacier museum orchestra"
).split()
QUESTIONS = [
    "How do I explain a {} to a friend?",
    "What is the best way to compare a {} and a {}?",
    "Write a short note about the {} for my team.",
    "Why does my {} not work like the {}?",
    "Can you list three facts on the {} / the {}?",
]
MODELS = [f"sample-{name}" for name in "alder birch cedar elm fir hazel larch maple".split()]

LENGTHS = {
    # profile: (median sentences, sigma of the log, most sentences in an answer)
    "short": (3.0, 0.5, 8),
    "arena": (18.5, 0.85, 240),
}
CHUNK_ROWS = 5_000


@dataclass(frozen=True)
class _Pool:
    """All sentences, as text for the law and as encoded bytes of a cell for the writer."""

    texts: list[str]
    encoded: np.ndarray
    marks: np.ndarray
    lengths: np.ndarray
    by_mark: dict[int, np.ndarray]


def _build_pool() -> _Pool:
    marked = [(1, HELPFUL), (0, NEUTRAL), (-1, UNHELPFUL)]
    rows = [(mark, form.format(topic)) for mark, forms in marked for form in forms for topic in TOPICS]
    marks = np.array([mark for mark, _ in rows])
    texts = [text for _, text in rows]
    return _Pool(
        texts,
        np.array([_encode(text) for text in texts], dtype=object),
        marks,
        np.array([len(text) for text in texts]),
        {mark: np.flatnonzero(marks == mark) for mark in (-1, 0, 1)},
    )


def _encode(text: str) -> str:
    """Text as it stands inside a quoted CSV field that holds a JSON string."""
    return json.dumps(text)[1:-1].replace("/", "\\/").replace('"', '""')


POOL = _build_pool()
_MARK_OF = dict(zip(POOL.texts, POOL.marks.tolist(), strict=True))


@dataclass(frozen=True)
class Summary:
    """What is known of a sample: rows, class counts, and log losses in nats per row.

    `bayes` is the mean entropy of the law (no model can expect less), `bayes_realised` the law's log
    loss on the labels that were drawn, `prior` that of predicting the drawn class shares.
    """

    rows: int
    class_counts: tuple[int, int, int]
    bayes: float
    bayes_realised: float
    prior: float
    bytes: int


def write_sample(path: str | Path, rows: int, seed: int = 0, profile: str = "arena", labels: bool = True) -> Summary:
    """Write a sample CSV in the raw Kaggle encoding, the same bytes for the same arguments.

    Args:
        path: of the CSV.
        rows: how many.
        seed: of every draw.
        profile: `arena` (real lengths, about 3.2 kB a row) or `short` (a few sentences an answer).
        labels: without them, a test table with the columns id, prompt, response_a, response_b.
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise UserError(f"{path}: a sample is written as .csv")
    if not 1 <= rows <= 2**31:
        raise UserError(f"--rows {rows}: give at least 1 and at most {2**31}")
    if seed < 0:
        raise UserError(f"--seed {seed}: give at least 0")
    columns = ["id", *(["model_a", "model_b"] if labels else []), "prompt", "response_a", "response_b"]
    entropy = realised = 0.0
    counts = np.zeros(3, dtype=np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with open(temporary, "w", encoding="ascii", newline="") as file:
        file.write(",".join([*columns, *(CLASSES if labels else ())]) + "\n")
        for lines, probabilities, drawn in _chunks(rows, seed, profile, labels):
            file.write(lines)
            entropy -= float((probabilities * np.log(probabilities)).sum())
            realised -= float(np.log(probabilities[np.arange(len(drawn)), drawn]).sum())
            counts += np.bincount(drawn, minlength=3)
    temporary.replace(path)
    shares = counts[counts > 0] / rows
    prior = float(-(shares * np.log(shares)).sum())
    a, b, tie = counts.tolist()
    return Summary(rows, (a, b, tie), entropy / rows, realised / rows, prior, path.stat().st_size)


def _chunks(rows: int, seed: int, profile: str, labels: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """CSV lines, class probabilities (n, 3) and drawn labels (n,) of a chunk of rows at a time."""
    gap = max(2, (2**32 - 1) // rows)
    next_id = 0
    for chunk, start in enumerate(range(0, rows, CHUNK_ROWS)):
        rng = np.random.default_rng([seed, chunk])
        count = min(CHUNK_ROWS, rows - start)
        ids = next_id + np.cumsum(rng.integers(1, gap, count))
        next_id = int(ids[-1])
        turns = np.where(rng.random(count) < 0.131, rng.integers(2, 5, count), 1)
        prompts = _prompts(rng, turns)
        cells_a, marks_a, chars_a = _answers(rng, turns, profile)
        cells_b, marks_b, chars_b = _answers(rng, turns, profile)
        probabilities = law(marks_a - marks_b, chars_a, chars_b)
        drawn = (rng.random(count)[:, None] > probabilities.cumsum(1)[:, :2]).sum(1)
        if labels:
            names = rng.integers(0, len(MODELS), count)
            others = (names + rng.integers(1, len(MODELS), count)) % len(MODELS)
            one_hot = ["1,0,0", "0,1,0", "0,0,1"]
            lines = "".join(
                f"{i},{MODELS[m]},{MODELS[o]},{p},{a},{b},{one_hot[y]}\n"
                for i, m, o, p, a, b, y in zip(
                    ids.tolist(), names, others, prompts, cells_a, cells_b, drawn.tolist(), strict=True
                )
            )
        else:
            rest = zip(ids.tolist(), prompts, cells_a, cells_b, strict=True)
            lines = "".join(f"{i},{p},{a},{b}\n" for i, p, a, b in rest)
        yield lines, probabilities, drawn


def sample_file(settings: DataSettings) -> Path:
    """The embedded sample of a recipe's size, in the cache, written if it is not there yet."""
    rows, profile = settings.sample_rows, settings.sample_profile
    path = cache_folder() / "samples" / f"sample-{profile}-{rows}.csv"
    if not path.is_file():
        write_sample(path, rows, profile=profile)
    return path


def law(quality_difference: np.ndarray, chars_a: np.ndarray, chars_b: np.ndarray) -> np.ndarray:
    """Class probabilities (n, 3) from mean-mark differences (n,) and answer lengths in characters (n,)."""
    ratio = np.clip(np.log((1.0 + chars_a) / (1.0 + chars_b)), -LENGTH_CLIP, LENGTH_CLIP)
    strength = QUALITY * quality_difference + LENGTH * ratio + POSITION
    weights = np.stack([np.exp(strength / 2), np.exp(-strength / 2), np.full_like(strength, TIES)], axis=1)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def bayes_probabilities(responses_a: Sequence[Sequence[str]], responses_b: Sequence[Sequence[str]]) -> np.ndarray:
    """The law's probabilities (n, 3), read back from the answers' texts (turns of each row).

    Raises:
        ValueError: a sentence that the sample never writes.
    """
    a, b = (np.array([_marks(turns) for turns in side]).reshape(-1, 2) for side in (responses_a, responses_b))
    return law(a[:, 0] - b[:, 0], a[:, 1], b[:, 1])


def is_sample(model_names: Sequence[str | None]) -> bool:
    """Whether a table's rows come from here: only the sample uses these model names."""
    return bool(model_names) and set(model_names) <= set(MODELS)


def _marks(turns: Sequence[str]) -> tuple[float, int]:
    """Mean mark over an answer's sentences, and its length in characters, over all turns."""
    marks = [
        _MARK_OF[sentence] if sentence in _MARK_OF else _unknown(sentence)
        for turn in turns
        if turn
        for sentence in turn.split("\n")
    ]
    return (float(np.mean(marks)) if marks else 0.0), sum(map(len, turns))


def _unknown(sentence: str) -> int:
    raise ValueError(f"not a sentence of the sample: {sentence!r}")


def _prompts(rng: np.random.Generator, turns: np.ndarray) -> list[str]:
    """Encoded prompt cells. A few repeat an earlier wording with other spacing and case, as real ones do."""
    total = int(turns.sum())
    forms = rng.integers(0, len(QUESTIONS), total)
    topics = rng.integers(0, len(TOPICS), (total, 2))
    cases = rng.integers(1, 100_000, total)
    sloppy = rng.random(total) < 0.02
    texts = []
    for form, (one, two), case, odd in zip(forms, topics, cases, sloppy, strict=True):
        text = QUESTIONS[form].format(TOPICS[one], TOPICS[two])
        text = text.replace(" ", "  ").upper() if odd else f"{text} (case {case})"
        texts.append(_encode(text))
    rest = iter(texts)
    return ['"[""' + '"",""'.join(itertools.islice(rest, int(n))) + '""]"' for n in turns]


def _answers(rng: np.random.Generator, turns: np.ndarray, profile: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Encoded answer cells, mean marks (n,) and lengths in characters (n,) of a chunk's answers."""
    median, sigma, most = LENGTHS[profile]
    count, total = len(turns), int(turns.sum())
    rows_of_turns = np.repeat(np.arange(count), turns)
    sentences = np.clip(np.rint(median * np.exp(sigma * rng.standard_normal(total))), 1, most).astype(np.int64)
    empty = rng.random(total) < 0.003
    sentences[empty] = 0
    quality = rng.uniform(-1, 1, count)[np.repeat(rows_of_turns, sentences)]
    drawn, informative = rng.uniform(-1, 1, len(quality)), rng.random(len(quality)) < 0.7
    marks = np.where(informative, np.where(drawn < quality, 1, -1), 0)
    picks = np.empty(len(marks), dtype=np.int64)
    for mark, members in POOL.by_mark.items():
        chosen = marks == mark
        picks[chosen] = members[rng.integers(0, len(members), int(chosen.sum()))]

    texts, ends = POOL.encoded[picks].tolist(), np.cumsum(sentences).tolist()
    empty_forms = ["null", '""""', "null"]
    turn_cells = []
    start = 0
    for k, end in enumerate(ends):
        turn_cells.append('""' + "\\n".join(texts[start:end]) + '""' if end > start else empty_forms[k % 3])
        start = end
    rest = iter(turn_cells)
    cells = [f'"[{",".join(itertools.islice(rest, n))}]"' for n in turns.tolist()]
    # What pandas writes: a cell without quotes inside needs none around it.
    cells = [cell.replace('"[null]"', "[null]") for cell in cells]
    cells = ["[]" if cell == '"[""""]"' and k % 2 else cell for k, cell in enumerate(cells)]

    of_sentence = np.repeat(rows_of_turns, sentences)
    in_row = np.bincount(of_sentence, minlength=count)
    sums = np.bincount(of_sentence, weights=marks, minlength=count)
    newlines = np.bincount(rows_of_turns, weights=np.maximum(sentences - 1, 0), minlength=count)
    chars = np.bincount(of_sentence, weights=POOL.lengths[picks], minlength=count) + newlines
    return cells, sums / np.maximum(in_row, 1), chars
