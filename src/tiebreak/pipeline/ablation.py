"""An ablation: variants of a judge trained and scored on the same held-out rows, each compared with the one before."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AliasChoices, Field

from tiebreak.config import Recipe, Section, load_recipe
from tiebreak.data.folds import parse_fold
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import row_losses, scores
from tiebreak.files import write_json
from tiebreak.outputs import refuse_foreign
from tiebreak.pipeline.commands import StageCommands
from tiebreak.pipeline.recipe import Trained
from tiebreak.pipeline.stages import Stage, run_stage, with_records
from tiebreak.preflight.early import refuse_training
from tiebreak.recipe_files import FOLDERS, find_recipe, read_recipe_file, validate
from tiebreak.sample.generator import sample_file
from tiebreak.tables.table import OnBadRow, read_table

LADDERS = FOLDERS["ladder"]
HELD_OUT, RESULTS = "held-out", "metrics.json"
DECIDE_HELD_OUT = ("folds_seed", "sample_rows", "sample_profile")
"""Settings of the data that decide which rows are held out."""


class Ablation(Section):
    """An ablation as its YAML file has it."""

    description: str = ""
    """What is compared, in whole sentences."""
    variants: dict[Annotated[str, Field(pattern=r"^[\w., -]{1,100}$")], Trained] = Field(
        min_length=2, max_length=100, validation_alias=AliasChoices("rungs", "variants")
    )
    """By name, in order; each is a change of the one before."""


@dataclass(frozen=True)
class AblationResult:
    """Scores of the baselines and of every variant on the rows of one fold.

    Attributes:
        fold: K/N.
        rows: figures by the name of a baseline or variant; `change` is the mean difference in log loss from the
            variant before, over the same rows, and `error` its standard error.
    """

    fold: str
    rows: dict[str, dict[str, float]]

    def __str__(self) -> str:
        width = max(map(len, self.rows)) + 2
        head = f"{'log loss':>9}{'change':>18}{'accuracy':>10}{'macro F1':>10}{'best step':>11}{'minutes':>9}"
        lines = [" " * width + head]
        for name, row in self.rows.items():
            change = f"{row['change']:+.4f} ± {row['error']:.4f}" if "change" in row else ""
            line = f"{name:{width}}{row['log_loss']:>9.4f}{change:>18}{row['accuracy']:>10.3f}{row['macro_f1']:>10.3f}"
            lines.append(line + (f"{row['best_step']:>11,}{row['minutes']:>9.1f}" if "minutes" in row else ""))
        return "\n".join(lines)


def run_ablation(
    name_or_path: str,
    out: Path,
    *,
    data: Sequence[Path] = (),
    fold: str = "0/5",
    changes: Sequence[str] = (),
    engine: str = "auto",
    ds: Path | None = None,
    on_bad_row: OnBadRow = "fail",
    launch: str = "",
) -> AblationResult:
    """Train every variant and predict the rows that all of them held out.

    Leaves `N-NAME/` (a run folder, its `held-out/` the prediction) for each variant, and `metrics.json`. A second call
    goes on where the first ended.

    Args:
        name_or_path: a shipped ablation or a YAML file.
        out: folder of the runs.
        data: labelled tables; none means the embedded sample.
        fold: K/N, held out by every variant.
        changes: of every variant's recipe, each `key.path=value`.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
        on_bad_row: `fail` or `skip`.
        launch: launcher of the trainings and predictions.

    Raises:
        UserError: a faulty file, or variants that would hold out different rows.
        StageFailed: a training or a prediction did not finish.
    """
    parse_fold(fold)
    refuse_foreign(out)
    variants = {
        name: variant.model_copy(update={"set": [*variant.set, *changes]})
        for name, variant in load_ablation(name_or_path).variants.items()
    }
    recipes = {name: load_recipe(each.recipe, each.set, each.model) for name, each in variants.items()}
    recipe = check_same_rows(recipes)
    for each in recipes.values():
        refuse_training(each, data=data, engine=engine, ds=ds)
    files = tuple(data) or (sample_file(recipe.data),)
    labels = {pair.id: pair.label for pair in read_table(files, on_bad_row, need_labels=True).pairs}
    commands = StageCommands(files, on_bad_row, engine, ds)
    rows: dict[str, dict[str, float]] = {}
    before: np.ndarray | None = None
    for index, (name, variant) in enumerate(variants.items()):
        folder = out / f"{index}-{folder_name(name)}"
        done = folder / HELD_OUT / "predictions.csv"
        train = Stage(name, commands.train(variant, folder, fold), folder / RESULTS, gpu=True)
        words = commands.predict_fold(folder, fold, done.parent)
        for stage in with_records([train, Stage(f"{name}, {HELD_OUT}", words, done, (name,), gpu=True)], out):
            run_stage(stage, launch)
        ids, probabilities = read_predictions(done)
        truth = np.array([labels[row_id] for row_id in ids])
        if not rows:
            validation = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["validation"]
            rows |= {baseline: validation[baseline] for baseline in ("prior", "length")}
        own = row_losses(probabilities, truth)
        rows[name] = scores(probabilities, truth) | read_effort(folder) | compare(own, before)
        before = own
    write_json(out / RESULTS, {"fold": fold, "rungs": rows})
    return AblationResult(fold, rows)


def load_ablation(name_or_path: str) -> Ablation:
    """A shipped ablation by name or a YAML file by path.

    Raises:
        UserError: naming every unknown field and every value out of range.
    """
    path = find_recipe(name_or_path, "ladder")
    where = path.stem if path.parent == LADDERS else str(path)
    ablation = validate(Ablation, read_recipe_file(path, Ablation), where)
    folders: dict[str, str] = {}
    for name in ablation.variants:
        if other := folders.get(folder_name(name).casefold()):
            raise UserError(f"{where}: the rungs {other!r} and {name!r} would share a folder: rename one")
        folders[folder_name(name).casefold()] = name
    return ablation


def folder_name(variant: str) -> str:
    """A variant's name in that of its folder."""
    return variant.replace(",", "").replace(" ", "-")


def check_same_rows(recipes: dict[str, Recipe]) -> Recipe:
    """The first of the variants' recipes.

    Raises:
        UserError: variants that would hold out different rows.
    """
    first, *others = recipes
    for name in others:
        for field in DECIDE_HELD_OUT:
            expected = getattr(recipes[first].data, field)
            if getattr(recipes[name].data, field) != expected:
                raise UserError(
                    f"variant {name}: data.{field} differs from that of {first} ({expected}), but all variants must "
                    "hold out the same rows: set it alike in all"
                )
    return recipes[first]


def read_effort(folder: Path) -> dict[str, float]:
    """A run's best step and the minutes that its steps took."""
    seconds: dict[int, float] = {}
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):  # a damaged line costs its time
            record = json.loads(line)
            if "loss" in record:
                seconds[int(record["step"])] = float(record["seconds"])
    best = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["best_step"]
    return {"best_step": best, "minutes": sum(seconds.values()) / 60}


def compare(losses: np.ndarray, before: np.ndarray | None) -> dict[str, float]:
    """Mean change of the log loss of rows (n,) from the variant before, and its standard error."""
    if before is None:
        return {}
    change = losses - before
    return {"change": float(change.mean()), "error": float(change.std(ddof=1) / np.sqrt(len(change)))}
