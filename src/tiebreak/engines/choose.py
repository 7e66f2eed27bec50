"""Choose and build the engine that runs a job. Light to import: the preflight asks too."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiebreak.cluster.ranks import Ranks
from tiebreak.config import Recipe, TrainSettings
from tiebreak.engines.ds_config import read_ds_config, set_aside
from tiebreak.errors import UserError
from tiebreak.launch_files import find_launch_file
from tiebreak.structured import read_json

if TYPE_CHECKING:
    import torch

    from tiebreak.engines.base import Engine
    from tiebreak.models.preference import PreferenceModel


@dataclass(frozen=True)
class Choice:
    """`kind` is single, ddp, fsdp, zero1, zero2 or zero3; `ds` DeepSpeed's completed configuration, if it runs.

    `notes` say what of DeepSpeed's file has no effect.
    """

    kind: str
    ds: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


def hands_out(kind: str, recipe: Recipe) -> bool:
    """Whether rank 0 alone reads the weights, and every rank gets its part of them (tiebreak.engines.hand_out).

    A 4-bit base is quantised on the device it is loaded to, and so is whole on each.
    """
    return kind in ("fsdp", "zero3") and recipe.model.method != "qlora"


def choose_engine(engine: str, ds: Path | None, train: TrainSettings, world: int) -> Choice:
    """Choose DeepSpeed where there is a configuration, FSDP2 if asked, DDP for several ranks, otherwise one process.

    Raises:
        UserError: `--ds` with another engine, DeepSpeed without a file, or a file against the recipe.
    """
    if ds is not None and engine not in ("auto", "deepspeed"):
        raise UserError(f"--ds {ds} chooses DeepSpeed, --engine says {engine}: give one of them")
    if ds is None and engine == "deepspeed":
        raise UserError("--engine deepspeed needs a configuration: --ds ds_configs/zero2.json")
    if ds is not None:
        ds = find_launch_file(ds)
        config = read_ds_config(ds, train, world)
        aside = " and ".join(set_aside(read_json(ds)))
        notes = (f'{ds}: {aside} all "auto": the recipe\'s AdamW and train.schedule count',) if aside else ()
        return Choice(f"zero{config['zero_optimization']['stage']}", config, notes)
    if engine == "fsdp":
        return Choice("fsdp")
    return Choice("ddp" if world > 1 else "single")


def make_engine(
    model: "PreferenceModel",
    make_optimizer: "Callable[[PreferenceModel], torch.optim.Optimizer]",
    ranks: Ranks,
    recipe: Recipe,
    choice: Choice,
) -> "Engine":
    """Build the chosen engine around a model.

    Args:
        model: from `build_for_engine` (tiebreak.engines.hand_out).
        make_optimizer: called once the model's parameters are those that are trained: FSDP2 replaces them.
        ranks: this process among the job's.
        recipe: of the training.
        choice: from `choose_engine`.
    """
    from tiebreak.engines.base import Engine

    limit, handed_out = recipe.train.max_grad_norm, hands_out(choice.kind, recipe)
    engine: Engine
    if choice.kind == "fsdp":
        from tiebreak.engines.fsdp import FSDPEngine, shard

        shard(model, ranks, recipe.fsdp, handed_out)
        engine = FSDPEngine(model, make_optimizer(model), ranks, limit)
    elif choice.ds is not None:
        from tiebreak.engines.zero import Zero3Engine, ZeroEngine, cut, start

        start(ranks)
        if handed_out:
            cut(model, ranks, choice.ds)
        kind = Zero3Engine if choice.kind == "zero3" else ZeroEngine
        engine = kind(model, make_optimizer(model), ranks, limit, choice.ds)
    elif choice.kind == "ddp":
        from tiebreak.engines.ddp import DDPEngine

        engine = DDPEngine(model, make_optimizer(model), ranks, limit)
    else:
        engine = Engine(model, make_optimizer(model), ranks, limit)
    if handed_out:
        from tiebreak.engines.hand_out import prove

        prove(engine)
    return engine
