"""What a sweep is asked to do, checked before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tiebreak.config import Recipe, load_recipe
from tiebreak.data.folds import parse_fold
from tiebreak.errors import UserError
from tiebreak.files import sha256
from tiebreak.manifests import read_manifest
from tiebreak.outputs import refuse_foreign
from tiebreak.pipeline.commands import as_word
from tiebreak.pipeline.sweep_record import RECORD, SweepRecord
from tiebreak.pipeline.sweep_space import Space, import_optuna, load_space
from tiebreak.preflight.early import refuse_training
from tiebreak.tables.table import OnBadRow


@dataclass(frozen=True)
class Sweep:
    """What a sweep is asked to do.

    Attributes:
        words: of its command, which the commands of its stages repeat.
        space: what varies.
        recipe: what all trials start from.
        out: its folder.
        data: labelled tables.
        fold: K/N, held out by every trial.
        on_bad_row: `fail` or `skip`.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
    """

    words: list[str]
    space: Space
    recipe: Recipe
    out: Path
    data: tuple[Path, ...]
    fold: str
    on_bad_row: OnBadRow
    engine: str
    ds: Path | None

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """All (wave, rung), in the order in which they are decided."""
        return [(wave, rung) for wave in range(len(self.space.waves)) for rung in range(self.space.rungs)]

    def after(self, wave: int, rung: int) -> tuple[int, int] | None:
        """The next of them; None after the last."""
        place = self.rungs.index((wave, rung)) + 1
        return self.rungs[place] if place < len(self.rungs) else None


def open_sweep(
    space: Path,
    recipe: str,
    out: Path,
    *,
    data: Sequence[Path] = (),
    fold: str = "0/5",
    changes: Sequence[str] = (),
    base: str | None = None,
    engine: str = "auto",
    ds: Path | None = None,
    on_bad_row: OnBadRow = "fail",
) -> Sweep:
    """Check what a sweep is asked to do. Writes nothing.

    Args:
        space: a YAML file of `Space`.
        recipe: a shipped recipe or a YAML file.
        out: the sweep's folder, on a file system that all nodes share.
        data: labelled tables; none means the embedded sample.
        fold: K/N, held out by every trial.
        changes: of every trial's recipe, each `key.path=value`.
        base: a local model folder or hub name in place of the recipe's.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
        on_bad_row: `fail` or `skip`.

    Raises:
        UserError: a faulty space or recipe, tables that are absent, or a folder of another sweep.
    """
    import_optuna()
    parse_fold(fold)
    refuse_foreign(out, RECORD)
    settings = load_space(space)
    changes = [*settings.set, *changes]
    start = load_recipe(recipe, [*changes, "train.early_stopping=null"], base)
    refuse_training(start, data=[*data, *([ds] if ds else [])], engine=engine, ds=ds)
    words = ["sweep", as_word(space), "--recipe", recipe, "--fold", fold, "--on-bad-row", on_bad_row]
    words += ["--data", *map(as_word, data)] if data else []
    words += [word for change in changes[len(settings.set) :] for word in ("--set", change)]
    words += ["--model", base] if base else []
    words += ["--ds", as_word(ds)] if ds else ["--engine", engine]
    words += ["--out", as_word(out)]
    sweep = Sweep(words, settings, start, out, tuple(data), fold, on_bad_row, engine, ds)
    path = out / RECORD
    if path.is_file() and (changed := read_manifest(path, SweepRecord).differences(make_record(sweep))):
        raise UserError(f"{out} belongs to another sweep (changed: {', '.join(changed)}; {path}): use a new --out")
    return sweep


def make_record(sweep: Sweep) -> SweepRecord:
    """What the folder's record has to say for this sweep."""
    return SweepRecord(
        space=sweep.space,
        recipe=sweep.recipe.model_dump(mode="json"),
        data={str(path): sha256(path) for path in sweep.data},
        fold=sweep.fold,
        on_bad_row=sweep.on_bad_row,
    )
