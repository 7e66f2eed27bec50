"""`tiebreak preflight`: will it run? Asked in seconds, before a queue is waited in or a base is loaded.

The files in slurm/ ask too: launch/slurm_env.sh sets TIEBREAK_PREFLIGHT=1, upon which training and prediction look
first, in their own process, so that nothing is started or imported twice.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.cluster.machine import gpu_memory
from tiebreak.cluster.meeting import meet
from tiebreak.cluster.ranks import Ranks, find_ranks, joined
from tiebreak.compatibility import Setting, check_compatibility, check_positions
from tiebreak.config import Recipe, load_recipe
from tiebreak.engines.choose import Choice, choose_engine
from tiebreak.errors import UserError
from tiebreak.models.architectures import find_architecture
from tiebreak.preflight.findings import NOTE, Finding, refuse, render, told
from tiebreak.preflight.memory import Estimate, estimate
from tiebreak.preflight.model_files import check_folder, check_tokenizer, find_folder
from tiebreak.preflight.network import check_collectives, exchange, exit_together
from tiebreak.preflight.room import check_disk, check_memory
from tiebreak.preflight.tables import check_tables
from tiebreak.preflight.versions import check_versions

if TYPE_CHECKING:
    import torch.distributed as dist

SWITCH = "TIEBREAK_PREFLIGHT"
TIMEOUT_S = 180
"""For the ranks to meet: nodes that start their Python from a shared file system differ by a minute or two."""


def preflight(options: argparse.Namespace) -> int:
    """The command; returns 0, or raises UserError with all that failed."""
    recipe = load_recipe(options.recipe, options.set, options.model)
    ranks = find_ranks()
    choice = choose_engine(options.engine, options.ds, recipe.train, _world(options, ranks))
    valid = None if options.valid in (None, "none") else Path(options.valid)
    job = Job.of(
        recipe,
        ranks,
        choice,
        data=[Path(name) for name in options.data],
        valid=valid,
        out=Path(options.out) if options.out else None,
        on_bad_row=options.on_bad_row,
        world=_world(options, ranks),
        gpus_per_node=options.gpus_per_node,
        gpu_gib=options.gpu_gib,
    )
    met = look(job, options.timeout)
    if met is None:
        print("one process and no launcher: the network is not looked at (srun or torchrun tiebreak preflight does)")
        return 0
    with joined(ranks, options.timeout, met=met):
        look_at_network(job, met, options.timeout)
    return 0


@dataclass(frozen=True)
class Job:
    """What is looked at: `world` ranks, `per_node` on each node, on `device` cuda or cpu; `extra` tables unlabelled."""

    recipe: Recipe
    choice: Choice
    ranks: Ranks
    world: int
    per_node: int
    device: str
    files: list[Path]
    extra: list[Path]
    out: Path
    on_bad_row: str
    gpu_gib: float | None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        ranks: Ranks,
        choice: Choice,
        *,
        data: Sequence[Path],
        valid: Path | None = None,
        extra: Sequence[Path] = (),
        out: Path | None = None,
        on_bad_row: str = "fail",
        world: int | None = None,
        gpus_per_node: int | None = None,
        gpu_gib: float | None = None,
    ) -> "Job":
        """Describe a job; what is not given is that of the launcher and of this machine."""
        files = [*data, *([valid] if valid else [])]
        gpus = gpu_gib is not None or bool(gpus_per_node) or bool(gpu_memory())
        return cls(
            recipe,
            choice,
            ranks,
            world or ranks.world,
            gpus_per_node or _ranks_here(ranks),
            "cuda" if gpus else "cpu",
            files,
            list(extra),
            out or Path("runs"),
            on_bad_row,
            gpu_gib,
        )

    def estimate(self, architecture: dict[str, Any] | None) -> Estimate | None:
        return estimate(self.recipe, self.choice.kind, self.world, self.device, architecture, self.choice.ds)


def wanted() -> bool:
    """Whether a run is to look first."""
    return os.environ.get(SWITCH) == "1"


def look(job: Job, timeout_s: float = TIMEOUT_S) -> "dist.Store | None":
    """Everything but collectives: print the table on rank 0; the store in which several ranks have met.

    Raises:
        UserError: with all that failed.
    """
    started = time.monotonic()
    met = meet(job.ranks, timeout_s) if job.ranks.world > 1 else None
    found = list(local_checks(job)) if job.ranks.local_rank == 0 else []
    if met is not None:
        found = exchange(met, job.ranks, found)
    if job.ranks.first:
        print(f"{render(found)}\npreflight: {time.monotonic() - started:.1f} s", flush=True)
    if met is not None and any(row.failed for row in found):
        exit_together(met, job.ranks)
        if not job.ranks.first:
            sys.exit(2)
    refuse(found)
    return met


def look_at_network(job: Job, met: "dist.Store", timeout_s: float = TIMEOUT_S) -> None:
    """The collectives, inside the job's process group.

    Raises:
        UserError: a sum is wrong.
    """
    finding = check_collectives(met, job.ranks, timeout_s, job.estimate(_architecture(_folder(job.recipe))))
    if job.ranks.first:
        print(render([finding]).splitlines()[1], flush=True)


def local_checks(job: Job) -> list[Finding]:
    """What a node's first rank looks at. Rank 0 alone reads the tables: they are the same everywhere."""
    recipe = job.recipe
    folder = _folder(recipe)
    architecture = _architecture(folder)
    findings = [told("recipe", lambda: _check_recipe(job, architecture))]
    if job.ranks.first:
        findings.append(told("data", lambda: check_tables(job.files, job.on_bad_row)))
        if job.extra:
            findings.append(told("extra data", lambda: check_tables(job.extra, job.on_bad_row, need_labels=False)))
    else:
        findings.append(told("data", lambda: _check_there([*job.files, *job.extra])))
    if isinstance(folder, Finding):
        findings.append(folder)
    else:
        findings.append(told("model files", lambda: check_folder(folder)))
        if not findings[-1].failed:
            findings.append(told("tokenizer", lambda: check_tokenizer(folder, recipe)))
    needs = job.estimate(architecture)
    findings.append(told("memory", lambda: check_memory(needs, recipe, job.per_node, job.gpu_gib)))
    if job.ranks.first:
        findings.append(told("disk", lambda: check_disk(job.out, needs, recipe, job.world)))
    findings.append(told("versions", lambda: check_versions(job.device)))
    return findings


