"""k-fold cross-validation: a judge for each fold, and for every row the prediction of one that never saw its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.config import load_recipe
from tiebreak.data.predictions import read_predictions, write_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import scores
from tiebreak.files import write_json
from tiebreak.outputs import refuse_foreign
from tiebreak.pipeline.commands import StageCommands
from tiebreak.pipeline.recipe import Trained
from tiebreak.pipeline.stages import Stage, run_stage, with_records
from tiebreak.plurals import plural
from tiebreak.preflight.early import refuse_training
from tiebreak.sample.generator import sample_file
from tiebreak.tables.table import OnBadRow, read_table

OUT_OF_FOLD = "oof"


@dataclass(frozen=True)
class CrossValidation:
    """Out-of-fold predictions of a table.

    Attributes:
        ids: of all labelled rows, in the table's order.
        probabilities: (n, 3), in the same order.
        scores: figures of each fold (`fold 0`, ...) and of `all` rows.
        path: of the predictions as CSV.
    """

    ids: list[str]
    probabilities: np.ndarray
    scores: dict[str, dict[str, float]]
    path: Path

    def __str__(self) -> str:
        lines = [f"{'':8}{'rows':>8}{'log loss':>10}{'accuracy':>10}{'macro F1':>10}"]
        lines += [
            f"{name:8}{row['rows']:>8,}{row['log_loss']:>10.4f}{row['accuracy']:>10.3f}{row['macro_f1']:>10.3f}"
            for name, row in self.scores.items()
        ]
        teachers = f"{self.path.parent}/fold-*/{OUT_OF_FOLD}"
        return "\n".join([*lines, f"out-of-fold predictions: {self.path}; teachers for distill: {teachers}"])


@dataclass(frozen=True)
class FoldStages:
    """The two stages of a fold: the training without its rows, and their prediction."""

    train: Stage
    predict: Stage


def cross_validate(
    recipe: str,
    out: Path,
    *,
    data: Sequence[Path] = (),
    folds: int = 5,
    changes: Sequence[str] = (),
    base: str | None = None,
    swap: bool = False,
    engine: str = "auto",
    ds: Path | None = None,
    on_bad_row: OnBadRow = "fail",
    launch: str = "",
) -> CrossValidation:
    """Train and predict each fold, then join the out-of-fold predictions.

    Leaves `fold-K/` (a run folder, its `oof/` the prediction of the rows it held out), `predictions.csv` for all
    labelled rows in the table's order, and `metrics.json`. A second call goes on where the first ended.

    Args:
        recipe: a shipped recipe or a YAML file.
        out: folder of the runs.
        data: labelled tables; none means the embedded sample.
        folds: number of folds, at least 2.
        changes: of the recipe, each `key.path=value`.
        base: a local model folder or hub name in place of the recipe's.
        swap: predict in both answer orders.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
        on_bad_row: `fail` or `skip`.
        launch: launcher of the trainings and predictions.

    Raises:
        UserError: faulty arguments or tables, or predictions that do not fit the table.
        StageFailed: a training or a prediction did not finish.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: give at least 2")
    refuse_foreign(out)
    settings = load_recipe(recipe, changes, base)
    refuse_training(settings, data=data, engine=engine, ds=ds)
    files = tuple(data) or (sample_file(settings.data),)
    pairs = read_table(files, on_bad_row, need_labels=True).pairs
    commands = StageCommands(files, on_bad_row, engine, ds)
    stages = fold_stages(commands, Trained(recipe=recipe, set=list(changes), model=base), out, folds, swap)
    for fold in stages:
        run_stage(fold.train, launch)
        run_stage(fold.predict, launch)
    parts = [read_predictions(fold.predict.done) for fold in stages]
    labels = {pair.id: pair.label for pair in pairs if pair.label is not None}
    ids, probabilities = join(list(labels), parts)
    write_predictions(out / "predictions.csv", ids, probabilities)
    rows = {f"fold {index}": _scores(part, labels) for index, part in enumerate(parts)}
    rows["all"] = _scores((ids, probabilities), labels)
    write_json(out / "metrics.json", {"folds": folds, "out_of_fold": rows})
    return CrossValidation(ids, probabilities, rows, out / "predictions.csv")


def fold_stages(
    commands: StageCommands,
    trained: Trained,
    out: Path,
    folds: int,
    swap: bool,
    prefix: str = "",
    needs: tuple[str, ...] = (),
) -> list[FoldStages]:
    """The stages of each fold.

    Args:
        commands: with the tables and the engine.
        trained: what is trained in every fold.
        out: gets the folders `fold-K/`.
        folds: how many.
        swap: predict in both answer orders.
        prefix: of the stages' names.
        needs: names of the stages before the trainings.
    """
    stages = []
    for index in range(folds):
        fold, name, folder = f"{index}/{folds}", f"{prefix}fold-{index}", out / f"fold-{index}"
        train = Stage(name, commands.train(trained, folder, fold), folder / "metrics.json", needs, gpu=True)
        words = commands.predict_fold(folder, fold, folder / OUT_OF_FOLD, swap)
        done = folder / OUT_OF_FOLD / "predictions.csv"
        predict = Stage(f"{name}/{OUT_OF_FOLD}", words, done, (name,), gpu=True)
        stages.append(FoldStages(*with_records([train, predict], out)))
    return stages


def join(ids: list[str], parts: Sequence[tuple[list[str], np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """The folds' predictions in the order of `ids`.

    Raises:
        UserError: an id without a prediction, with two, or of another table.
    """
    by_id: dict[str, np.ndarray] = {}
    twice = []
    for part_ids, probabilities in parts:
        twice += [row_id for row_id in part_ids if row_id in by_id]
        by_id.update(zip(part_ids, probabilities, strict=True))
    absent, foreign = [row_id for row_id in ids if row_id not in by_id], sorted(by_id.keys() - set(ids))
    if twice or absent or foreign:
        raise UserError(
            f"out-of-fold predictions do not fit the table: {plural(len(absent), 'id')} without one {absent[:5]}, "
            f"{len(twice)} with two {twice[:5]}, {len(foreign)} of another table {foreign[:5]}; "
            "predict these folds again into an empty --out"
        )
    return ids, np.stack([by_id[row_id] for row_id in ids])


def _scores(part: tuple[list[str], np.ndarray], labels: dict[str, int]) -> dict[str, float]:
    ids, probabilities = part
    return scores(probabilities, np.array([labels[row_id] for row_id in ids]))
