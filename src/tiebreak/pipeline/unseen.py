"""Validation on what training has not seen: model families held out whole, with a control, or later rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.config import load_recipe
from tiebreak.data.encode import prompt_group
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.holdout import SplitBy
from tiebreak.evaluation.metrics import grouped_error, row_losses
from tiebreak.evaluation.split_tables import SplitTables, default_fold, split_tables
from tiebreak.files import write_json
from tiebreak.outputs import refuse_foreign
from tiebreak.pipeline.commands import StageCommands, predict_tables
from tiebreak.pipeline.recipe import Trained
from tiebreak.pipeline.stages import Stage, run_stage, with_records
from tiebreak.preflight.early import refuse_absent, refuse_training
from tiebreak.sample.generator import sample_file
from tiebreak.tables.table import OnBadRow, read_table
from tiebreak.terminal import say


@dataclass(frozen=True)
class UnseenScores:
    """Log losses on the held-out rows of a fold, or of all.

    Attributes:
        rows: held out.
        log_loss: of the judge that was not trained on their families, or not on later rows.
        control: of the judge trained on as many rows of any family; None for a split by time.
        difference: what the families cost: `log_loss` less `control`. se: its standard error, by prompt group.
        seen: log loss of the judge on rows of families that it was trained on; other rows, so for scale alone.
    """

    rows: int
    log_loss: float
    control: float | None = None
    difference: float | None = None
    se: float | None = None
    seen: float | None = None


@dataclass(frozen=True)
class UnseenValidation:
    """Scores by fold, and of `all` held-out rows together.

    Attributes:
        by: `models` or `time`.
        scores: by name of the fold.
        path: of the same as JSON.
    """

    by: str
    scores: dict[str, UnseenScores]
    path: Path

    def __str__(self) -> str:
        lines = [f"{'':8}{'rows':>8}{'unseen':>10}{'control':>10}{'difference':>20}{'seen':>10}"]
        for name, one in self.scores.items():
            difference = "" if one.difference is None else f"{one.difference:+.4f} ± {one.se:.4f}"
            control, seen = ("" if value is None else f"{value:.4f}" for value in (one.control, one.seen))
            lines.append(f"{name:8}{one.rows:>8,}{one.log_loss:>10.4f}{control:>10}{difference:>20}{seen:>10}")
        return "\n".join([*lines, f"log losses; {self.path}"])


def validate_on_unseen(
    recipe: str,
    out: Path,
    *,
    by: SplitBy = "models",
    data: Sequence[Path] = (),
    folds: int = 5,
    changes: Sequence[str] = (),
    base: str | None = None,
    swap: bool = False,
    engine: str = "auto",
    ds: Path | None = None,
    on_bad_row: OnBadRow = "fail",
    launch: str = "",
) -> UnseenValidation:
    """Train and predict each fold of a split by models or time; a second call goes on where the first ended.

    By models, a control is trained for each fold, on as many rows of any family, and predicts the same held-out rows:
    the difference is what it costs not to know the families, at the same size of the training.

    Args:
        recipe: a shipped recipe or a YAML file.
        out: gets `split-K/` with the tables, `fold-K/` and `control-K/` with the runs, and `metrics.json`.
        by: `models` or `time`.
        data: labelled tables; none means the embedded sample.
        folds: sets of families, or blocks of time, of which the first is only trained on.
        changes: of the recipe, each `key.path=value`.
        base: a local model folder or hub name in place of the recipe's.
        swap: predict in both answer orders.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
        on_bad_row: `fail` or `skip`.
        launch: launcher of the trainings and predictions.

    Raises:
        UserError: tables that cannot be split so.
        StageFailed: a training or a prediction did not finish.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: give at least 2")
    refuse_foreign(out)
    settings = load_recipe(recipe, changes, base)
    refuse_training(settings, data=data, engine=engine, ds=ds)
    files, trained = tuple(data) or (sample_file(settings.data),), Trained(recipe=recipe, set=list(changes), model=base)
    parts = {}
    for k in range(by == "time", folds):
        tables = split_tables(files, out / f"split-{k}", by, (k, folds), on_bad_row=on_bad_row)
        tested = {}
        for name, table in (("fold", tables.train), ("control", tables.control)):
            if table is not None:
                words = StageCommands((table,), on_bad_row, engine, ds)
                tested[name] = _run(words, trained, tables, out / f"{name}-{k}", swap, launch)
        parts[f"fold {k}"] = _losses(tables, tested)
    scores = {name: _score(part) for name, part in parts.items()}
    scores["all"] = _score(
        {name: np.concatenate([p[name] for p in parts.values()]) for name in next(iter(parts.values()))}
    )
    write_json(out / "metrics.json", {"by": by, "folds": {name: vars(one) for name, one in scores.items()}})
    return UnseenValidation(by, scores, out / "metrics.json")


def split_for_pipeline(
    data: Sequence[Path],
    test: Path | None,
    out: Path,
    by: SplitBy,
    fold: tuple[int, int] | None = None,
    on_bad_row: OnBadRow = "fail",
) -> tuple[list[Path], Path]:
    """The table to train on and the one to predict, of a pipeline that splits its own data.

    Raises:
        UserError: a test table beside the split, or no data.
    """
    if test is not None or not data:
        raise UserError("--split takes the test table from --data: give --data, and no --test")
    refuse_absent(data)
    tables = split_tables(data, out / "split", by, fold or default_fold(by), on_bad_row=on_bad_row)
    say(tables.manifest)
    return [tables.train], tables.test


def _run(words: StageCommands, trained: Trained, tables: SplitTables, folder: Path, swap: bool, launch: str) -> Path:
    """Train a judge and predict the split's test table; the predictions' path."""
    train = [*words.train(trained, folder), "--valid", str(tables.held_out)]
    predict = predict_tables([folder], [tables.test], folder / "test", swap)
    done = folder / "test" / "predictions.csv"
    trained_first = Stage(folder.name, train, folder / "metrics.json", gpu=True)
    predicted = Stage(f"{folder.name}/test", predict, done, (folder.name,), gpu=True)
    for stage in with_records([trained_first, predicted], folder.parent):
        run_stage(stage, launch)
    return done


def _losses(tables: SplitTables, tested: dict[str, Path]) -> dict[str, np.ndarray]:
    """Losses of held-out rows by judge, those of seen rows, and the held-out rows' prompt groups."""
    pairs = read_table([tables.test], keep_ids=True).pairs
    labels = np.array([pair.label for pair in pairs])
    count = tables.manifest.rows["held_out"]
    found: dict[str, np.ndarray] = {}
    for name, path in tested.items():
        by_id = dict(zip(*read_predictions(path), strict=True))
        losses = row_losses(np.stack([by_id[pair.id] for pair in pairs]), labels)
        found |= {name: losses[:count]} | ({"seen": losses[count:]} if name == "fold" else {})
    return found | {"groups": np.array([prompt_group(pair.prompt) for pair in pairs[:count]], dtype=np.int64)}


def _score(part: dict[str, np.ndarray]) -> UnseenScores:
    losses, seen = part["fold"], float(part["seen"].mean()) if len(part["seen"]) else None
    if "control" not in part:
        return UnseenScores(len(losses), float(losses.mean()), seen=seen)
    difference = losses - part["control"]
    se = grouped_error(difference, part["groups"])
    return UnseenScores(
        len(losses), float(losses.mean()), float(part["control"].mean()), float(difference.mean()), se, seen
    )
