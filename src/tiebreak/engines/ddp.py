"""DistributedDataParallel: every rank holds the model, gradients are averaged once per step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.parallel import DistributedDataParallel

from tiebreak.cluster.ranks import Ranks
from tiebreak.engines.base import Engine
from tiebreak.models.preference import PreferenceModel


class DDPEngine(Engine):
    """Every rank holds the model and the optimizer; gradients are averaged at the last micro-batch of a step."""

    name = "ddp"

    def __init__(
        self, model: PreferenceModel, optimizer: torch.optim.Optimizer, ranks: Ranks, max_grad_norm: float | None
    ) -> None:
        super().__init__(model, optimizer, ranks, max_grad_norm)
        devices = [ranks.device] if ranks.device.type == "cuda" else None
        self.module = DistributedDataParallel(
            model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Reduce the gradients in the last micro-batch alone."""
        if last:
            yield
            return
        with self.module.no_sync():
            yield

    def clear(self) -> None:
        """Zero the gradients where they are, in the buckets that travel.

        Without them the micro-batches before the last would make all gradients a second time, beside the buckets.
        """
        self.optimizer.zero_grad(set_to_none=False)
