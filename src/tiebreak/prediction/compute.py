"""The logits of blocks of rows: one forward pass each, in one answer order or both, within the memory there is."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tiebreak.data.tokens import Tokens
from tiebreak.evaluation.metrics import softmax
from tiebreak.models.preference import PreferenceModel
from tiebreak.prediction.parts import Part

OUT_OF_MEMORY, NOT_FINITE, SECOND_OUT_OF_MEMORY = 1, 2, 3
"""Codes of tiebreak.prediction.parts.FAILURES."""
REFUSALS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""How allocators other than CUDA's, whose error has a type of its own, say that there is no room."""

View = Callable[[np.ndarray, bool], np.ndarray]
"""Logits (n, 3) of rows (n,), swapped or not, by one forward pass."""


@dataclass(frozen=True)
class SwapPolicy:
    """Which rows are seen in the order B, A too: none, all, or those whose first view's two likeliest classes are
    less than `margin` of probability apart."""

    asked: bool = False
    margin: float | None = None

    def choose(self, logits: np.ndarray) -> np.ndarray:
        """A mask (n,) by the first view's logits (n, 3)."""
        if not self.asked or self.margin is None:
            return np.full(len(logits), self.asked)
        top = np.sort(softmax(logits), axis=1)
        return top[:, 2] - top[:, 1] < self.margin


def predict_blocks(
    judge: PreferenceModel, tokens: Tokens, blocks: Sequence[np.ndarray], swap: SwapPolicy, say: Callable[[str], None]
) -> Part:
    """The part of these blocks of rows."""
    return run_blocks(lambda rows, swapped: forward(judge, tokens, rows, swapped), tokens.lengths, blocks, swap, say)


def run_blocks(
    view: View, lengths: np.ndarray, blocks: Sequence[np.ndarray], swap: SwapPolicy, say: Callable[[str], None]
) -> Part:
    """Run the views of each block; a row that cannot be run, or whose logits are not finite, gets NaN and a code."""
    logits, seconds, codes = [], [], []
    spent, began = np.zeros(2, dtype=np.int64), time.perf_counter()
    for rows in blocks:
        first, code = _viewed(view, rows, False, lengths, say)
        spent[0] += lengths[rows].sum()
        second = np.full((len(rows) if swap.asked else 0, 3), np.nan, dtype=np.float32)
        chosen = np.flatnonzero(swap.choose(np.nan_to_num(first)) & (code == 0))
        if len(chosen):
            second[chosen], failed = _viewed(view, rows[chosen], True, lengths, say)
            spent[1] += lengths[rows[chosen]].sum()
            code[chosen] = np.where(failed == OUT_OF_MEMORY, SECOND_OUT_OF_MEMORY, failed)
            first[code == NOT_FINITE] = np.nan
        logits.append(first)
        seconds.append(second)
        codes.append(code)
    return Part(
        rows=np.concatenate(blocks),
        logits=np.concatenate(logits),
        swapped_logits=np.concatenate(seconds),
        failed=np.concatenate(codes),
        tokens=spent,
        seconds=np.array([time.perf_counter() - began]),
    )


def forward(judge: PreferenceModel, tokens: Tokens, rows: np.ndarray, swapped: bool) -> np.ndarray:
    """Logits (n, 3) float32 of the rows (n,) in one order, one forward pass."""
    texts = [text for row in rows for text in tokens.texts(int(row), swapped)]
    device = next(judge.parameters()).device
    flat = torch.from_numpy(np.concatenate(texts)).to(device, torch.int64)
    found = tokens.numbers_of(rows, np.full(len(rows), swapped))
    numbers = None if found is None else torch.from_numpy(found).to(device)
    with torch.inference_mode():
        return judge(flat, [len(text) for text in texts], numbers).float().cpu().numpy()


def _viewed(view: View, rows: np.ndarray, swapped: bool, lengths: np.ndarray, say) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 3), NaN for rows without any, and codes (n,); rows are halved where memory runs out."""
    try:
        logits = np.array(view(rows, swapped), dtype=np.float32)
        code = np.where(np.isfinite(logits).all(1), 0, NOT_FINITE).astype(np.int8)
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
        say(f"out of memory at one row of {total:,} tokens, alone")
        return np.full((1, 3), np.nan, dtype=np.float32), np.array([OUT_OF_MEMORY], dtype=np.int8)
    say(f"out of memory at {len(rows):,} rows of {total:,} tokens: split in two (lower predict.tokens_per_block)")
    halves = [_viewed(view, half, swapped, lengths, say) for half in np.array_split(rows, 2)]
    return np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that the memory, of whatever device, did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error).lower() for words in REFUSALS)
