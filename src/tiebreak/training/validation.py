"""Compute logits of held-out rows, by all ranks together."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from tiebreak.cluster.transfer import to_device
from tiebreak.data.plan import blocks
from tiebreak.data.tokens import Tokens
from tiebreak.engines.base import Engine
from tiebreak.training.batches import make_batch

if TYPE_CHECKING:
    from tiebreak.training.frozen_cache import FrozenStates


def predict_rows(
    engine: Engine,
    tokens: Tokens,
    rows: np.ndarray,
    most_tokens: int,
    interrupted: Callable[[], bool],
    frozen: "FrozenStates | None" = None,
) -> np.ndarray | None:
    """Compute logits (n, 3) float64 of the rows (n,) in the order A, B, on every rank; None if interrupted.

    Rows are cut into blocks of like length and dealt to the ranks in turn. `frozen` are the table's kept states.
    """
    ranks = engine.ranks
    cut = blocks(tokens.lengths[rows], most_tokens)
    gathered = torch.zeros(len(rows), 3, dtype=torch.float64, device=ranks.device)
    engine.module.eval()
    try:
        for start in range(0, len(cut), ranks.world):
            if interrupted():
                return None
            own = cut[start + ranks.rank] if start + ranks.rank < len(cut) else np.array([], dtype=np.int64)
            batch = make_batch(tokens, rows[own], np.zeros(len(own), dtype=bool), ranks.device, frozen=frozen)
            with torch.no_grad():
                logits = engine.module(*batch.inputs)
            if len(own):
                gathered[to_device(own, ranks.device)] = logits.double()
    finally:
        engine.module.train()
    return engine.sum(gathered).cpu().numpy()
