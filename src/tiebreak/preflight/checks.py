"""`tiebreak preflight`: check in seconds whether a run can work, before it is queued or a base is loaded.

The files in slurm/ check too: launch/slurm_env.sh sets TIEBREAK_PREFLIGHT=1, and training and prediction then run these
checks first, in their own process, so that nothing is started or imported twice.
"""

import logging
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
from tiebreak.config import Recipe
from tiebreak.engines.choose import Choice, choose_engine
from tiebreak.errors import UserError
from tiebreak.models.architectures import ARCHITECTURES, find_architecture
from tiebreak.models.bases import settle_quantization
from tiebreak.plurals import plural
from tiebreak.preflight.early import refuse_untracked
from tiebreak.preflight.findings import NOTE, Finding, finding_of, findings_of, refuse, render
from tiebreak.preflight.gpus import check_gpus
from tiebreak.preflight.memory import Estimate, estimate
from tiebreak.preflight.model_files import check_folder, check_tokenizer, find_folder
from tiebreak.preflight.network import check_collectives, exchange, exit_together
from tiebreak.preflight.recompute import Fit, fit
from tiebreak.preflight.room import check_cache, check_disk, check_memory
from tiebreak.preflight.tables import check_tables
from tiebreak.preflight.versions import check_versions
from tiebreak.tables.table import OnBadRow

if TYPE_CHECKING:
    import torch.distributed as dist

log = logging.getLogger(__name__)

SWITCH = "TIEBREAK_PREFLIGHT"
TIMEOUT_S = 180
"""For the ranks to meet: nodes that start their Python from a shared file system differ by a minute or two."""


