"""The page: one self-contained index.html."""

import base64
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiebreak.evaluation.schema import JudgeReport, Report, Slice
from tiebreak.evaluation.wording import NAMES, degrees, number, percent, points, span
from tiebreak.files import write_atomically
from tiebreak.labels import CLASS_NAMES
from tiebreak.report.coverage import agreement_at
from tiebreak.report.plots import SERIES, Plot
from tiebreak.report.words import PUBLISHED
from tiebreak.tables.rows import Pair

SHOWN_CHARS = {"prompt": 900, "answer": 1_400, "opening": 90}


def write_page(path: Path, report: Report, plots: Sequence[Plot], plot_folder: Path, pairs: list[Pair] | None) -> None:
    """Write the report as one HTML page.

    Args:
        path: of the HTML file.
        report: to show.
        plots: already drawn into `plot_folder`.
        plot_folder: with the plots' images, which the page embeds.
        pairs: of the report's rows, for the examples.
    """
    write_atomically(path, fill_template("page.html.j2", context(report, plots, plot_folder, pairs)))


def fill_template(name: str, values: dict[str, Any]) -> str:
    """The page of a template beside this file; what is filled in is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tiebreak.report", ""),
        autoescape=True,  # answers are untrusted HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(values)


def context(report: Report, plots: Sequence[Plot], plot_folder: Path, pairs: list[Pair] | None) -> dict[str, Any]:
    """Collect what the template is filled with."""
    judges = report.judges
    return {
        "report": report,
        "title": title(report),
        "made_up": made_up(report),
        "one_order": [judge.name for judge in judges if not judge.position.both_orders],
        "figures": {plot.name: embed(plot, plot_folder) for plot in plots},
        "curves": [plot.name for plot in plots if plot.name.startswith("curve-")],
        "examples": examples(judges, pairs) if pairs else [],
        "agreement": agreement(report),
        "colour_of": {judge.name: i % len(SERIES["light"]) for i, judge in enumerate(judges)},
        "any_orders": any(judge.position.both_orders for judge in judges),
        "any_verbosity": any(judge.verbosity for judge in judges),
        "any_families": any(judge.self_enhancement for judge in judges),
        "any_repetition": any(judge.repetition for judge in judges),
        "any_edits": any(judge.edits for judge in judges),
        "slice_index": slice_index,
        "agreement_at": agreement_at,
        "classes": CLASS_NAMES,
        "names": NAMES,
        "series": SERIES,
        "published": {} if made_up(report) else PUBLISHED,
        "number": number,
        "degrees": degrees,
        "percent": percent,
        "points": points,
        "span": span,
    }


def made_up(report: Report) -> bool:
    """Whether the table is the embedded sample, with which published values have nothing to do."""
    return "bayes" in report.baselines


def title(report: Report) -> str:
    """The one thing to take away."""
    if not report.judges:
        return "Training curves"
    best = min(report.judges, key=lambda judge: judge.scores.log_loss.value)
    right = percent(best.scores.accuracy)
    if len(report.judges) == 1:
        return f"{best.name} agrees with people on {right} of comparisons"
    start = f"Of {len(report.judges)} judges, {best.name} has the lowest log loss"
    if best.scores.gap_closed:
        way = percent(best.scores.gap_closed)
        return f"{start}: {way} of the way from the class shares to the best that anyone can know"
    return f"{start} and agrees with people {right} of the time"


def embed(plot: Plot, folder: Path) -> dict[str, Any]:
    """A plot's two images as data URIs, with its size in CSS pixels (half of its own)."""
    images = {theme: (folder / f"{plot.name}{suffix}.png").read_bytes() for theme, suffix in SUFFIXES.items()}
    width, height = struct.unpack(">II", images["light"][16:24])  # of the PNG's header
    uris = {theme: f"data:image/png;base64,{base64.b64encode(data).decode()}" for theme, data in images.items()}
    return {"title": plot.title, "alt": plot.alt, "width": width // 2, "height": height // 2} | uris


SUFFIXES = {"light": "", "dark": "-dark"}


def examples(judges: Sequence[JudgeReport], pairs: list[Pair]) -> list[dict[str, Any]]:
    """Collect the texts of each judge's most confident mistakes, cut to a readable length."""
    mistaken = {mistake.id for judge in judges for mistake in judge.mistakes}
    by_id = {pair.id: pair for pair in pairs if pair.id in mistaken}
    shown = []
    for judge in judges:
        mistakes = []
        for mistake in judge.mistakes:
            pair = by_id[mistake.id]
            texts = {
                "prompt": cut(pair.prompt, SHOWN_CHARS["prompt"]),
                "opening": cut([" ".join(pair.prompt[0].split())], SHOWN_CHARS["opening"]) or "(no prompt)",
                "a": cut(pair.response_a, SHOWN_CHARS["answer"]) or "(empty)",
                "b": cut(pair.response_b, SHOWN_CHARS["answer"]) or "(empty)",
            }
            mistakes.append(mistake.model_dump() | texts | {"model_a": pair.model_a, "model_b": pair.model_b})
        if mistakes:
            shown.append({"name": judge.name, "mistakes": mistakes})
    return shown


def cut(turns: Sequence[str], most: int) -> str:
    """Join the turns to one text, numbered if there are several, and cut at `most` characters."""
    text = turns[0] if len(turns) == 1 else "\n\n".join(f"[{number}] {turn}" for number, turn in enumerate(turns, 1))
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def agreement(report: Report) -> list[list[float]]:
    """Compute the share of equal verdicts of each judge with each."""
    shares = {(pair.first, pair.second): pair.agreement.value for pair in report.pairs}
    names = [judge.name for judge in report.judges]
    return [[shares.get((a, b), shares.get((b, a), 1.0)) for b in names] for a in names]


def slice_index(judge: JudgeReport, like: Slice) -> int:
    """Find the place of a slice of this kind and name among a judge's own."""
    return next(i for i, entry in enumerate(judge.slices) if (entry.by, entry.name) == (like.by, like.name))
