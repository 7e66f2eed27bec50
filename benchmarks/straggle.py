"""How long ranks wait for the fullest one: our plan against batches of 8 rows as the Trainer deals them to its ranks.

    python benchmarks/straggle.py --ranks 8 64

Nothing runs but the planning: the straggle factor of a step is the fullest rank's tokens over the mean of all, padding
included, averaged over the steps; 1 is perfect. Rows have the lengths of the Arena's (log-normal, mean about 800, up
to 2,048), 8 of them for each rank and step. The Trainer deals batch k of a step to rank k, from a random order or from
rows of like length (its own sampler). Padding is beside it: computed tokens over real ones.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from subjects import LONGEST
from timing import peer, record, run_claim

from tiebreak.data.plan import Plan
from tiebreak.preflight.simulate import measure as balance_of

MEAN_LOG, SIGMA = 6.4, 0.8
"""Of the logarithm of a row's tokens."""
ROWS_PER_RANK = 8


def draw_lengths(rows: int) -> np.ndarray:
    """Tokens of each row."""
    drawn = np.random.default_rng(0).lognormal(MEAN_LOG, SIGMA, rows)
    return np.minimum(drawn, LONGEST).astype(np.int32) + 1


def dealt(lengths: np.ndarray, order: np.ndarray, ranks: int) -> tuple[float, float]:
    """Straggle factor and padding of batches in this order, one for each rank and step."""
    whole = len(order) // (ranks * ROWS_PER_RANK) * ranks * ROWS_PER_RANK
    batches = lengths[order[:whole]].reshape(-1, ranks, ROWS_PER_RANK)
    computed = batches.max(2) * ROWS_PER_RANK
    return float((computed.max(1) / computed.mean(1)).mean()), float(computed.sum() / batches.sum())


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Every number of ranks."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = draw_lengths(50 * ROWS_PER_RANK * max(options.ranks))
    random = np.random.default_rng(1).permutation(len(lengths))
    for ranks in options.ranks:
        grouped = get_length_grouped_indices(lengths.tolist(), ROWS_PER_RANK)
        (comes, padded), (best, less) = (dealt(lengths, np.array(order), ranks) for order in (random, grouped))
        ours = balance_of(Plan(lengths, ranks * ROWS_PER_RANK, 1, 0, world=ranks)).straggle
        shown = peer("Trainer", comes, best, "rows of like length")
        padding = f"computed tokens for each real one: 1.00 against {padded:.2f} and {less:.2f}"
        yield record(f"{ranks} ranks, {ROWS_PER_RANK} rows each", "x", ours, [shown], padding)


if __name__ == "__main__":
    run_claim(__doc__, measure, ranks={"type": int, "nargs": "+", "default": [8, 64]})
