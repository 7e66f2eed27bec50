"""`tiebreak decide`: verdicts where a judge agrees with people as often as asked, and `abstain` elsewhere."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.decisions.calibration_rows import PathLike, find_rows, read_judge
from tiebreak.decisions.confidence import TIES, UNDECIDED, Ties, counts_for, judge_rows
from tiebreak.decisions.records import DecisionRecord, JudgeRecord
from tiebreak.decisions.sequence import Threshold, find_threshold
from tiebreak.errors import UserError
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.inputs import LabelledRows, read_labelled
from tiebreak.evaluation.schema import Selective
from tiebreak.evaluation.selective import measure_selective
from tiebreak.files import write_atomically
from tiebreak.labels import CLASS_NAMES
from tiebreak.manifests import as_json
from tiebreak.storage import make_folder
from tiebreak.tables.table import OnBadRow

ABSTAIN = "abstain"
RESAMPLES, SEED = 1_000, 0


@dataclass(frozen=True, repr=False)
class Decisions:
    """What was decided.

    Attributes:
        ids: n, in the order of the predictions.
        verdicts: n, `A`, `B`, `tie` or `abstain`.
        confidence: (n,), of the judge that decided the row, or of the last one that was asked.
        judge: (n,) int, 1 or 2 for the judge that decided it, 0 for `abstain`.
        record: how, with all figures; decision.json holds it.
    """

    ids: list[str]
    verdicts: list[str]
    confidence: np.ndarray
    judge: np.ndarray
    record: DecisionRecord

    @property
    def coverage(self) -> float:
        """The share of the rows that is decided."""
        return float((self.judge > 0).mean())

    def __str__(self) -> str:
        return str(self.record)

    __repr__ = __str__


def decide(
    predictions: PathLike,
    calibrate: PathLike | Sequence[PathLike],
    *,
    agree: float = 0.8,
    certainty: float = 0.95,
    ties: Ties = "verdict",
    then: PathLike | Sequence[PathLike] | None = None,
    cost: Sequence[float] | None = None,
    out: str | Path | None = None,
    on_bad_row: OnBadRow = "fail",
) -> Decisions:
    """Decide the rows on which a judge agrees with people often enough, and leave the others to people.

    Args:
        predictions: of the rows to decide: a predictions.csv, or a folder with one.
        calibrate: a table with `id` and winners, on which the threshold is found; or that and the judge's predictions
            of it, where `predictions` are of other rows. The judge must not have been trained on it.
        agree: the share of the decided rows on which people agree, at least.
        certainty: the probability that this share is reached, over tables to calibrate on.
        ties: what is made of ties: `verdict`, `wrong` or `ignore` (docs/decide.md).
        then: a second judge's predictions of the same rows, for what the first leaves; with its predictions of the
            labelled table too if `calibrate` has two.
        cost: of a row, by the judge, by the second judge if there is one, and by people.
        out: a folder for decisions.csv, decision.json and risk_coverage.csv.
        on_bad_row: `fail`, or `skip` to leave unreadable labelled rows out.

    Raises:
        UserError: numbers out of range, files that cannot be used or do not fit together.
    """
    labels_path, *others = _one_or_two(calibrate, "calibrate")
    _check(agree, certainty, ties, then, cost)
    rows = read_labelled(Path(labels_path), on_bad_row)
    judges = [_read(given, len(others) + 1) for given in ([predictions, *others], then) if given is not None]
    ids, probabilities = _same_rows(judges)
    known, notes = _calibration(rows, judges, ties)
    level = (1 - certainty) / len(judges)
    judged = [judge_rows(p, ties) for p in probabilities]
    thresholds, records, curves = _walk(known, ties, agree, level)
    verdicts, confidence, judge = _apply(thresholds, judged, records)
    names = [CLASS_NAMES[verdict] if verdict != UNDECIDED else ABSTAIN for verdict in verdicts.tolist()]
    for record, ((path, _, _), _) in zip(records, judges, strict=True):
        record.predictions = str(path)
    made = DecisionRecord(
        labels=str(labels_path), agree=agree, certainty=certainty, ties=ties,
        rows=len(ids), counts={name: names.count(name) for name in (*CLASS_NAMES, ABSTAIN)},
        judges=records, calibration_prompts=len(np.unique(known[1])), notes=[*rows.notes, *notes],
        cost=None if cost is None else _cost(cost, records, len(ids)),
    )  # fmt: skip
    decisions = Decisions(ids, names, confidence, judge, made)
    if out is not None:
        _write(Path(out), decisions, curves)
    return decisions


Reading = tuple[Path, list[str], np.ndarray]
Judge = list[Reading]
"""The predictions of the rows to decide, and those of the labelled rows: of one file, or of two."""
Known = tuple[np.ndarray, np.ndarray, list[np.ndarray]]
"""Labels (n,) and prompt groups (n,) of the calibration rows, and each judge's probabilities (n, 3)."""


