"""The logits of blocks of rows: one forward pass each, in one answer order or both, within the memory there is."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from tiebreak.cluster.transfer import to_device
from tiebreak.data.plan import blocks as cut_blocks
from tiebreak.data.tokens import Tokens
from tiebreak.models.fp16 import in_fp32
from tiebreak.models.preference import PreferenceModel
from tiebreak.prediction.finished import gather, order_probabilities
from tiebreak.prediction.onnx_model import open_onnx
from tiebreak.prediction.parts import Failure, Part, lacks_logits
from tiebreak.prediction.swap import SwapPolicy

log = logging.getLogger(__name__)

REFUSALS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""What allocators say without memory, other than CUDA's, whose error has a type of its own."""

Forward = Callable[[np.ndarray, bool], np.ndarray]
"""Logits (n, 3) of rows (n,), swapped or not, by one forward pass."""


@dataclass(frozen=True)
class TokenPrediction:
    """A model's prediction in memory.

    Attributes:
        probabilities: (n, 3) float64 of A, B and tie, before rounding to the nine decimals of a table
            (`tiebreak.data.predictions.round_probabilities`).
        orders: (2, n, 3) of the orders A, B and B, A, both in the table's A and B; None if not all rows were swapped.
        failed: (n,) int8, codes of `Failure`.
    """

    probabilities: np.ndarray
    orders: np.ndarray | None
    failed: np.ndarray


def predict_tokens(
    model: PreferenceModel,
    tokens: Tokens,
    swap: SwapPolicy | bool = False,
    *,
    tokens_per_block: int,
    prior: Sequence[float],
) -> TokenPrediction:
    """Predict rows in memory: the same numbers as `predict` writes with the same settings, without a file.

    Args:
        model: in evaluation mode.
        tokens: the rows.
        swap: whether, or which, rows are seen in the order B, A too and get the mean of both.
        tokens_per_block: largest number of tokens of a forward pass (one row may have more); the recipe's
            `predict.tokens_per_block`. Rows of other blocks differ by fp32 rounding.
        prior: three probabilities for rows that cannot be read or have no logits: the class shares in training.
    """
    swap = SwapPolicy(swap) if isinstance(swap, bool) else swap
    part = predict_blocks(model, tokens, cut_blocks(tokens.lengths, tokens_per_block), swap)
    logits, _ = gather([part], len(tokens), swap.enabled)
    orders = order_probabilities(logits.values, lacks_logits(logits.failed) | tokens.unreadable, prior)
    both = swap.enabled and swap.margin is None
    return TokenPrediction(orders.mean(axis=0), orders if both else None, logits.failed)


def predict_blocks(model: PreferenceModel, tokens: Tokens, blocks: Sequence[np.ndarray], swap: SwapPolicy) -> Part:
    """Compute the part of these blocks of rows."""
    return run_blocks(lambda rows, swapped: forward(model, tokens, rows, swapped), tokens.lengths, blocks, swap)


def run_blocks(compute: Forward, lengths: np.ndarray, blocks: Sequence[np.ndarray], swap: SwapPolicy) -> Part:
    """Run the forward passes of each block; a row that cannot be run, or without finite logits, gets NaN and a code.

    Args:
        compute: a forward pass.
        lengths: tokens of every row of the table.
        blocks: rows of each block.
        swap: which rows are seen in the order B, A too.
    """
    logits, swapped_logits, codes = [], [], []
    spent, began = np.zeros(2, dtype=np.int64), time.perf_counter()
    for rows in blocks:
        first, code = _run_within_memory(compute, rows, False, lengths)
        spent[0] += lengths[rows].sum()
        second = np.full((len(rows) if swap.enabled else 0, 3), np.nan, dtype=np.float32)
        again = np.flatnonzero(swap.choose(np.nan_to_num(first)) & (code == Failure.NONE))
        if len(again):
            second[again], failed = _run_within_memory(compute, rows[again], True, lengths)
            spent[1] += lengths[rows[again]].sum()
            code[again] = np.where(failed == Failure.OUT_OF_MEMORY, Failure.SWAPPED_OUT_OF_MEMORY, failed)
            first[code == Failure.NOT_FINITE] = np.nan
        logits.append(first)
        swapped_logits.append(second)
        codes.append(code)
    return Part(
        rows=np.concatenate(blocks),
        logits=np.concatenate(logits),
        swapped_logits=np.concatenate(swapped_logits),
        failed=np.concatenate(codes),
        tokens=spent,
        seconds=np.array([time.perf_counter() - began]),
    )


def forward(model: PreferenceModel, tokens: Tokens, rows: np.ndarray, swapped: bool) -> np.ndarray:
    """Compute the logits (n, 3) float32 of rows (n,) in one order, by one forward pass.

    Rows that fp16 cannot hold have a second one, in fp32.
    """
    logits = _forward(model, tokens, rows, swapped)
    if model.autocast == torch.float16 and (lost := ~np.isfinite(logits).all(1)).any():
        _tell_of_fp32()
        with in_fp32(model):
            logits[lost] = _forward(model, tokens, rows[lost], swapped)
    return logits


@lru_cache(maxsize=1)
def _tell_of_fp32() -> None:
    log.info("some rows are beyond what fp16 holds: they are computed again in fp32 (said once)")


def _forward(model: PreferenceModel, tokens: Tokens, rows: np.ndarray, swapped: bool) -> np.ndarray:
    texts = [text for row in rows for text in tokens.input_ids(int(row), swapped)]
    device = next(model.parameters()).device
    flat = to_device(np.concatenate(texts).astype(np.int64), device)
    values = tokens.features_of(rows, np.full(len(rows), swapped))
    features = None if values is None else to_device(values, device)
    with torch.inference_mode():
        logits: torch.Tensor = model(flat, [len(text) for text in texts], features)
        return np.array(logits.float().cpu().numpy())


def onnx_forward(folder: Path, tokens: Tokens) -> Forward:
    """The forward passes of an exported judge by onnxruntime, over these rows."""
    model = open_onnx(folder)

    def compute(rows: np.ndarray, swapped: bool) -> np.ndarray:
        texts = [tokens.input_ids(int(row), swapped) for row in rows]
        return model.logits(texts, tokens.features_of(rows, np.full(len(rows), swapped)))

    return compute


def _run_within_memory(
    compute: Forward, rows: np.ndarray, swapped: bool, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, 3), NaN for rows without any, and codes (n,); rows are halved where memory runs out."""
    try:
        logits = np.array(compute(rows, swapped), dtype=np.float32)
        code = np.where(np.isfinite(logits).all(1), Failure.NONE, Failure.NOT_FINITE).astype(np.int8)
        logits[code > 0] = np.nan
        return logits, code
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, whose traceback would keep the failed pass's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    total = int(lengths[rows].sum())
    if len(rows) == 1:
        log.warning(
            f"out of memory at one row of {total:,} tokens, alone: it gets the class prior (lower data.max_tokens)"
        )
        return np.full((1, 3), np.nan, dtype=np.float32), np.array([Failure.OUT_OF_MEMORY], dtype=np.int8)
    log.warning(
        f"out of memory at {len(rows):,} rows of {total:,} tokens: split in two (lower predict.tokens_per_block)"
    )
    halves = [_run_within_memory(compute, half, swapped, lengths) for half in np.array_split(rows, 2)]
    return np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory, of whatever device, did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in REFUSALS)
