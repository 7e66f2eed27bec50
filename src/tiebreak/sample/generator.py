"""The embedded sample: Arena-like tables in the raw Kaggle encoding, their labels drawn from a law known exactly."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.config import DataSettings, cache_folder
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.plurals import plural
from tiebreak.sample.language import ASPECTS, MODELS, SUBJECTS, draw_answers, draw_questions, draw_turns
from tiebreak.sample.law import drawn_quality, law

VERSION = 3
"""Of language and law: another makes other tables from the same seed."""
CHUNK_ROWS = 5_000


@dataclass(frozen=True, repr=False)
class Summary:
    """What is known of a sample: rows, class counts, and log losses in nats per row.

    `bayes` is the mean entropy of the law (no model can expect less), `bayes_realised` the law's log
    loss on the labels that were drawn, `prior` that of predicting the drawn class shares. Without `labelled` the table
    does not show them.
    """

    rows: int
    class_counts: tuple[int, int, int]
    bayes: float
    bayes_realised: float
    prior: float
    bytes: int
    labelled: bool = True

    def __repr__(self) -> str:
        size = f"{plural(self.rows, 'row')}, {self.bytes / 1e6:,.1f} MB"
        if not self.labelled:
            return f"{size}, without labels\nBayes log loss: {self.bayes:.6f} expected"
        a, b, tie = (count / self.rows for count in self.class_counts)
        return (
            f"{size}\n"
            f"classes: A {a:.1%}, B {b:.1%}, tie {tie:.1%}\n"
            f"prior log loss: {self.prior:.6f}\n"
            f"Bayes log loss: {self.bayes:.6f} expected, {self.bayes_realised:.6f} on these labels"
        )


def write_sample(
    path: str | Path,
    rows: int,
    seed: int = 0,
    profile: str = "arena",
    labels: bool = True,
    label_seed: int | None = None,
) -> Summary:
    """Write a sample CSV in the raw Kaggle encoding, the same bytes for the same arguments.

    Args:
        path: of the CSV.
        rows: how many.
        seed: of every draw.
        profile: `arena` (real lengths, about 3.2 kB a row) or `short` (a few sentences an answer).
        labels: without them, a test table with the columns id, prompt, response_a, response_b.
        label_seed: draws other labels of the same rows from the same law.

    Raises:
        UserError: another suffix than .csv, or a number out of range.
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
        for lines, probabilities, drawn in _chunks(
            rows, (seed, seed if label_seed is None else label_seed), profile, labels
        ):
            file.write(lines)
            entropy -= float((probabilities * np.log(probabilities)).sum())
            realised -= float(np.log(probabilities[np.arange(len(drawn)), drawn]).sum())
            counts += np.bincount(drawn, minlength=3)
    temporary.replace(path)
    shares = counts[counts > 0] / rows
    prior = float(-(shares * np.log(shares)).sum())
    a, b, tie = counts.tolist()
    return Summary(rows, (a, b, tie), entropy / rows, realised / rows, prior, path.stat().st_size, labels)


def _chunks(
    rows: int, seeds: tuple[int, int], profile: str, labels: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """CSV lines, class probabilities (n, 3) and labels (n,) of a chunk of rows at a time; seeds of texts and labels."""
    gap = max(2, (2**32 - 1) // rows)
    next_id = 0
    for chunk, start in enumerate(range(0, rows, CHUNK_ROWS)):
        rng, label_rng = (np.random.default_rng([seed, chunk, stream]) for stream, seed in enumerate(seeds))
        count = min(CHUNK_ROWS, rows - start)
        ids = next_id + np.cumsum(rng.integers(1, gap, count))
        next_id = int(ids[-1])
        turns = draw_turns(rng, count)
        subjects, aspects = rng.integers(0, len(SUBJECTS), count), rng.integers(0, len(ASPECTS), count)
        prompts = draw_questions(rng, turns, subjects, aspects)
        a, b = (draw_answers(rng, turns, subjects, aspects, profile) for _ in range(2))
        probabilities = law(drawn_quality(a) - drawn_quality(b), a.chars, b.chars)
        drawn = (label_rng.random(count)[:, None] > probabilities.cumsum(1)[:, :2]).sum(1)
        if labels:
            names = rng.integers(0, len(MODELS), count)
            others = (names + rng.integers(1, len(MODELS), count)) % len(MODELS)
            one_hot = ["1,0,0", "0,1,0", "0,0,1"]
            lines = "".join(
                f"{i},{MODELS[m]},{MODELS[o]},{p},{one},{other},{one_hot[y]}\n"
                for i, m, o, p, one, other, y in zip(
                    ids.tolist(), names, others, prompts, a.cells, b.cells, drawn.tolist(), strict=True
                )
            )
        else:
            rest = zip(ids.tolist(), prompts, a.cells, b.cells, strict=True)
            lines = "".join(f"{i},{p},{one},{other}\n" for i, p, one, other in rest)
        yield lines, probabilities, drawn


def sample_file(settings: DataSettings) -> Path:
    """The embedded sample of a recipe's size, in the cache, written if it is not there yet."""
    rows, profile = settings.sample_rows, settings.sample_profile
    path = cache_folder() / "samples" / f"sample-{profile}-{rows}-v{VERSION}.csv"
    if not path.is_file():
        write_sample(path, rows, profile=profile)
    return path