def _one_or_two(given: PathLike | Sequence[PathLike], name: str) -> list[PathLike]:
    found = [given] if isinstance(given, (str, Path)) else list(given)
    if not 1 <= len(found) <= 2:
        raise UserError(f"--{name}: give one file, or two: {' '.join(map(str, found))}")
    return found


def _check(agree: float, certainty: float, ties: str, then: object, cost: Sequence[float] | None) -> None:
    for name, share in (("agree", agree), ("certainty", certainty)):
        if not 0 < share < 1:
            raise UserError(f"--{name} {share:g}: give a share between 0 and 1, for example 0.8")
    if ties not in TIES:
        raise UserError(f"--ties {ties}: give one of {', '.join(TIES)}")
    wanted = 2 if then is None else 3
    if cost is not None and (len(cost) != wanted or min(cost) < 0):
        raise UserError(f"--cost: give {wanted} numbers, none below 0: a row's cost by each judge, then by people")


def _read(given: PathLike | Sequence[PathLike], files: int) -> Judge:
    """A judge's predictions: of the rows to decide, and of the labelled rows, which may be the same file."""
    found = _one_or_two(given, "then")
    if len(found) != files:
        raise UserError(
            f"--then: give as many files as for the first judge ({files}): its predictions of the rows to decide"
            + (", then of the labelled table" if files == 2 else "")
        )
    readings = [read_judge(name) for name in found]
    return [readings[0], readings[-1]]


def _same_rows(judges: list[Judge]) -> tuple[list[str], list[np.ndarray]]:
    """The ids (n) to decide, and each judge's probabilities (n, 3) of them."""
    (first, ids, probabilities), found = judges[0][0], [judges[0][0][2]]
    for (path, others, theirs), _ in judges[1:]:
        place = {row_id: i for i, row_id in enumerate(others)}
        if lacking := [row_id for row_id in ids if row_id not in place]:
            raise UserError(
                f"{path}: lacks {len(lacking):,} ids of {first} ({lacking[0]} is one); predict the same table"
            )
        found.append(theirs[[place[row_id] for row_id in ids]])
    assert len(probabilities) == len(ids)
    return ids, found


def _calibration(rows: LabelledRows, judges: list[Judge], ties: Ties) -> tuple[Known, list[str]]:
    """The labelled rows that every judge predicts and on which agreement is counted."""
    found, notes = [], []
    for _, reading in judges:
        probabilities, said = find_rows(rows, *reading)
        found.append(probabilities)
        notes += said
    kept = counts_for(rows.labels, ties) & np.all([np.isfinite(p[:, 0]) for p in found], axis=0)
    if not kept.any():
        raise UserError(
            "no labelled row is left to calibrate on: every one is a tie or lacks a prediction: label "
            "more, or count ties with --ties"
        )
    return (rows.labels[kept], rows.groups[kept], [p[kept] for p in found]), notes


