"""The model card: README.md in the model folder, in the hub's format.

It is made of the run folder's own records, so it can be written again at any time. `tiebreak report --model`
adds the scores and the bias table of a labelled table between two markers.
"""

import json
import logging
from pathlib import Path
from typing import Any

import yaml

from tiebreak.errors import UserError
from tiebreak.evaluation.schema import Estimate, Report
from tiebreak.evaluation.wording import NAMES, number, percent, points, span
from tiebreak.files import write_atomically
from tiebreak.report.markdown import as_code, as_text, without_place, without_places
from tiebreak.structured import read_bytes, read_yaml
from tiebreak.terminal import one_line

log = logging.getLogger(__name__)

LARGEST_CARD = 4 << 20
BEGIN, END = "<!-- report -->", "<!-- /report -->"
NOT_YET = "Not measured yet: `tiebreak report PRED --labels TABLE --model THIS_FOLDER --out DIR` fills this in."
LIMITS = """\
- It predicts what people preferred in tables like the one it was trained on. It says nothing of truth or safety, and
  people's own leanings (to length, to style) are part of what it learnt.
- Ties are the hardest class; a table with few of them gives a judge that hardly predicts any.
- Texts beyond `data.max_tokens` are cut before they are read.
- Predict with `--swap` where the order of the answers may matter: both orders are then averaged."""


def leave_card(run: Path) -> None:
    """Write the card of a run that is done; a run never fails for want of its card."""
    try:
        write_card(run)
    except Exception as error:
        log.warning(f"no model card was written ({type(error).__name__}: {error})")


def write_card(run: Path) -> Path:
    """Write model/README.md from the run folder's recipe.yaml, environment.json and metrics.json."""
    from tiebreak.models.folder import find_model_folder, usage

    recipe = read_yaml(run / "recipe.yaml")
    environment, metrics = (
        json.loads((run / name).read_text(encoding="utf-8")) for name in ("environment.json", "metrics.json")
    )
    path, (_, manifest) = run / "model" / "README.md", find_model_folder(run / "model")
    write_atomically(path, render_card(recipe, environment, metrics, usage(manifest)))
    return path


def render_card(
    recipe: dict[str, Any], environment: dict[str, Any], metrics: dict[str, Any], plain_usage: str | None = None
) -> str:
    """The card's text: YAML front matter as the hub reads it, then Markdown.

    Args:
        recipe: fields of recipe.yaml.
        environment: of environment.json.
        metrics: of metrics.json.
        plain_usage: Python lines that use the model without this package, where that is possible.
    """
    model, scores = recipe["model"], metrics["validation"]
    kind = "All weights of" if model["method"] == "full" else "Adapters on"
    split = {None: "", "none": " No rows were held out."}.get(environment.get("valid"), "")
    if environment.get("fold"):
        split = f" Held out: fold {environment['fold']}, grouped by prompt."
    files = "\n".join(f"- {as_code(Path(name).name)}" for name in environment["data"])
    teachers = describe_teachers(environment)
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    settings = yaml.safe_dump(_settings(recipe), sort_keys=False).strip().replace("```", "'''")
    return f"""---
{_front_matter(recipe, scores)}
---

# {as_text(recipe["name"])}

A judge that predicts which of two chatbot answers people prefer: class 0 is answer A, 1 is answer B, 2 a tie.
{kind} {as_code(without_place(model["base"]))}, trained with {as_code(model["method"])} by tiebreak.

## Usage

{render_usage(plain_usage)}

## Data

{files}

{environment["rows_trained"]:,} rows trained on, {environment["rows_held_out"]:,} held out.{split}{teachers}

## Scores

{_score_table(scores)}

## Bias

{BEGIN}
{NOT_YET}
{END}

## Limits

{LIMITS}

## Recipe

Best of {metrics["steps"]:,} steps: step {metrics["best_step"]:,}. Made with {versions}.

```yaml
{settings}
```
"""


def _settings(recipe: dict[str, Any]) -> dict[str, Any]:
    """The settings that are shown, without the places of this machine that they name."""
    shown = {section: dict(recipe[section]) for section in ("model", "data", "train")}
    shown["model"]["base"] = without_place(shown["model"]["base"])
    if paraphrases := shown["data"].get("paraphrases"):
        shown["data"]["paraphrases"] = [Path(name).name for name in paraphrases]
    return shown


def _front_matter(recipe: dict[str, Any], scores: dict[str, dict[str, float]]) -> str:
    """The card's YAML as the hub reads it."""
    from huggingface_hub import EvalResult, ModelCardData

    model = recipe["model"]
    adapters = model["method"] != "full"
    on_hub = "/" in model["base"] and not Path(model["base"]).exists() and not model["base"].startswith((".", "/"))
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Preference of two answers",
            dataset_type="preference-table",
            dataset_name="held-out prompts",
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=scores["model"][metric],
        )
        for metric in ("log_loss", "accuracy", "macro_f1")
        if scores
    ]
    data = ModelCardData(
        model_name=one_line(recipe["name"]),
        base_model=model["base"] if on_hub else None,
        library_name="peft" if adapters else "transformers",
        pipeline_tag="text-classification",
        tags=["preference", "llm-as-a-judge", "tiebreak", *([model["method"]] if adapters else [])],
        metrics=["accuracy", "f1"],
        eval_results=results or None,
    )
    return str(data.to_yaml())


