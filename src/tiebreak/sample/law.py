"""The law that the embedded sample's labels are drawn from, known exactly from the texts alone.

The quality `q` of an answer is the mean worth of its sentences (advice +1, an aside 0, an excuse -1), less `STRAY` if
the answer does not keep to its prompt's subject: only who reads prompt and answer together can tell. With `n` the
answer's length in characters, the strength of A over B is

    s = QUALITY * (q_a - q_b) + LENGTH * clip(log((1 + n_a) / (1 + n_b)), -3, 3) + POSITION

and the label is drawn from Davidson's model of paired comparison with ties (Davidson 1970, JASA 65), in which a tie is
the likeliest label while |s| < 2 log TIES:

    P(A) : P(B) : P(tie) = exp(s / 2) : exp(-s / 2) : TIES

So the lowest expected log loss that any model can reach is the mean entropy of these probabilities.
"""

from collections.abc import Sequence

import numpy as np

from tiebreak.sample.language import KIND_OF, MODELS, Answers, subjects_in

QUALITY, STRAY, LENGTH, POSITION, TIES = 4.0, 1.25, 0.5, 0.3, 2.5
WORTH = np.array([1.0, 0.0, -1.0])
"""Of each kind of sentence."""
LENGTH_CLIP = 3.0


def law(quality_difference: np.ndarray, chars_a: np.ndarray, chars_b: np.ndarray) -> np.ndarray:
    """Class probabilities (n, 3) from differences of quality (n,) and answer lengths in characters (n,)."""
    ratio = np.clip(np.log((1.0 + chars_a) / (1.0 + chars_b)), -LENGTH_CLIP, LENGTH_CLIP)
    strength = QUALITY * quality_difference + LENGTH * ratio + POSITION
    weights = np.stack([np.exp(strength / 2), np.exp(-strength / 2), np.full_like(strength, TIES)], axis=1)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def drawn_quality(answers: Answers) -> np.ndarray:
    """Quality (n,) of answers that were just drawn."""
    rows = len(answers.chars)
    sentences = np.bincount(answers.rows, minlength=rows)
    worth = np.bincount(answers.rows, weights=WORTH[answers.kinds], minlength=rows)
    strays = ~(answers.keeps & (sentences > 0))
    return np.asarray(worth / np.maximum(sentences, 1) - STRAY * strays)


def bayes_probabilities(
    prompts: Sequence[Sequence[str]], responses_a: Sequence[Sequence[str]], responses_b: Sequence[Sequence[str]]
) -> np.ndarray:
    """The law's probabilities (n, 3), read back from the texts (turns of each row).

    Raises:
        ValueError: a prompt without a subject, or a sentence that the sample never writes.
    """
    asked = [_asked(turns) for turns in prompts]
    a, b = (
        np.array([_quality(turns, subjects) for turns, subjects in zip(side, asked, strict=True)]).reshape(-1, 2)
        for side in (responses_a, responses_b)
    )
    return law(a[:, 0] - b[:, 0], a[:, 1], b[:, 1])


def is_sample(model_names: Sequence[str | None]) -> bool:
    """Whether a table's rows come from here: only the sample uses these model names."""
    return bool(model_names) and set(model_names) <= set(MODELS)


def _asked(turns: Sequence[str]) -> set[str]:
    """The subject that the prompt's turns ask about."""
    if not (subjects := subjects_in(turns)):
        raise ValueError(f"not a question of the sample: {list(turns)!r}")
    return subjects


def _quality(turns: Sequence[str], asked: set[str]) -> tuple[float, int]:
    """An answer's quality and its length in characters, over all turns."""
    sentences = [sentence for turn in turns if turn for sentence in turn.split("\n")]
    for sentence in sentences:
        if sentence not in KIND_OF:
            raise ValueError(f"not a sentence of the sample: {sentence!r}")
    worth = float(np.mean(WORTH[[KIND_OF[sentence] for sentence in sentences]])) if sentences else 0.0
    return worth - STRAY * (not asked & subjects_in(turns)), sum(map(len, turns))