def _walk(
    known: Known, ties: Ties, agree: float, level: float, curves: bool = True
) -> tuple[list[Threshold], list[JudgeRecord], list[Selective | None]]:
    """Each judge's threshold, found on the labelled rows that come to it; and its curve on these."""
    labels, groups, probabilities = known
    left, thresholds, records, drawn = np.ones(len(labels), dtype=bool), [], [], []
    for p in probabilities:
        verdict, confidence = judge_rows(p[left], ties)
        agreed = verdict == labels[left]
        threshold = find_threshold(confidence, agreed, groups[left], agree, level)
        curve = None
        if curves and left.any():
            curve = measure_selective(confidence, agreed, Bootstrap(groups[left], RESAMPLES, SEED))
        thresholds.append(threshold)
        drawn.append(curve)
        records.append(_record(threshold, agreed, curve))
        # Rows of the test that failed are not sent on: their labels were looked at to stop here (docs/decide.md).
        left[left] = confidence < threshold.floor
    return thresholds, records, drawn


def _apply(
    thresholds: list[Threshold], judged: list[tuple[np.ndarray, np.ndarray]], records: list[JudgeRecord]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts, confidences and deciding judges (n,) of the rows to decide; the records get their counts."""
    rows = len(judged[0][0])
    verdicts, confidence, judge = np.full(rows, UNDECIDED), np.zeros(rows), np.zeros(rows, dtype=np.int64)
    sent = np.ones(rows, dtype=bool)
    for number, (threshold, (verdict, sure)) in enumerate(zip(thresholds, judged, strict=True), 1):
        confidence[sent] = sure[sent]
        taken = sent & (sure >= threshold.value)
        verdicts[taken], judge[taken] = verdict[taken], number
        records[number - 1].read, records[number - 1].decided = int(sent.sum()), int(taken.sum())
        sent &= sure < threshold.floor
    return verdicts, confidence, judge


def _record(threshold: Threshold, agreed: np.ndarray, curve: Selective | None) -> JudgeRecord:
    decided = threshold.rows > 0
    return JudgeRecord(
        threshold=threshold.value if decided else None,
        sent_on_below=threshold.floor if decided else None,
        calibration_rows=len(agreed),
        calibration_decided=threshold.rows,
        effective_rows=threshold.effective_rows,
        agreement_of_all=float(agreed.mean()) if len(agreed) else None,
        agreement=1 - threshold.disagreed / threshold.rows if decided else None,
        agreement_at_least=threshold.bound if decided else None,
        aurc=curve.aurc if curve is not None else None,
    )


def _cost(cost: Sequence[float], records: list[JudgeRecord], rows: int) -> dict[str, float]:
    """What deciding costs, and what people alone would."""
    left = rows - sum(record.decided for record in records)
    judges = sum(each * record.read for each, record in zip(cost, records, strict=False))
    return {"judges": judges, "people": left * cost[-1], "people_alone": rows * cost[-1]}


def _write(out: Path, decisions: Decisions, curves: list[Selective | None]) -> None:
    """Write the folder's three files."""
    make_folder(out)
    lines = zip(decisions.ids, decisions.verdicts, decisions.confidence.tolist(), decisions.judge.tolist(), strict=True)
    text = _csv(["id", "verdict", "confidence", "judge"], [(i, v, f"{c:.9f}", j or "") for i, v, c, j in lines])
    points = [
        (number, *(f"{value:.6f}" for value in (p.coverage, p.confidence, *vars(p.agreement).values())))
        for number, curve in enumerate(curves, 1)
        for p in (curve.curve if curve else [])
    ]
    head = ["judge", "coverage", "confidence", "agreement", "agreement_low", "agreement_high"]
    write_atomically(out / "risk_coverage.csv", _csv(head, points))
    write_atomically(out / "decision.json", as_json(decisions.record))
    write_atomically(out / "decisions.csv", text)


def _csv(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    return text.getvalue()
