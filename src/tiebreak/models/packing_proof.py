"""Packed batches are proved on the loaded model: three short rows together must give what each gives alone.

A model that transformers gains, or changes, may compute its positions or masks in a way that our packed attention does
not know; it would then train and predict on a mixture of rows, without a word. So nothing is trusted by name.
"""

import logging
from contextlib import nullcontext

import torch

from tiebreak.attention.backends import HALF_ALONE, Attention
from tiebreak.models.fp16 import in_fp32
from tiebreak.models.heads import pool
from tiebreak.models.preference import PreferenceModel

LENGTHS = (5, 14, 9)
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""Largest difference of a hidden state, over the states' spread. Rounding of a random Llama of 32 layers was 0.055 in
bf16 on a CPU, of the tiny families in fp32 below 1e-4. Rows that leak into one another, or wrong positions, differ by
about 1."""

log = logging.getLogger(__name__)


def prove_packed(judge: PreferenceModel, device: torch.device) -> None:
    """Compare packed rows with rows alone, and let a judge that fails run padded from now on; the log says why.

    Nothing is proved of a model without weights (on the meta device). DeBERTa's own packed attention replaces that of
    transformers, so its rows alone are packed too: a batch of one.

    Args:
        judge: its mode, training or not, is left as it is.
        device: that it runs on; parameters that an engine has cut may lie elsewhere.
    """
    if not judge.attention.packed or next(judge.parameters()).is_meta:
        return
    may_overflow = judge.autocast == torch.float16 and judge.attention.backend not in HALF_ALONE  # random rows may
    training = [module for module in judge.modules() if module.training]
    judge.eval()
    try:
        with in_fp32(judge) if may_overflow else nullcontext():
            difference = packed_difference(judge, device)
    finally:
        for module in training:
            module.training = True
    tolerance = TOLERANCE[torch.float32 if may_overflow or judge.autocast is None else judge.autocast]
    if difference <= tolerance:
        return
    kind = judge.classifier.config.model_type
    log.info(
        "warning: rows of this %s packed differ from rows alone by %.2g of their spread (%.2g is rounding): it runs "
        "padded, which is slower",
        *(kind, difference, tolerance),
    )
    judge.attention = Attention("eager", f"packed rows of {kind} are not rows alone")
    judge.early = False
    judge.classifier.set_attn_implementation("eager")


@torch.no_grad()
def packed_difference(judge: PreferenceModel, device: torch.device) -> float:
    """The largest difference of the pooled hidden states of three rows packed and each alone, over their spread."""
    config = judge.classifier.config
    draw = torch.Generator().manual_seed(0)
    ordinary = max(config.vocab_size // 8, min(config.vocab_size, 8))
    rows = [torch.randint(ordinary // 2, config.vocab_size, (n,), generator=draw).to(device) for n in LENGTHS]
    try:
        packed = _pooled(judge, torch.cat(rows), list(LENGTHS))
    except (KeyError, TypeError):  # layers that do not hand on what the attention needs
        return float("inf")
    attention, early = judge.attention, judge.early
    try:
        if attention.backend != "packed-deberta":
            judge.attention, judge.early = Attention("eager", "proof"), False
            judge.classifier.set_attn_implementation("eager")
        alone = torch.cat([_pooled(judge, row, [len(row)]) for row in rows])
    finally:
        if attention.backend != "packed-deberta":
            judge.classifier.set_attn_implementation(attention.implementation)
        judge.attention, judge.early = attention, early
    return float((packed - alone).abs().max() / alone.std().clamp_min(1e-6))


def _pooled(judge: PreferenceModel, tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """fp32 hidden states (n, width) of the pooled tokens."""
    with torch.autocast(tokens.device.type, judge.autocast, enabled=judge.autocast is not None):
        hidden, starts = judge.hidden_states(tokens, lengths)
    if judge.early and judge.attention.packed:
        return hidden.float()
    return pool(hidden, starts, lengths, judge.pooling)