def preflight(
    recipe: Recipe,
    *,
    data: Sequence[Path] = (),
    valid: Path | None = None,
    out: Path | None = None,
    engine: str = "auto",
    ds: Path | None = None,
    on_bad_row: OnBadRow = "fail",
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    gpu_gib: float | None = None,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Check whether a training can run: files, memory, disk, versions and, under a launcher, the network.

    Args:
        recipe: of the training.
        data: labelled tables; none means the embedded sample.
        valid: a table to validate on.
        out: the run folder.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
        on_bad_row: `fail` or `skip`.
        nodes: of the job; by default the launcher's, or 1.
        gpus_per_node: GPUs, and so ranks, per node; by default the launcher's, or 1.
        gpu_gib: memory of each GPU, if this machine does not have them.
        timeout_s: seconds that all ranks have to connect.

    Raises:
        UserError: with everything that failed.
    """
    recipe, ranks = settle_quantization(recipe), find_ranks()
    world = _world(ranks, nodes, gpus_per_node)
    plan = LaunchPlan.of(
        recipe,
        ranks,
        choose_engine(engine, ds, recipe.train, world),
        data=data,
        valid=valid,
        out=out,
        on_bad_row=on_bad_row,
        world=world,
        gpus_per_node=gpus_per_node,
        gpu_gib=gpu_gib,
    )
    store = run_checks(plan, timeout_s)
    if store is None:
        log.info("one process and no launcher: the network is not checked (srun or torchrun tiebreak preflight does)")
        return
    with joined(ranks, round(timeout_s), store=store):
        check_network(plan, store, timeout_s)


@dataclass(frozen=True)
class LaunchPlan:
    """A job to check: `world` ranks, `per_node` on each node, `device` cuda or cpu; `extra` has no labels."""

    recipe: Recipe
    choice: Choice
    ranks: Ranks
    world: int
    per_node: int
    device: str
    files: list[Path]
    extra: list[Path]
    out: Path
    on_bad_row: OnBadRow
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
        on_bad_row: OnBadRow = "fail",
        world: int | None = None,
        gpus_per_node: int | None = None,
        gpu_gib: float | None = None,
    ) -> "LaunchPlan":
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

    def estimate(self, architecture: dict[str, Any] | None, recipe: Recipe | None = None) -> Estimate | None:
        """Estimate the memory of one rank (tiebreak.preflight.memory), or of another recipe's."""
        return estimate(recipe or self.recipe, self.choice.kind, self.world, self.device, architecture, self.choice.ds)

    def fit(self, architecture: dict[str, Any] | None, there: float) -> Fit:
        """Lay the run into so many GiB of a GPU."""
        return fit(self.recipe, self.choice.kind, there, partial(self.estimate, architecture))


def enabled() -> bool:
    """Whether TIEBREAK_PREFLIGHT asks for the checks before a run."""
    return os.environ.get(SWITCH) == "1"


def run_checks(plan: LaunchPlan, timeout_s: float = TIMEOUT_S) -> "dist.Store | None":
    """Check everything but collectives, log the table on rank 0, and return the store of several ranks.

    Raises:
        UserError: with all that failed.
    """
    started = time.monotonic()
    store = meet(plan.ranks, timeout_s) if plan.ranks.world > 1 else None
    findings = list(local_checks(plan)) if plan.ranks.local_rank == 0 else []
    if store is not None:
        findings = exchange(store, plan.ranks, findings)
    if plan.ranks.first:
        log.info(f"{render(findings)}\npreflight: {time.monotonic() - started:.1f} s")
    if store is not None and any(row.failed for row in findings):
        exit_together(store, plan.ranks)
        if not plan.ranks.first:
            sys.exit(2)
    refuse(findings)
    return store


def check_network(plan: LaunchPlan, store: "dist.Store", timeout_s: float = TIMEOUT_S) -> None:
    """Check the collectives, inside the job's process group.

    Raises:
        UserError: a sum is wrong.
    """
    finding = check_collectives(store, plan.ranks, timeout_s, plan.estimate(_architecture(_folder(plan.recipe))))
    if plan.ranks.first:
        log.info(render([finding]).splitlines()[1])


def local_checks(plan: LaunchPlan) -> list[Finding]:
    """Check what a node's first rank can see. Rank 0 alone reads the tables: they are the same everywhere."""
    recipe = plan.recipe
    folder = _folder(recipe)
    architecture = _architecture(folder)
    findings = [finding_of("recipe", lambda: _check_recipe(plan, architecture))]
    if plan.ranks.first:
        findings.append(finding_of("data", lambda: check_tables(plan.files, plan.on_bad_row)))
        if plan.extra:
            findings.append(
                finding_of("extra data", lambda: check_tables(plan.extra, plan.on_bad_row, need_labels=False))
            )
    else:
        findings.append(finding_of("data", lambda: _check_there([*plan.files, *plan.extra])))
    if isinstance(folder, Finding):
        findings.append(folder)
    else:
        findings.append(check_folder(folder, recipe))
        if not findings[-1].failed:
            findings.append(check_tokenizer(folder, recipe))
    findings += findings_of("GPUs", check_gpus)
    needs = None if architecture is None and isinstance(folder, Path) else plan.estimate(architecture)
    fit_into = partial(plan.fit, architecture)
    findings.append(finding_of("memory", lambda: check_memory(needs, recipe, plan.per_node, plan.gpu_gib, fit_into)))
    if plan.ranks.first:
        findings.append(finding_of("disk", lambda: check_disk(plan.out, needs, recipe, plan.world)))
    findings += check_cache()
    findings.append(finding_of("versions", lambda: check_versions(plan.device)))
    return findings


def check_prediction(models: Sequence[Path], files: Sequence[Path], changes: Sequence[str], ranks: Ranks) -> None:
    """Check whether a prediction can run, by each node's first rank; its ranks share nothing but a folder.

    Args:
        models: model folders.
        files: tables to predict.
        changes: of the models' recipes, as `key.path=value`.
        ranks: this process among the job's.

    Raises:
        UserError: with all that failed.
    """
    if ranks.local_rank:
        return
    from tiebreak.models.folder import find_model_folder, judge_recipe

    judges = [find_model_folder(folder) for folder in models]
    tables: Callable[[], Finding] = lambda: check_tables(list(files), "keep", need_labels=False)  # noqa: E731
    findings = [finding_of("data", tables if ranks.first else lambda: _check_there(list(files)))]
    for folder, stored in judges:
        recipe_of = partial(judge_recipe, stored, changes)
        findings.append(finding_of("model files", partial(_check_judge, folder, recipe_of)))
    findings += findings_of("GPUs", check_gpus)
    findings += check_cache()
    findings.append(finding_of("versions", lambda: check_versions("cuda" if gpu_memory() else "cpu")))
    if ranks.first:
        log.info(render(findings))
    refuse(findings)


def _check_judge(folder: Path, make_recipe: Callable[[], Recipe]) -> Finding:
    """A full model is whole in itself; adapters need their base, which `make_recipe` finds."""
    recipe = make_recipe()
    if recipe.model.method == "full":
        return check_folder(folder)
    from tiebreak.pretrained.base_files import fault_of

    if fault := fault_of(folder / "adapter_model.safetensors", set()):
        raise UserError(fault)
    base = find_folder(recipe.model.base)
    return base if isinstance(base, Finding) else check_folder(base, recipe)


def _world(ranks: Ranks, nodes: int | None, gpus_per_node: int | None) -> int:
    """Ranks of the job: the launcher's, otherwise those of `--nodes` and `--gpus-per-node`."""
    if ranks.world > 1:
        return ranks.world
    nodes = nodes or 1
    return nodes * (gpus_per_node or (len(gpu_memory()) if nodes > 1 else 1) or 1)


def _ranks_here(ranks: Ranks) -> int:
    """Ranks of this node, as far as the launcher says."""
    counts = (os.environ.get(name) for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"))
    return next((int(value) for value in counts if value and value.isdigit()), 1 if ranks.world == 1 else ranks.world)


def _folder(recipe: Recipe) -> Path | Finding:
    try:
        return find_folder(recipe.model.base)
    except UserError as error:
        return Finding("model files", str(error), "FAIL")


def _architecture(folder: Path | Finding) -> dict[str, Any] | None:
    """Read the folder's architecture; None where it is not known: then what is known by the base's name counts."""
    if isinstance(folder, Finding):
        return None
    try:
        return find_architecture(str(folder))
    except (UserError, OSError, KeyError):
        return None


def _check_there(files: list[Path]) -> Finding:
    if absent := [str(path) for path in files if not path.exists()]:
        raise UserError(f"{', '.join(absent)}: not there: is the folder shared by all nodes?")
    return Finding("data", "there")


def _check_recipe(plan: LaunchPlan, architecture: dict[str, Any] | None) -> Finding:
    """Check what does not go together; the recipe itself has been read."""
    recipe = plan.recipe
    refuse_untracked(recipe)
    known = architecture or ARCHITECTURES.get(recipe.model.base) or {"model_type": recipe.model.base.partition("-")[2]}
    warnings = check_compatibility(Setting.of(recipe, known["model_type"], plan.device, plan.choice.kind))
    warnings += check_positions(known["model_type"], known.get("max_position_embeddings"), recipe)
    text = f"{recipe.name}: {recipe.model.method}, {plan.choice.kind}, {plural(plan.world, 'rank')} "
    text += f"on {'GPUs' if plan.device == 'cuda' else 'CPUs'}, "
    text += f"{recipe.train.batch_size} rows a step, {recipe.train.tokens_per_micro_batch:,} tokens a micro-batch"
    return Finding("recipe", "; ".join([text, *warnings]), NOTE if warnings else "ok")
