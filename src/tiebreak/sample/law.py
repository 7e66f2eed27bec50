"""The law that the embedded sample's labels are drawn from, known exactly from the texts alone.

A sentence that keeps to the questions' subject is worth its mark: helpful +1, neutral 0, unhelpful -1. One about
another subject is worth -1/2, however helpful it sounds: only who reads prompt and answer together can tell. With `q`
the mean worth of an answer's sentences (-1 for an empty answer) and `n` its length in characters, the strength of A
over B is

    s = QUALITY * (q_a - q_b) + LENGTH * clip(log((1 + n_a) / (1 + n_b)), -3, 3) + POSITION

and the label is drawn from Davidson's model of paired comparison with ties (Davidson 1970, JASA 65), in which a tie is
the likeliest label while |s| < 2 log TIES:

    P(A) : P(B) : P(tie) = exp(s / 2) : exp(-s / 2) : TIES

So the lowest expected log loss that any model can reach is the mean entropy of these probabilities.
"""

from collections.abc import Sequence

import numpy as np

from tiebreak.sample.language import MARKS, MODELS, POOL, SUBJECTS, Answers

QUALITY, LENGTH, POSITION, TIES = 5.0, 0.5, 0.3, 2.0
LENGTH_CLIP = 3.0
STRAYED, EMPTY = -0.5, -1.0
"""What a sentence about another subject is worth, and an answer without a sentence."""

_PER_FORM, _PER_SUBJECT = len(POOL.texts) // len(MARKS), len(POOL.texts) // len(MARKS) // len(SUBJECTS)
_KNOWN = {
    text: (int(MARKS[k // _PER_FORM]), SUBJECTS[k % _PER_FORM // _PER_SUBJECT]) for k, text in enumerate(POOL.texts)
}
"""Mark and subject of every sentence."""


def law(quality_difference: np.ndarray, chars_a: np.ndarray, chars_b: np.ndarray) -> np.ndarray:
    """Class probabilities (n, 3) from differences of mean worth (n,) and answer lengths in characters (n,)."""
    ratio = np.clip(np.log((1.0 + chars_a) / (1.0 + chars_b)), -LENGTH_CLIP, LENGTH_CLIP)
    strength = QUALITY * quality_difference + LENGTH * ratio + POSITION
    weights = np.stack([np.exp(strength / 2), np.exp(-strength / 2), np.full_like(strength, TIES)], axis=1)
    return weights / weights.sum(1, keepdims=True)


def drawn_quality(answers: Answers) -> np.ndarray:
    """Mean worth (n,) of the sentences of answers that were just drawn."""
    count = len(answers.chars)
    worth = np.where(answers.on_subject, answers.marks, STRAYED)
    in_row = np.bincount(answers.rows, minlength=count)
    sums = np.bincount(answers.rows, weights=worth, minlength=count)
    return np.where(in_row > 0, sums / np.maximum(in_row, 1), EMPTY)


def bayes_probabilities(
    prompts: Sequence[Sequence[str]], responses_a: Sequence[Sequence[str]], responses_b: Sequence[Sequence[str]]
) -> np.ndarray:
    """The law's probabilities (n, 3), read back from the texts (turns of each row).

    Raises:
        ValueError: a prompt without a subject or a sentence that the sample never writes.
    """
    subjects = [_subjects(turns) for turns in prompts]
    a, b = (
        np.array([_quality(turns, asked) for turns, asked in zip(side, subjects, strict=True)]).reshape(-1, 2)
        for side in (responses_a, responses_b)
    )
    return law(a[:, 0] - b[:, 0], a[:, 1], b[:, 1])


def is_sample(model_names: Sequence[str | None]) -> bool:
    """Whether a table's rows come from here, told by the model names that only the sample uses."""
    return bool(model_names) and set(model_names) <= set(MODELS)


def _subjects(turns: Sequence[str]) -> set[str]:
    """What the prompt's turns ask about."""
    found = {word for turn in turns for word in turn.lower().split()} & set(SUBJECTS)
    if not found:
        raise ValueError(f"not a question of the sample: {list(turns)!r}")
    return found


def _quality(turns: Sequence[str], asked: set[str]) -> tuple[float, int]:
    """Mean worth of an answer's sentences, and its length in characters, over all turns."""
    worth = [_worth(sentence, asked) for turn in turns if turn for sentence in turn.split("\n")]
    return (float(np.mean(worth)) if worth else EMPTY), sum(map(len, turns))


def _worth(sentence: str, asked: set[str]) -> float:
    if sentence not in _KNOWN:
        raise ValueError(f"not a sentence of the sample: {sentence!r}")
    mark, subject = _KNOWN[sentence]
    return mark if subject in asked else STRAYED
