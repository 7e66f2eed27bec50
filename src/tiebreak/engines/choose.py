"""Which engine runs a job."""

from collections.abc import Callable
from pathlib import Path

import torch

from tiebreak.cluster.ranks import Ranks
from tiebreak.config import TrainSettings
from tiebreak.engines.base import Engine
from tiebreak.errors import UserError
from tiebreak.models.judge import Judge


def check_engine(engine: str, ds: Path | None, train: TrainSettings, world: int) -> dict | None:
    """Refuse contradictions before any weight is loaded; the completed DeepSpeed configuration, if any.

    Raises:
        UserError: `--ds` with another engine, DeepSpeed without a file, or a file against the recipe.
    """
    if ds is not None and engine not in ("auto", "deepspeed"):
        raise UserError(f"--ds {ds} chooses DeepSpeed, --engine says {engine}: give one of them")
    if ds is None and engine == "deepspeed":
        raise UserError("--engine deepspeed needs a configuration: --ds ds_configs/zero2.json")
    if ds is None:
        return None
    from tiebreak.engines.zero import read_ds_config

    return read_ds_config(ds, train, world)


def make_engine(
    judge: Judge,
    make_optimizer: Callable[[Judge], torch.optim.Optimizer],
    ranks: Ranks,
    train: TrainSettings,
    engine: str,
    ds_config: dict | None,
) -> Engine:
    """DeepSpeed where there is a configuration, FSDP2 if asked for, DDP for several ranks, else the process.

    Args:
        make_optimizer: called once the judge's parameters are those that are trained: FSDP2 replaces them.
    """
    if engine == "fsdp":
        from tiebreak.engines.fsdp import FSDPEngine, shard

        shard(judge, ranks)
        return FSDPEngine(judge, make_optimizer(judge), ranks, train.max_grad_norm)
    optimizer = make_optimizer(judge)
    if ds_config is not None:
        from tiebreak.engines.zero import ZeroEngine

        return ZeroEngine(judge, optimizer, ranks, train.max_grad_norm, ds_config)
    if ranks.world > 1:
        from tiebreak.engines.ddp import DDPEngine

        return DDPEngine(judge, optimizer, ranks, train.max_grad_norm)
    return Engine(judge, optimizer, ranks, train.max_grad_norm)
