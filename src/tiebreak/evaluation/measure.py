"""All figures of a report, from rows and predictions."""

import contextlib

import numpy as np

from tiebreak.evaluation import crossfit
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.calibration import calibrate
from tiebreak.evaluation.comparison import compare_judges
from tiebreak.evaluation.inputs import Predictions, Rows
from tiebreak.evaluation.position import audit_position
from tiebreak.evaluation.repetition import audit_repetition
from tiebreak.evaluation.schema import JudgeReport, Mistake, Report, Run
from tiebreak.evaluation.scores import losses, score, score_slices
from tiebreak.evaluation.self_enhancement import audit_families
from tiebreak.evaluation.slices import cut_slices
from tiebreak.evaluation.verbosity import audit_verbosity
from tiebreak.labels import CLASS_NAMES
from tiebreak.sample.law import bayes_probabilities, is_sample

MISTAKES = 8


def measure(
    rows: Rows,
    judges: list[Predictions],
    labels_name: str,
    resamples: int = 1_000,
    seed: int = 0,
    runs: tuple[Run, ...] = (),
) -> Report:
    """Every score, calibration figure, audit and comparison."""
    bootstrap = Bootstrap(rows.groups, resamples, seed)
    chars = rows.chars if rows.pairs is not None else None
    slices = cut_slices(rows.pairs, chars) if rows.pairs is not None and chars is not None else {}
    known = predict_baselines(rows, chars)
    reference = None
    if "bayes" in known and "prior" in known:
        reference = (losses(known["prior"], rows.labels), losses(known["bayes"], rows.labels))
    measured = [measure_judge(judge, rows, chars, slices, bootstrap, reference, seed) for judge in judges]
    return Report(
        labels=labels_name,
        rows=len(rows.ids),
        prompts=bootstrap.groups,
        class_counts={name: int((rows.labels == k).sum()) for k, name in enumerate(CLASS_NAMES)},
        resamples=resamples,
        seed=seed,
        notes=rows.notes,
        baselines={name: score(found, rows.labels, bootstrap, reference) for name, found in known.items()},
        judges=measured,
        pairs=compare_judges(judges, rows.labels, slices, bootstrap),
        runs=list(runs),
    )


def predict_baselines(rows: Rows, chars: np.ndarray | None) -> dict[str, np.ndarray]:
    """Probabilities (n, 3) of each baseline that can be had; notes say why one cannot."""
    found = {"prior": crossfit.prior(rows.labels, rows.groups)}
    if chars is not None and rows.pairs is not None:
        found["length"] = crossfit.length(chars, rows.labels, rows.groups)
        found["tfidf"] = crossfit.tfidf(rows.pairs, chars, rows.labels, rows.groups)
        if is_sample([name for pair in rows.pairs for name in (pair.model_a, pair.model_b)]):
            parts = zip(*((pair.prompt, pair.response_a, pair.response_b) for pair in rows.pairs), strict=True)
            with contextlib.suppress(ValueError):  # a user's own row among the sample's, or one of an earlier law
                found["bayes"] = bayes_probabilities(*parts)
    if found["prior"] is None:
        rows.notes.append(
            f"no baselines: they are fitted on other prompts' labels, and need {crossfit.LEAST_GROUPS} prompts and "
            "two classes"
        )
    return {name: probabilities for name, probabilities in found.items() if probabilities is not None}


def measure_judge(
    judge: Predictions,
    rows: Rows,
    chars: np.ndarray | None,
    slices: dict[tuple[str, str], np.ndarray],
    bootstrap: Bootstrap,
    reference: tuple | None,
    seed: int,
) -> JudgeReport:
    """Scores, calibration and the audits of one judge."""
    p, labels = judge.probabilities, rows.labels
    models = [(pair.model_a, pair.model_b) for pair in rows.pairs or []]
    return JudgeReport(
        name=judge.name,
        path=str(judge.path),
        scores=score(p, labels, bootstrap, reference),
        slices=score_slices(p, labels, slices, bootstrap),
        calibration=calibrate(p, labels, bootstrap, seed),
        position=audit_position(p, labels, judge.orders, bootstrap),
        verbosity=None if chars is None else audit_verbosity(p, labels, chars, bootstrap),
        self_enhancement=audit_families(p, labels, models, judge.family, bootstrap) if models else None,
        repetition=None if judge.attacked is None else audit_repetition(rows.ids, p, judge.attacked, bootstrap),
        mistakes=worst_mistakes(p, rows),
    )


def worst_mistakes(probabilities: np.ndarray, rows: Rows) -> list[Mistake]:
    """The wrong verdicts of the highest probability, the most confident first."""
    verdicts, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(verdicts != rows.labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")[:MISTAKES]]
    return [
        Mistake(
            id=rows.ids[k],
            label=CLASS_NAMES[rows.labels[k]],
            verdict=CLASS_NAMES[verdicts[k]],
            probability=float(confidence[k]),
        )
        for k in chosen
    ]
