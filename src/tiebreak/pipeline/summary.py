"""What a pipeline ends with: the student's predictions as a submission, and one table of everything that was scored."""

import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiebreak.errors import UserError
from tiebreak.evaluation.wording import NAMES
from tiebreak.files import leave_json, write_atomically
from tiebreak.prediction.merge import rows_per_second
from tiebreak.structured import read_json

log = logging.getLogger(__name__)

SYSTEMS = {"average": "teachers' average", "from-labels": "student from labels", "student": "student distilled"}


@dataclass(frozen=True)
class Summary:
    """`metrics.json` of a pipeline.

    Attributes:
        test_rows: labelled rows of the test table; None without labels.
        rows: figures of each system by its name: `log_loss`, `accuracy`, `tie_recall` (share of the ties that are
            predicted as ties), on the sample `gap_closed`, and of what was trained `parameters` (of one model),
            `rows_per_second` (of the prediction, all folds and orders counted) and `extra_rows` (without labels).
    """

    test_rows: int | None
    rows: dict[str, dict[str, float]]

    def __str__(self) -> str:
        head = f"{'log loss':>10}{'accuracy':>10}{'ties found':>12}{'gap closed':>12}{'parameters':>14}{'rows/s':>8}"
        lines = [f"{'':20}{head}"]
        for name, row in self.rows.items():
            cells = [
                (row.get("log_loss"), ".4f", 10),
                (row.get("accuracy"), ".3f", 10),
                (row.get("tie_recall"), ".0%", 12),
                (row.get("gap_closed"), ".1%", 12),
                (row.get("parameters"), ",", 14),
                (rate := row.get("rows_per_second"), ",.0f" if rate and rate >= 10 else ".2f", 8),
            ]
            shown = "".join(f"{'–' if value is None else format(value, how):>{wide}}" for value, how, wide in cells)
            lines.append(f"{(NAMES | SYSTEMS).get(name, f'teacher {name}'):20}{shown}")
        return "\n".join(lines)

    def in_words(self) -> str:
        """What the table shows, in a sentence or two; empty without labels."""
        student, tfidf, labels = (self.rows.get(name, {}) for name in ("student", "tfidf", "from-labels"))
        said = []
        if "bayes" in self.rows:
            said.append(
                "A judge predicts which of two chatbot answers people prefer: A, B or a tie. These rows are made up, "
                "and a known law votes in the place of people, so the best possible (Bayes) is known; how well such "
                "tiny judges do on real votes, this does not say."
            )
        if "gap_closed" in student and "gap_closed" in tfidf:
            said.append(
                f"Of the way from guessing the class shares to the best possible, the distilled student "
                f"goes {student['gap_closed']:.0%}, TF-IDF {tfidf['gap_closed']:.0%}."
            )
        if "log_loss" in student and "log_loss" in labels:
            gain = labels["log_loss"] - student["log_loss"]
            more = (
                f", with {student['extra_rows']:,} more rows that only teachers judged,"
                if "extra_rows" in student
                else ""
            )
            said.append(
                f"Against the same model trained on the labels alone, distillation{more} "
                f"{'lowered' if gain > 0 else 'raised'} the log loss by {abs(gain):.4f}."
            )
        return textwrap.fill(" ".join(said), 100)


def next_steps(out: Path) -> str:
    """What to do after a pipeline, as lines to copy: on the sample's tables as they are, on others by their names."""
    page, student = out / "report" / "index.html", out / "student"
    test = table if (table := out / "tables" / "test.csv").is_file() else "YOUR.csv"
    tiebreak = "tiebreak" if shutil.which("tiebreak") else os.path.relpath(Path(sys.executable).with_name("tiebreak"))
    words = "--prompt 'QUESTION' 'ANSWER' 'OTHER ANSWER'"
    words_of_own = "--recipe demo-deberta --model minilm-l6 --set data.max_tokens=512 --set train.lr=1e-4"
    lines = [
        ("which of two answers wins:", f"{tiebreak} compare --model {student} {words}"),
        ("all rows of a table:", f"{tiebreak} predict --model {student} --data {test} --out runs/mine"),
        ("weights for your own texts:", f"{tiebreak} weights minilm-l6"),
        ("a judge of your own votes:", f"{tiebreak} train {words_of_own} --data YOUR.csv --out runs/own"),
    ]
    if page.is_file():
        lines.insert(0, ("scores, calibration, biases:", f"open {page} in a browser"))
    columns = (
        "Your own tables have the columns prompt, response_a, response_b, and to train on, winner (docs/tables.md)."
    )
    known = "The demo's models know the sample's language and nothing else: weights for other texts are fetched."
    return "\n".join(["What next:", *(f"  {what:29} {how}" for what, how in lines), known, columns])


def conclude(out: Path, teachers: Iterable[str]) -> Summary:
    """Leave `submission.csv` and, last, `metrics.json` in a pipeline's folder."""
    write_atomically(out / "submission.csv", (out / "student" / "test" / "predictions.csv").read_bytes())
    report = out / "report" / "metrics.json"
    scored = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {"judges": [], "baselines": {}}
    judges = {judge["name"]: judge["scores"] for judge in scored["judges"]}
    baselines = scored["baselines"]
    rows = {name: _scores(baselines[name]) for name in ("prior", "length", "tfidf") if name in baselines}
    for name in (*teachers, *SYSTEMS):
        if name in judges or (out / name / "test").is_dir():
            rows[name] = _scores(judges.get(name)) | _size(out / name)
    if "bayes" in baselines:
        rows["bayes"] = _scores(baselines["bayes"])
    summary = Summary(scored.get("rows"), rows)
    leave_json(out / "metrics.json", {"test_rows": summary.test_rows, "rows": rows})
    return summary


def _scores(scored: dict[str, Any] | None) -> dict[str, float]:
    if not scored:
        return {}
    found = {name: scored.get(name) for name in ("log_loss", "accuracy", "gap_closed")}
    found["tie_recall"] = scored["classes"]["tie"]["recall"] if "tie" in scored["classes"] else None
    return {name: estimate["value"] for name, estimate in found.items() if estimate}


def _size(folder: Path) -> dict[str, float]:
    """Of a run folder, or of a teacher's folder of folds."""
    from tiebreak.training.run_folder import ROWS

    runs = [path for path in (folder, folder / "fold-0") if (path / "environment.json").is_file()]
    if not runs:
        return {}
    size = {"rows_per_second": rows_per_second(folder / "test")}
    try:
        found = {"parameters": read_json(runs[0] / "environment.json").get("parameters")}
        found["extra_rows"] = read_json(runs[0] / ROWS).get("rows_extra") or None
    except (OSError, UserError) as error:
        log.info(f"note: the size of {runs[0]} is left out ({error})")
        return size
    return {name: value for name, value in found.items() if isinstance(value, int)} | size
