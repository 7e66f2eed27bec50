"""A ladder: one change after another, each trained and scored on the same held-out rows, in one table."""

import argparse
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from tiebreak.config import RECIPES, Recipe, Section, load_recipe
from tiebreak.data.folds import parse_fold
from tiebreak.data.predictions import read_predictions
from tiebreak.data.table import read_table
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import scores
from tiebreak.evaluation.scores import losses
from tiebreak.files import write_json
from tiebreak.pipeline.recipe import Trained
from tiebreak.pipeline.stages import Stage, run_stage
from tiebreak.recipe_files import find_recipe, read_recipe_file, validate
from tiebreak.sample.generator import sample_file

LADDERS = RECIPES / "ladders"
HELD_OUT, RESULTS = "held-out", "metrics.json"
SAME = ("folds_seed", "sample_rows", "sample_profile")
"""Settings of the data that decide which rows are held out."""


class Ladder(Section):
    description: str = ""
    """What is compared, in whole sentences."""
    rungs: dict[Annotated[str, Field(pattern=r"^[\w., -]+$")], Trained] = Field(min_length=2)
    """By name, in order; each is a change of the one before."""


def run_ablation(options: argparse.Namespace) -> int:
    """Train every rung, predict what all held out, and print the table; returns the exit code.

    Leaves `N-NAME/` (a run folder, its `held-out/` the prediction) for each rung, and `metrics.json`. A second call
    goes on where the first ended.
    """
    parse_fold(options.fold)
    rungs, out = load_ladder(options.ladder).rungs, Path(options.out)
    changes = [word for change in options.set for word in ("--set", change)]
    recipe = same_rows({name: load_recipe(rung.recipe, [*rung.set, *options.set]) for name, rung in rungs.items()})
    files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
    labels = {pair.id: pair.label for pair in read_table(files, options.on_bad_row, need_labels=True).pairs}
    rows = ["--data", *map(str, files), "--on-bad-row", options.on_bad_row, "--fold", options.fold]
    engine = ["--ds", str(options.ds)] if options.ds else ["--engine", options.engine]
    found: dict[str, dict[str, Any]] = {}
    before: np.ndarray | None = None
    for k, (name, rung) in enumerate(rungs.items()):
        folder = out / f"{k}-{name.replace(',', '').replace(' ', '-')}"
        words = ["train", *rung.words, *changes, *engine, *rows, "--out", str(folder), "--resume", "auto"]
        run_stage(Stage(name, words, folder / RESULTS, gpu=True), options.launch)
        done = folder / HELD_OUT / "predictions.csv"
        words = ["predict", "--model", str(folder), *rows, "--out", str(done.parent)]
        run_stage(Stage(f"{name}, {HELD_OUT}", words, done, gpu=True), options.launch)
        ids, probabilities = read_predictions(done)
        truth = np.array([labels[name] for name in ids])
        if k == 0:
            validation = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["validation"]
            found |= {line: validation[line] for line in ("prior", "length")}
        now = losses(probabilities, truth)
        found[name] = scores(probabilities, truth) | describe(folder) | compare(now, before)
        before = now
    write_json(out / RESULTS, {"fold": options.fold, "rungs": found})
    print(render(found))
    return 0


def load_ladder(name_or_path: str) -> Ladder:
    """A shipped ladder by name or a YAML file by path.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    path = find_recipe(name_or_path, LADDERS, "ladder")
    return validate(Ladder, read_recipe_file(path, Ladder), path.stem)


def same_rows(recipes: dict[str, Recipe]) -> Recipe:
    """The first of the rungs' recipes.

    Raises:
        UserError: rungs that would hold out other rows.
    """
    first, *others = recipes
    for name in others:
        for field in SAME:
            wanted = getattr(recipes[first].data, field)
            if getattr(recipes[name].data, field) != wanted:
                raise UserError(
                    f"rung {name}: data.{field} differs from that of {first} ({wanted}): all rungs must hold out the "
                    "same rows"
                )
    return recipes[first]


def describe(folder: Path) -> dict[str, float]:
    """A run's best step and the minutes that its steps took."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = {record["step"]: record["seconds"] for record in records if "loss" in record}
    best = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["best_step"]
    return {"best_step": best, "minutes": sum(seconds.values()) / 60}


def compare(losses: np.ndarray, before: np.ndarray | None) -> dict[str, float]:
    """How much the mean loss over rows (n,) changed from the rung before, and the standard error of that."""
    if before is None:
        return {}
    change = losses - before
    return {"change": float(change.mean()), "error": float(change.std(ddof=1) / np.sqrt(len(change)))}


def render(found: dict[str, dict[str, Any]]) -> str:
    """The comparison as a table in plain text."""
    width = max(map(len, found)) + 2
    lines = [
        f"{'':{width}}{'log loss':>9}{'change':>18}{'accuracy':>10}{'macro F1':>10}{'best step':>11}{'minutes':>9}"
    ]
    for name, row in found.items():
        change = f"{row['change']:+.4f} ± {row['error']:.4f}" if "change" in row else ""
        line = f"{name:{width}}{row['log_loss']:>9.4f}{change:>18}{row['accuracy']:>10.3f}{row['macro_f1']:>10.3f}"
        trained = f"{row['best_step']:>11,}{row['minutes']:>9.1f}" if "minutes" in row else ""
        lines.append(line + trained)
    return "\n".join(lines)
