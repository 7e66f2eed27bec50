"""What a chain ends with: the student's predictions as a submission, and one table of everything that was scored."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tiebreak.files import write_atomically, write_json
from tiebreak.prediction.merge import rows_per_second
from tiebreak.report.words import NAMES

JUDGES = {"average": "teachers' average", "from-labels": "student from labels", "student": "student distilled"}


def conclude(out: Path, teachers: Iterable[str]) -> None:
    """Leave `submission.csv` and, last, `metrics.json` below a chain's folder.

    `metrics.json` has `rows`, one per system: `log_loss` and `accuracy`, on the sample `gap_closed`, and of what was
    trained `parameters` (of one model) and `rows_per_second` (of the prediction, all folds and orders counted).
    Without labels of the test table it has those two alone.
    """
    write_atomically(out / "submission.csv", (out / "student" / "test" / "predictions.csv").read_bytes())
    report = out / "report" / "metrics.json"
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {"judges": [], "baselines": {}}
    scored = {judge["name"]: judge["scores"] for judge in found["judges"]}
    baselines = dict(found["baselines"])
    rows = {name: _scores(baselines[name]) for name in ("prior", "length", "tfidf") if name in baselines}
    for name in (*teachers, *JUDGES):
        if name in scored or (out / name / "test").is_dir():
            rows[name] = _scores(scored.get(name)) | _size(out / name)
    if "bayes" in baselines:
        rows["bayes"] = _scores(baselines["bayes"])
    write_json(out / "metrics.json", {"test_rows": found.get("rows"), "rows": rows})


def render(found: dict[str, Any]) -> str:
    """The table as aligned text."""
    rows = found["rows"]
    lines = [f"{'':20}{'log loss':>10}{'accuracy':>10}{'gap closed':>12}{'parameters':>14}{'rows/s':>8}"]
    for name, row in rows.items():
        cells = [
            (row.get("log_loss"), ".4f", 10),
            (row.get("accuracy"), ".3f", 10),
            (row.get("gap_closed"), ".1%", 12),
            (row.get("parameters"), ",", 14),
            (rate := row.get("rows_per_second"), ",.0f" if rate and rate >= 10 else ".2f", 8),
        ]
        shown = "".join(f"{'–' if value is None else format(value, how):>{wide}}" for value, how, wide in cells)
        lines.append(f"{(NAMES | JUDGES).get(name, f'teacher {name}'):20}{shown}")
    return "\n".join(lines)


def _scores(scored: dict[str, Any] | None) -> dict[str, float]:
    names = ("log_loss", "accuracy", "gap_closed")
    return {name: scored[name]["value"] for name in names if scored.get(name)} if scored else {}


def _size(folder: Path) -> dict[str, float]:
    """Of a run folder, or of a teacher's folder of folds."""
    runs = [path for path in (folder, folder / "fold-0") if (path / "environment.json").is_file()]
    if not runs:
        return {}
    parameters = json.loads((runs[0] / "environment.json").read_text(encoding="utf-8"))["parameters"]
    return {"parameters": parameters, "rows_per_second": rows_per_second(folder / "test")}
