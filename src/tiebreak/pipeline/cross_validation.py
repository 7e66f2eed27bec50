"""k-fold cross-validation: a judge for each fold, and for every row the prediction of one that never saw its prompt."""

import argparse
from pathlib import Path

import numpy as np

from tiebreak.config import load_recipe
from tiebreak.data.predictions import read_predictions, write_predictions
from tiebreak.data.table import read_table
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import scores
from tiebreak.files import write_json
from tiebreak.pipeline.stages import Stage, run_stage
from tiebreak.sample.generator import sample_file

OUT_OF_FOLD = "oof"


def cross_validate(options: argparse.Namespace) -> int:
    """Train and predict each fold, then join the out-of-fold predictions; returns the exit code.

    Leaves `fold-K/` (a run folder, its `oof/` the prediction of the rows it held out), `predictions.csv` for all
    labelled rows in the table's order, and `metrics.json`. A second call goes on where the first ended.
    """
    if options.folds < 2:
        raise UserError(f"--folds {options.folds}: at least 2")
    recipe, out = load_recipe(options.recipe, options.set), Path(options.out)
    files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
    pairs = read_table(files, options.on_bad_row, need_labels=True).pairs
    tables = ["--data", *map(str, files), "--on-bad-row", options.on_bad_row]
    model = ["--model", options.model] if options.model else []
    engine = ["--ds", str(options.ds)] if options.ds else ["--engine", options.engine]
    training = ["--recipe", options.recipe, *model, *engine]
    training += [word for change in options.set for word in ("--set", change)]
    stages = fold_stages("", out, options.folds, training, tables, ["--swap"] if options.swap else [])
    for stage in stages:
        run_stage(stage, options.launch)
    parts = [read_predictions(stage.done) for stage in stages[1::2]]
    labels = {pair.id: pair.label for pair in pairs if pair.label is not None}
    ids, probabilities = join(list(labels), parts)
    truth = np.array([labels[name] for name in ids])
    write_predictions(out / "predictions.csv", ids, probabilities)
    rows = {f"fold {k}": _scores(part, labels) for k, part in enumerate(parts)}
    rows["all"] = scores(probabilities, truth)
    write_json(out / "metrics.json", {"folds": options.folds, "out_of_fold": rows})
    print(f"{'':8}{'rows':>8}{'log loss':>10}{'accuracy':>10}{'macro F1':>10}")
    for name, row in rows.items():
        print(f"{name:8}{row['rows']:>8,}{row['log_loss']:>10.4f}{row['accuracy']:>10.3f}{row['macro_f1']:>10.3f}")
    print(f"out-of-fold predictions: {out / 'predictions.csv'}; teachers for distill: {out}/fold-*/{OUT_OF_FOLD}")
    return 0


def fold_stages(
    prefix: str, out: Path, folds: int, training: list[str], rows: list[str], swap: list[str], needs: tuple = ()
) -> list[Stage]:
    """For each fold its training, without the held-out rows, and the prediction of these.

    Args:
        prefix: of the stages' names. training: words that say what is trained. rows: that say on which tables.
        needs: names of the stages before the trainings.
    """
    stages = []
    for fold in range(folds):
        name, folder = f"fold-{fold}", out / f"fold-{fold}"
        held_out, oof = ["--fold", f"{fold}/{folds}"], folder / OUT_OF_FOLD
        words = ["train", *training, *rows, *held_out, "--out", str(folder), "--resume", "auto"]
        stages.append(Stage(prefix + name, words, folder / "metrics.json", needs, gpu=True))
        words = ["predict", "--model", str(folder), *rows, *held_out, *swap, "--out", str(oof)]
        done = oof / "predictions.csv"
        stages.append(Stage(f"{prefix}{name}/{OUT_OF_FOLD}", words, done, (prefix + name,), gpu=True))
    return stages


def join(ids: list[str], parts: list[tuple[list[str], np.ndarray]]) -> tuple[list[str], np.ndarray]:
    """The folds' predictions in the order of `ids`.

    Raises:
        UserError: an id without a prediction, with two, or of another table.
    """
    found: dict[str, np.ndarray] = {}
    twice = []
    for names, probabilities in parts:
        twice += [name for name in names if name in found]
        found.update(zip(names, probabilities, strict=True))
    absent, foreign = [name for name in ids if name not in found], sorted(found.keys() - set(ids))
    if twice or absent or foreign:
        raise UserError(
            f"out-of-fold predictions do not fit the table: {len(absent)} ids without one {absent[:5]}, "
            f"{len(twice)} with two {twice[:5]}, {len(foreign)} of another table {foreign[:5]}; "
            "predict these folds again into an empty --out"
        )
    return ids, np.stack([found[name] for name in ids])


def _scores(part: tuple[list[str], np.ndarray], labels: dict[str, int]) -> dict[str, float]:
    names, probabilities = part
    return scores(probabilities, np.array([labels[name] for name in names]))
