"""What a prediction is asked for, and whether its folder is free. Nothing here imports torch or reads a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiebreak.config import DataSettings, Recipe
from tiebreak.data.prediction_manifest import AverageManifest, PredictionManifest, read_prediction_manifest
from tiebreak.data.predictions import FORMATS
from tiebreak.errors import UserError
from tiebreak.models.folder import (
    MANIFEST_FILE,
    ModelManifest,
    check_judge,
    class_shares,
    find_model_folder,
    fingerprint,
    judge_recipe,
)
from tiebreak.plurals import plural
from tiebreak.prediction.degenerate import Degenerate, describe_source
from tiebreak.prediction.onnx_model import GRAPH_FILE
from tiebreak.prediction.swap import SwapPolicy
from tiebreak.preflight.early import refuse_absent
from tiebreak.tables.table import OnBadRow

Runtime = Literal["torch", "onnx"]
TRUNCATION = {"max_tokens", "truncation", "prompt_cap"}
"""Settings of the data that a prediction's manifest keeps."""


@dataclass(frozen=True)
class PredictionRequest:
    """The arguments of `predict`, of which `models`, `data` and `out` are whole lists and paths."""

    models: Sequence[Path]
    data: Sequence[Path]
    out: Path
    fold: tuple[int, int] | None
    swap: SwapPolicy
    degenerate: Degenerate | None
    changes: Sequence[str]
    on_bad_row: OnBadRow
    runtime: Runtime = "torch"

    @property
    def fold_text(self) -> str | None:
        """The fold as the command line has it."""
        return None if self.fold is None else "{}/{}".format(*self.fold)


@dataclass(frozen=True)
class OpenedModel:
    """A model folder that was found.

    Attributes:
        name: of the folder of its prediction, among several models; empty for one alone.
        folder: of the model. stored: its manifest. fingerprint: of its weights and manifest.
        recipe: of its training, with the changes asked for.
    """

    name: str
    folder: Path
    stored: ModelManifest
    fingerprint: str
    recipe: Recipe


def open_models(request: PredictionRequest) -> list[OpenedModel]:
    """Find the models and tables.

    Raises:
        UserError: a table that is not there, a folder without a judge, or the same model twice.
    """
    refuse_absent(request.data)
    opened = [find_model_folder(folder) for folder in request.models]
    for folder, _ in opened:
        if (folder / GRAPH_FILE).is_file() != (request.runtime == "onnx"):
            onnx = "is not an ONNX export: tiebreak export makes one, or leave out --runtime onnx"
            raise UserError(
                f"{folder} {onnx if request.runtime == 'onnx' else 'is an ONNX export: add --runtime onnx'}"
            )
    for folder, stored in opened:
        check_judge(folder)
        try:
            class_shares(stored.baselines)
        except ValueError as error:
            raise UserError(f"{folder / MANIFEST_FILE}: {error}: copy the folder again") from None
    recipes = [judge_recipe(stored, request.changes) for _, stored in opened]
    names = name_models([folder for folder, _ in opened])
    prints = [fingerprint(folder) for folder, _ in opened]
    for i, one in enumerate(prints):
        if (first := prints.index(one)) < i:
            raise UserError(f"--model: {opened[first][0]} and {opened[i][0]} are the same model; give it once")
    return [
        OpenedModel(name, folder, stored, model_print, recipe)
        for name, (folder, stored), model_print, recipe in zip(names, opened, prints, recipes, strict=True)
    ]


def name_models(folders: Sequence[Path]) -> list[str]:
    """Return distinct short names: of the run folders, with folders above where needed; empty for one alone."""
    if len(folders) == 1:
        return [""]
    runs = [folder.parent if folder.name == "model" else folder for folder in (f.resolve() for f in folders)]
    for depth in range(1, max(len(run.parts) for run in runs)):
        names = ["-".join(part for part in run.parts[-depth:] if part != "/") for run in runs]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"--model: {', '.join(map(str, folders))} are not different folders: give each once")