def look_before_prediction(models: Sequence[Path], files: Sequence[Path], changes: Sequence[str], ranks: Ranks) -> None:
    """The checks of a prediction, whose ranks share nothing but a folder, by each node's first rank.

    Args:
        models: model folders. files: tables to predict. changes: of the models' recipes, as `key.path=value`.

    Raises:
        UserError: with all that failed.
    """
    if ranks.local_rank:
        return
    from tiebreak.models.folder import find_model_folder

    judges = [find_model_folder(folder) for folder in models]
    tables: Callable[[], Finding] = lambda: check_tables(list(files), "keep", need_labels=False)  # noqa: E731
    findings = [told("data", tables if ranks.first else lambda: _check_there(list(files)))]
    for folder, stored in judges:
        recipe = stored.make_recipe(list(changes))
        findings.append(told("model files", partial(_check_judge, folder, recipe)))
    findings.append(told("versions", lambda: check_versions("cuda" if gpu_memory() else "cpu")))
    if ranks.first:
        print(render(findings), flush=True)
    refuse(findings)


def _check_judge(folder: Path, recipe: Recipe) -> Finding:
    """A full model is whole in itself; adapters need their base."""
    if recipe.model.method == "full":
        return check_folder(folder)
    from tiebreak.preflight.model_files import fault_of

    if fault := fault_of(folder / "adapter_model.safetensors", set()):
        raise UserError(fault)
    base = find_folder(recipe.model.base)
    return base if isinstance(base, Finding) else check_folder(base)


def _world(options: argparse.Namespace, ranks: Ranks) -> int:
    """Ranks of the job: the launcher's, else those of the command line."""
    if ranks.world > 1:
        return ranks.world
    nodes = getattr(options, "nodes", None) or 1
    return nodes * (getattr(options, "gpus_per_node", None) or (len(gpu_memory()) if nodes > 1 else 1) or 1)


def _ranks_here(ranks: Ranks) -> int:
    """Ranks of this node, as far as the launcher says."""
    told_by = (os.environ.get(name) for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"))
    return next((int(value) for value in told_by if value and value.isdigit()), 1 if ranks.world == 1 else ranks.world)


def _folder(recipe: Recipe) -> Path | Finding:
    try:
        return find_folder(recipe.model.base)
    except UserError as error:
        return Finding("model files", str(error), "FAIL")


def _architecture(folder: Path | Finding) -> dict[str, Any] | None:
    """Of the folder; None where it cannot be told, and then what is known by the base's name counts."""
    if isinstance(folder, Finding):
        return None
    try:
        return find_architecture(str(folder))
    except (OSError, ValueError, KeyError):
        return None


def _check_there(files: list[Path]) -> Finding:
    if absent := [str(path) for path in files if not path.is_file()]:
        raise UserError(f"{', '.join(absent)}: not there: is the folder shared by all nodes?")
    return Finding("data", "there")


def _check_recipe(job: Job, architecture: dict[str, Any] | None) -> Finding:
    """What does not go together; the recipe itself has been read."""
    recipe = job.recipe
    known = architecture or find_architecture(recipe.model.base) or {"model_type": recipe.model.base.partition("-")[2]}
    warnings = check_compatibility(Setting.of(recipe, known["model_type"], job.device, job.choice.kind))
    check_positions(known["model_type"], known.get("max_position_embeddings"), recipe)
    text = f"{recipe.name}: {recipe.model.method}, {job.choice.kind}, {job.world} rank{'s' * (job.world > 1)} "
    text += f"on {'GPUs' if job.device == 'cuda' else 'CPUs'}, "
    text += f"{recipe.train.batch_size} rows a step, {recipe.train.tokens_per_micro_batch:,} tokens a micro-batch"
    return Finding("recipe", "; ".join([text, *warnings]), NOTE if warnings else "ok")