def render_usage(plain: str | None) -> str:
    """How to load the model: by this package, and, where they can, by transformers and peft alone."""
    text = """```python
import tiebreak

judge = tiebreak.Judge.load("PATH_TO_THIS_FOLDER")
judge.compare("What is 2+2?", "4", "5")
```"""
    if plain is None:
        return f"{text}\n\nThe head of this model is this package's own: plain `transformers` cannot load it."
    return f"""{text}

Without this package, the input must be the text that the model was trained on: prompt and answers in its template,
which `tiebreak.json` holds word for word. The labels are named `winner_model_a`, `winner_model_b` and `winner_tie`:

```python
{plain.strip()}
```"""


def describe_teachers(environment: dict[str, Any]) -> str:
    """The paragraphs on a student's teachers and on rows they were trained on; empty without teachers."""
    if not environment.get("teachers"):
        return ""
    lines = ["", "", f"Distilled from {', '.join(as_text(entry['name']) for entry in environment['teachers'])}."]
    if extra := environment.get("rows_extra"):
        lines[-1] += f" {extra:,} more rows were learnt from the teachers alone."
    for leak in environment["in_sample"]:
        lines += ["", f"**In-sample (`--allow-in-sample`):** {as_text(without_places(leak))}."]
    if seen := environment["held_out_rows_seen_by_teachers"]:
        lines += ["", f"The teachers were trained on the prompts of {seen:,} of the held-out rows."]
    return "\n".join(lines)


def _score_table(scores: dict[str, dict[str, float]]) -> str:
    if not scores:
        return "No rows were held out, so there is nothing to score."
    gap = "gap_closed" in scores["model"]
    lines = ["| held-out rows | log loss | accuracy | macro F1 |" + (" gap closed |" if gap else "")]
    lines.append("|---|---|---|---|" + ("---|" if gap else ""))
    for name, entry in scores.items():
        line = f"| {NAMES.get(name, 'this model')} | {entry['log_loss']:.4f} | {entry['accuracy']:.3f} "
        line += f"| {entry['macro_f1']:.3f} |"
        lines.append(line + (f" {entry['gap_closed']:.1%} |" if gap else ""))
    return "\n".join(lines)


def open_card(folder: Path) -> tuple[Path, str, str]:
    """The card of a model folder (or of the run folder above it): its path, and what stands before and after a report.

    Raises:
        UserError: no card there, one that is no text, or one that has lost its markers.
    """
    path = next((p for p in (folder / "README.md", folder / "model" / "README.md") if p.is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no README.md here or in model/; --model names a model folder or its run folder")
    try:
        text = read_bytes(path, LARGEST_CARD, "card").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text in UTF-8 ({error.reason}); put the card back") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: no {BEGIN} and {END} in it, between which the bias table goes; put them back")
    return path, before, after


def update_card(folder: Path, report: Report) -> Path:
    """Put a report's scores and bias table into the card of a model folder (or of the run folder above it).

    Raises:
        UserError: no card there, or one that has lost its markers.
    """
    path, before, after = open_card(folder)
    write_atomically(path, f"{before}{BEGIN}\n{render_bias(report)}\n{END}{after}")
    return path


def render_bias(report: Report) -> str:
    """Scores and audits of the report's only judge, as Markdown."""
    (judge,) = report.judges
    position, verbosity, repetition = judge.position, judge.verbosity, judge.repetition
    own = judge.self_enhancement and judge.self_enhancement.own_excess
    lines = [
        f"On {report.rows:,} rows of {as_code(report.labels)} ({report.prompts:,} prompts), with 95 % intervals:",
        "",
        "| | judge | people |",
        "|---|---|---|",
        f"| log loss | {number(judge.scores.log_loss, 4)} ({span(judge.scores.log_loss, 4)}) | |",
        f"| accuracy | {percent(judge.scores.accuracy, 1)} ({span(judge.scores.accuracy, 1, True)}) | |",
        f"| calibration error (ECE) | {number(judge.calibration.ece)} ({span(judge.calibration.ece)}) | |",
        f"| leans to the answer shown first, points | {_points(position.first_preference)} "
        f"| {_points(position.humans)} |",
    ]
    if position.consistency:
        shown = f"{percent(position.consistency, 1)} ({span(position.consistency, 1, True)})"
        lines.append(f"| same verdict when the answers are swapped | {shown} | |")
    if verbosity:
        judged, people = (
            f"{percent(value, 1)} ({span(value, 1, True)})" for value in (verbosity.prefers_longer, verbosity.humans)
        )
        lines.append(f"| prefers the longer answer | {judged} | {people} |")
    if own:
        lines.append(f"| own family's win rate beyond people's, points | {_points(own)} | 0 |")
    if repetition:
        gain = _points(repetition.win_gain)
        lines.append(f"| P(win) gained by saying everything twice, points | {gain} | not asked |")
    return "\n".join(lines)


def _points(value: Estimate) -> str:
    return f"{points(value.value)} ({span(value, 1, True)})"
