"""Mistakes that files, folders and options show by themselves: told before torch is imported and a table is read."""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from tiebreak.cluster.ranks import find_ranks, refuse_mpi
from tiebreak.config import Recipe
from tiebreak.data.prediction_manifest import BASELINE, BAYES, read_prediction_manifest, split_teacher
from tiebreak.engines.choose import choose_engine
from tiebreak.errors import UserError
from tiebreak.models.check_base import check_base
from tiebreak.preflight.model_files import find_folder
from tiebreak.tables.containers import check_path


def refuse_training(
    recipe: Recipe,
    *,
    data: Iterable[Path] = (),
    teachers: Sequence[str] = (),
    engine: str = "auto",
    ds: Path | None = None,
) -> None:
    """Refuse a training that cannot begin, in a fraction of a second.

    Args:
        recipe: of the training; its base must be a folder, known by name, or look like a hub's name.
        data: all tables, which must be there.
        teachers: as `find_teachers` takes them; in each folder a prediction was begun.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.

    Raises:
        UserError: the first of these that is wrong, or processes that do not know of one another.
    """
    refuse_mpi()
    choose_engine(engine, ds, recipe.train, find_ranks().world)
    refuse_untracked(recipe)
    refuse_absent(data)
    if isinstance(folder := find_folder(recipe.model.base), Path):
        check_base(folder, recipe)
    for word in teachers:
        for part in split_teacher(word)[1] if word not in (BAYES, BASELINE) else []:
            path = Path(part)
            try:
                read_prediction_manifest(path.parent if path.name == "predictions.csv" else path)
            except UserError as error:
                raise error if part == word else UserError(f"--teachers {word}: {error}") from None


def refuse_untracked(recipe: Recipe) -> None:
    """Raise UserError if a tracker's package, which is called as the tracker, is not installed; names all such."""
    packages = [name for name in recipe.log.trackers() if name != "csv" and importlib.util.find_spec(name) is None]
    if packages:
        absent = f"{' and '.join(packages)} {'is' if len(packages) == 1 else 'are'} not installed"
        raise UserError(f"log.to: {absent}: pip install {' '.join(packages)}, or leave it out")


def refuse_absent(files: Iterable[Path]) -> None:
    """Raise UserError if one of these tables is not there; names all such."""
    there: list[Path] = []
    absent: list[Path] = []
    for path in files:
        (there if path.exists() or ":/" in str(path) else absent).append(path)
    if len(absent) > 1:
        raise UserError(f"{', '.join(map(str, absent))}: no such file")
    for path in (*there, *absent):
        check_path(path)
