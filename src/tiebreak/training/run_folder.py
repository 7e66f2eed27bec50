"""Create or reopen the run folder, with a record of what ran in it."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from tiebreak.cluster.ranks import Ranks, agree
from tiebreak.config import Recipe
from tiebreak.data.split import RowsManifest
from tiebreak.engines.base import Engine
from tiebreak.errors import UserError
from tiebreak.files import sweep, write_atomically, write_json
from tiebreak.manifests import read_manifest, write_manifest
from tiebreak.recipe_files import read_recipe_file
from tiebreak.storage import explain, make_folder
from tiebreak.training.checkpoints import find_checkpoint, set_aside
from tiebreak.training.claim import Claim, take_over

CHECKPOINTS, ROWS = "checkpoints", "rows.json"
FREE_TO_CHANGE = {"train.tokens_per_micro_batch", "train.gradient_checkpointing", "train.save_every", "train.keep"}
FREE_TO_CHANGE |= {"train.timeout_s"}
FREE_SECTIONS = {"log", "fsdp", "predict"}
"""Fields and sections that a resumed run may set otherwise: they change speed and bookkeeping, never the result."""
PACKAGES = ("tiebreak", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "datasets", "numpy")


def default_folder(recipe: Recipe) -> Path:
    """Name a new run folder in runs/ by the recipe and the time."""
    return Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def refuse_used(folder: Path) -> None:
    """Raise if the folder holds a run, for a run that is not to go on with it."""
    if (folder / "recipe.yaml").is_file():
        raise UserError(
            f"{folder} holds a run already: --resume auto (in Python: resume=True) goes on with it, or choose another "
            "--out (out=)"
        )


def open_folder(
    folder: Path, recipe: Recipe, rows: RowsManifest, resume: bool, ranks: Ranks
) -> tuple[Claim, Path | None, list[str]]:
    """Create and claim the run folder, and find the checkpoint at which an earlier run in it stands.

    Rank 0 looks, and every rank gets its answer: others would see a folder that it has just made.

    Args:
        folder: the run folder.
        recipe: of the run.
        rows: names tables and split. It and the recipe must be those the run was begun with.
        resume: whether to go on with a run that is there.
        ranks: this process among the job's.

    Raises:
        UserError: the folder holds a run and is not to be resumed, or another run than this.
    """
    result: tuple[Claim, Path | None, list[str]] | UserError | None = None
    if ranks.first:
        try:
            result = _open_folder(folder, recipe, rows, resume)
        except UserError as error:
            result = error
        except OSError as error:  # the other ranks must hear of it
            if (told := explain(error)) is None:
                raise
            result = told
    result = agree(result)
    if isinstance(result, UserError):
        raise result
    assert result is not None
    return result


def _open_folder(
    folder: Path, recipe: Recipe, rows: RowsManifest, resume: bool
) -> tuple[Claim, Path | None, list[str]]:
    stored = folder / "recipe.yaml"
    now = recipe.model_dump(mode="json")
    if not stored.is_file():
        if any((folder / CHECKPOINTS).glob("step-*")):
            raise UserError(
                f"{folder} holds checkpoints of a run, but no {stored.name}: choose another --out, or empty it"
            )
        make_folder(folder)
        write_manifest(folder / ROWS, rows)
        write_atomically(stored, yaml.safe_dump(now, sort_keys=False))
        return take_over(folder), None, []
    if not resume:
        refuse_used(folder)
    then = read_recipe_file(stored, Recipe)
    if not all(isinstance(then.get(name, {}), dict) for name, fields in now.items() if isinstance(fields, dict)):
        raise UserError(f"{stored}: damaged, a section in it is a plain value: choose another --out")
    changed = [
        f"{section}.{name}: {then.get(section, {}).get(name)!r} then, {value!r} now"
        for section, fields in now.items()
        if isinstance(fields, dict) and section not in FREE_SECTIONS
        for name, value in fields.items()
        if then.get(section, {}).get(name) != value and f"{section}.{name}" not in FREE_TO_CHANGE
    ]
    try:
        earlier = read_manifest(folder / ROWS, RowsManifest)
    except FileNotFoundError:
        raise UserError(
            f"{folder / ROWS} is gone, so which rows this run has is not known: choose another --out"
        ) from None
    before, after = (manifest.model_dump(exclude={"version"}) for manifest in (earlier, rows))
    if None not in (before["base"], after["base"]) and before["base"] != after["base"]:
        changed.append(f"model.base: {recipe.model.base} had another configuration or other weights then")
    names = [name for name in after if name != "base" and before[name] != after[name]]
    changed += [f"{name}: {before[name]!r} then, {after[name]!r} now" for name in names]
    if changed:
        raise UserError(
            f"{folder} was begun with other settings:\n  "
            + "\n  ".join(changed)
            + "\nGive the same settings, or choose another --out"
            + _how_to_go_on(folder, recipe)
        )
    claim = take_over(folder)
    sweep(folder, folder / CHECKPOINTS)
    found, passed = find_checkpoint(folder / CHECKPOINTS)
    set_aside(folder / CHECKPOINTS, found)
    return claim, found, passed


def _how_to_go_on(folder: Path, recipe: Recipe) -> str:
    """Say how a run that is done may be followed by another; empty for one that is not done."""
    model = folder / "model"
    if not (folder / "metrics.json").is_file() or not model.is_dir():
        return ""
    base, first = model, ""
    if recipe.model.method != "full":
        base = folder.with_name(f"{folder.name}-merged")
        first = f"tiebreak merge-adapters {folder} --out {base} --into-base, then "
    return (
        ". This run is done, and its schedule of the learning rate follows from its length; to train its judge "
        f"further, start anew from it: {first}--model {base} with another --out"
    )


def describe(folder: Path, engine: Engine, more: dict[str, Any]) -> None:
    """Write environment.json: what runs, on what, with which versions, and `more`."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    content = {
        "command": sys.argv,
        "git": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "device": device,
        "engine": engine.name,
        "world": engine.ranks.world,
    }
    write_json(folder / "environment.json", content | more)


def keep_problems(folder: Path, problems: list[dict[str, Any]]) -> list[str]:
    """Write the rows that were left out into the run folder; return a sentence about them, if there are any."""
    if not problems:
        return []
    path = folder / "skipped_rows.jsonl"
    write_atomically(path, "".join(json.dumps(problem) + "\n" for problem in problems))
    return [f"{len(problems)} bad rows were left out: {path}"]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