def truncation_of(settings: DataSettings) -> dict[str, int | str | None]:
    """The settings that a prediction's manifest keeps."""
    return settings.model_dump(include=TRUNCATION)


def refuse_to_replace(request: PredictionRequest, models: Sequence[OpenedModel]) -> None:
    """Refuse folders that hold a finished prediction of another kind, as far as their manifests show it.

    Raises:
        UserError: predictions.csv of something else, or of what is not known.
    """
    if len(models) > 1 and (found := finished_in(request.out)) is not None:
        names = [model.name for model in models]
        if isinstance(found, PredictionManifest) or set(found.models) != set(names):
            refuse(request.out, found, f"the average of {', '.join(names)}")
        if _orders(found) != _orders(request.swap):
            refuse(request.out, found, _orders(request.swap))
    for model in models:
        folder = request.out / model.name
        if (found := finished_in(folder)) is not None and (asked := _difference(found, request, model)):
            refuse(folder, found, asked)


def finished_in(folder: Path) -> PredictionManifest | AverageManifest | None:
    """Return what is finished in a prediction's folder; None if there is no table yet.

    Raises:
        UserError: there is a table, and nothing says what it predicts.
    """
    path = folder / FORMATS["kaggle"]
    if not path.is_file():
        return None
    try:
        return read_prediction_manifest(folder)
    except UserError as error:
        raise UserError(
            f"{path} is there already, and which rows it predicts is not known ({error}): "
            "choose another --out, or move it away"
        ) from None


def refuse(folder: Path, found: PredictionManifest | AverageManifest, asked: str) -> None:
    """Raise UserError: a finished prediction is not replaced by what is asked for."""
    raise UserError(
        f"{folder / FORMATS['kaggle']} is finished: {describe(found)}. This command asks for {asked}, and would "
        "replace it: choose another --out, or move that file away"
    )


def describe(found: PredictionManifest | AverageManifest) -> str:
    """Return what a finished prediction is of: rows, models, orders."""
    rows = plural(found.rows, "row")
    if isinstance(found, AverageManifest):
        return f"{rows} by the average of {', '.join(found.models)}, {_orders(found)}"
    of = f" of {', '.join(found.tables)}" if found.tables else ""
    return f"{rows}{of}{f' (fold {found.fold})' if found.fold else ''} by {found.model}, {_orders(found)}"


def _difference(
    found: PredictionManifest | AverageManifest, request: PredictionRequest, model: OpenedModel
) -> str | None:
    """Return what is asked for and is not what was found; None where the manifests show no difference."""
    if isinstance(found, AverageManifest):
        return f"one model, {model.folder}"
    if found.fingerprint != model.fingerprint:
        return f"another model, {model.folder}{' (trained since then)' * (found.model == str(model.folder))}"
    names = [path.name for path in request.data]
    if found.tables and names and found.tables != names:
        return f"another table, {', '.join(names)}"
    if found.fold != request.fold_text and not (found.version == 1 and found.fold is None):
        return f"fold {request.fold_text}" if request.fold else "all rows"
    if _orders(found) != _orders(request.swap):
        return _orders(request.swap)
    for name, value in truncation_of(model.recipe.data).items():
        if found.truncation.get(name, value) != value:
            return f"another setting, data.{name}={value} (it was {found.truncation[name]})"
    special = None if request.degenerate is None else describe_source(request.degenerate)
    if special != (found.degenerate and found.degenerate.source):
        return f"--special {special}" if special else "no --special"
    return None


def _orders(of: PredictionManifest | AverageManifest | SwapPolicy) -> str:
    enabled, margin = (of.enabled, of.margin) if isinstance(of, SwapPolicy) else (of.swap, of.adaptive)
    close = f" where the two likeliest classes are less than {margin} apart" if margin is not None else ""
    return f"both answer orders{close}" if enabled else "one answer order"
