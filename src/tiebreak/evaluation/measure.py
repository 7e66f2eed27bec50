"""All figures of a report, from rows and predictions."""

import contextlib

import numpy as np

from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import BOOSTED, LENGTH, PRIOR, TFIDF, WITH_NUMBERS, cross_fit
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.comparison import compare_judges
from tiebreak.evaluation.evaluate import measure_probabilities
from tiebreak.evaluation.inputs import LabelledRows, Predictions
from tiebreak.evaluation.metrics import row_losses
from tiebreak.evaluation.repetition import audit_repetition
from tiebreak.evaluation.robustness import audit_edits
from tiebreak.evaluation.schema import JudgeReport, Mistake, Report
from tiebreak.evaluation.scores import score, score_slices
from tiebreak.evaluation.selective import measure_selective
from tiebreak.evaluation.self_enhancement import audit_families
from tiebreak.evaluation.slices import cut_slices
from tiebreak.evaluation.verbosity import audit_verbosity
from tiebreak.evaluation.wording import percent
from tiebreak.labels import CLASS_NAMES
from tiebreak.plurals import plural
from tiebreak.sample.law import bayes_probabilities, is_sample

MISTAKES = 8
LEAST_PROMPTS = 50
"""Baselines that read answers, fitted on fewer, say nothing."""
LEAST_ROWS, LEAST_SPREAD = 50, 0.02
"""On fewer rows scores say nothing. A judge whose probabilities of each class all lie this close together tells no row
from another."""
BASELINES = {PRIOR: "prior", LENGTH: "length", TFIDF: "tfidf", WITH_NUMBERS: "numbers", BOOSTED: "boosted"}
"""Their names in metrics.json."""


def measure(
    rows: LabelledRows,
    judges: list[Predictions],
    labels_name: str,
    resamples: int = 1_000,
    seed: int = 0,
) -> Report:
    """Compute every score, calibration figure, audit and comparison.

    Args:
        rows: labelled rows that every judge predicts.
        judges: predictions of these rows.
        labels_name: the labels table's name.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the temperature's half.
    """
    bootstrap = Bootstrap(rows.groups, resamples, seed)
    chars = rows.chars if rows.pairs is not None else None
    slices = cut_slices(rows.pairs, chars, rows.unseen) if rows.pairs is not None and chars is not None else {}
    known = predict_baselines(rows)
    reference = None
    if "bayes" in known and "prior" in known:
        reference = (row_losses(known["prior"], rows.labels), row_losses(known["bayes"], rows.labels))
    measured = [measure_judge(judge, rows, chars, slices, bootstrap, reference, seed) for judge in judges]
    return Report(
        labels=labels_name,
        rows=len(rows.ids),
        prompts=bootstrap.groups,
        class_counts={name: int((rows.labels == k).sum()) for k, name in enumerate(CLASS_NAMES)},
        resamples=resamples,
        seed=seed,
        notes=[*say_what_is_void(judges, len(rows.ids)), *rows.notes],
        baselines={name: score(p, rows.labels, bootstrap, reference) for name, p in known.items()},
        judges=measured,
        pairs=compare_judges(judges, rows.labels, slices, bootstrap),
        runs=[],
    )


def say_what_is_void(judges: list[Predictions], rows: int) -> list[str]:
    """Sentences for the top of a report on too few rows, and on judges that answer all rows alike."""
    said = [f"{plural(rows, 'row')}: too few to say anything of a judge"] if rows < LEAST_ROWS else []
    for judge in judges:
        spread = float(np.ptp(judge.probabilities, axis=0).max())
        if rows > 1 and spread < LEAST_SPREAD:
            said.append(
                f"{judge.name} gives nearly the same probabilities to every row: those of a class differ by at most "
                f"{percent(spread, 1)}, so it does not tell good answers from bad ones"
            )
    return said


def predict_baselines(rows: LabelledRows) -> dict[str, np.ndarray]:
    """Probabilities (n, 3) of each baseline by its name in metrics.json; the rows' notes say why one is absent."""
    known: dict[str, np.ndarray] = {}
    prompts = len(np.unique(rows.groups))
    try:
        few = prompts < LEAST_PROMPTS
        fitted = cross_fit(rows.ids, rows.labels, None if few else rows.pairs).probabilities
        known = {BASELINES[name]: probabilities for name, probabilities in fitted.items()}
        if few and rows.pairs is not None:
            rows.notes.append(
                f"the labelled rows have {prompts} prompts; the baselines that read answers need {LEAST_PROMPTS}, so "
                "the class prior stands here alone"
            )
    except UserError as error:
        rows.notes.append(f"no baselines, which are fitted on other prompts' labels: {error}")
    if rows.pairs is not None and is_sample([name for pair in rows.pairs for name in (pair.model_a, pair.model_b)]):
        parts = zip(*((pair.prompt, pair.response_a, pair.response_b) for pair in rows.pairs), strict=True)
        with contextlib.suppress(ValueError):  # a user's own row among the sample's, or one of an earlier law
            known["bayes"] = bayes_probabilities(*parts)
    return known


def measure_judge(
    judge: Predictions,
    rows: LabelledRows,
    chars: np.ndarray | None,
    slices: dict[tuple[str, str], np.ndarray],
    bootstrap: Bootstrap,
    reference: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
) -> JudgeReport:
    """Scores, calibration and the audits of one judge."""
    p, labels = judge.probabilities, rows.labels
    models = [(pair.model_a, pair.model_b) for pair in rows.pairs or []]
    evaluation = measure_probabilities(p, labels, judge.orders, bootstrap, reference, seed)
    return JudgeReport(
        name=judge.name,
        path=str(judge.path),
        scores=evaluation.scores,
        slices=score_slices(p, labels, slices, bootstrap),
        calibration=evaluation.calibration,
        selective=measure_selective(p.max(1), p.argmax(1) == labels, bootstrap),
        position=evaluation.position,
        verbosity=None if chars is None else audit_verbosity(p, labels, chars, bootstrap),
        self_enhancement=audit_families(p, labels, models, judge.family, bootstrap) if models else None,
        edits=audit_edits(rows.ids, p, judge.edited, bootstrap),
        repetition=None if judge.attacked is None else audit_repetition(rows.ids, p, judge.attacked, bootstrap),
        mistakes=worst_mistakes(p, rows),
    )


def worst_mistakes(probabilities: np.ndarray, rows: LabelledRows) -> list[Mistake]:
    """The wrong verdicts of the highest probability, the most confident first."""
    verdicts, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(verdicts != rows.labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[:MISTAKES]]
    return [
        Mistake(
            id=rows.ids[row],
            label=CLASS_NAMES[rows.labels[row]],
            verdict=CLASS_NAMES[verdicts[row]],
            probability=float(confidence[row]),
        )
        for row in chosen
    ]
