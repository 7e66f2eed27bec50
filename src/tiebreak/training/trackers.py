"""Where rank 0 logs a run besides log.jsonl: `log.to` names trackers, each opened by one function here.

A resumed run goes on in what it began: files lie in the run folder, and so does the id that a service gave.
"""

import csv
import logging
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tiebreak.config import Recipe
from tiebreak.errors import UserError
from tiebreak.files import write_atomically
from tiebreak.process import without_secrets
from tiebreak.terminal import one_line

log = logging.getLogger(__name__)

Record = dict[str, Any]
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
"""In the address of a server."""
LONGEST_PARAM, MOST_PARAMS = 500, 100
"""Characters of a parameter's value, and parameters of one call, that every MLflow server takes."""


class Tracker(NamedTuple):
    """What an open tracker does: write a record (a step's or an evaluation's, both with `step`), and end."""

    write: Callable[[Record], object]
    close: Callable[[], object]


def open_trackers(folder: Path, recipe: Recipe, done: int) -> dict[str, Tracker]:
    """Open those that a recipe asks for, by name.

    Args:
        folder: the run folder.
        recipe: of the run.
        done: steps before this process; what was written of later ones is written again.

    Raises:
        UserError: one that cannot begin; says which and why.
    """
    opened: dict[str, Tracker] = {}
    for name in recipe.log.trackers():
        try:
            opened[name] = OPENERS[name](folder, recipe, done)
        except Exception as error:  # whatever a tracker, its service or the network raise
            close_trackers(opened)
            lines = str(error).strip().partition("\n")[0] or type(error).__name__
            reason = one_line(CREDENTIALS.sub("", lines))
            offline = "--set log.wandb=offline needs no key and no network"
            advice = offline if name == "wandb" else "correct that, or leave it out of log.to"
            raise UserError(f"{name} cannot begin ({reason}): {advice}") from None
    return opened


def track(opened: dict[str, Tracker], record: Record) -> None:
    """Write a record to all; one that fails is left, as a run never fails for want of its copy elsewhere."""
    for name, tracker in list(opened.items()):
        try:
            tracker.write(record)
        except Exception as error:
            reason = one_line(CREDENTIALS.sub("", str(error)))
            log.warning(f"{name}: {reason}; the run goes on without it, and log.jsonl has every step")
            del opened[name]


def close_trackers(opened: dict[str, Tracker]) -> None:
    """End all."""
    for tracker in opened.values():
        with suppress(Exception):
            tracker.close()


def _open_csv(folder: Path, recipe: Recipe, done: int) -> Tracker:
    """steps.csv and evaluations.csv: columns are those of the first record of each."""
    paths = {False: folder / "steps.csv", True: folder / "evaluations.csv"}
    columns: dict[bool, list[str]] = {}
    for evaluation, path in paths.items():
        if path.is_file():
            with open(path, encoding="utf-8", newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            if "step" in header:
                columns[evaluation] = header
                at = header.index("step")
                kept = [row for row in rows if len(row) == len(header) and row[at].isdigit() and int(row[at]) <= done]
                write_atomically(path, "".join(",".join(row) + "\r\n" for row in (header, *kept)))

    def write(record: Record) -> None:
        evaluation = "loss" not in record
        new = evaluation not in columns
        names = columns.setdefault(evaluation, list(record))
        with open(paths[evaluation], "w" if new else "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(record)

    return Tracker(write, lambda: None)


def _open_tensorboard(folder: Path, recipe: Recipe, done: int) -> Tracker:
    """Event files in the run folder's `tensorboard`, which hide what an earlier process wrote after step `done`."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def write(record: Record) -> None:
        for name, value in _numbers(record).items():
            writer.add_scalar(name, value, record["step"])
        writer.flush()

    return Tracker(write, writer.close)


def _open_mlflow(folder: Path, recipe: Recipe, done: int) -> Tracker:
    """A run of MLflow's client, at the server or database that MLFLOW_TRACKING_URI names; no global state is used."""
    import time

    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    id_file = folder / "mlflow_run_id"
    if id_file.is_file():
        run_id = id_file.read_text(encoding="utf-8", errors="replace").strip()
        client.get_run(run_id)
        client.update_run(run_id, status="RUNNING")
    else:
        known = client.get_experiment_by_name(recipe.log.project)
        experiment = known.experiment_id if known else client.create_experiment(recipe.log.project)
        run_id = client.create_run(experiment, run_name=folder.name).info.run_id
        params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in _flat(recipe.model_dump(mode="json"))]
        for start in range(0, len(params), MOST_PARAMS):
            client.log_batch(run_id, params=params[start : start + MOST_PARAMS])
        write_atomically(id_file, run_id)

    def write(record: Record) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, record["step"]) for name, value in _numbers(record).items()]
        client.log_batch(run_id, metrics=metrics)

    return Tracker(write, lambda: client.set_terminated(run_id))


def _open_wandb(folder: Path, recipe: Recipe, done: int) -> Tracker:
    """A run of Weights & Biases; offline it lies in the run folder."""
    import wandb

    id_file = folder / "wandb_id"
    if not id_file.is_file():
        id_file.write_text(secrets.token_hex(4), encoding="utf-8")
    with without_secrets(but="WANDB_"):
        run = wandb.init(
            project=recipe.log.project,
            id=id_file.read_text(encoding="utf-8", errors="replace").strip() or None,
            resume="allow",
            mode="offline" if recipe.log.wandb == "offline" else "online",
            dir=folder,
            name=folder.name,
            config=recipe.model_dump(),
            settings=wandb.Settings(quiet=True, save_code=False),
        )
    return Tracker(lambda record: run.log(record, step=record["step"]), run.finish)


OPENERS: dict[str, Callable[[Path, Recipe, int], Tracker]] = {
    "csv": _open_csv,
    "tensorboard": _open_tensorboard,
    "mlflow": _open_mlflow,
    "wandb": _open_wandb,
}


def _numbers(record: Record) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if name != "step" and isinstance(value, (int, float))}


def _flat(section: Record, above: str = "") -> list[tuple[str, object]]:
    """The fields of nested sections by their dotted names."""
    fields: list[tuple[str, object]] = []
    for name, value in section.items():
        fields += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(above + name, value)]
    return fields
