"""What a training step sends over the network, and how much time that costs beside the arithmetic.

A ring over N ranks sends (N - 1) / N of a buffer from each rank to reduce or to gather it, and twice that to do both
(all-reduce; Patarasuk and Yuan 2009, doi 10.1016/j.jpdc.2008.09.002). What each stage of ZeRO reduces and gathers
is in Rajbhandari et al. 2020 (arXiv 1910.02054, section 7); FSDP2 is as ZeRO-3, but it sums the gradients of a step's
micro-batches before it reduces them. A ring enters and leaves each node once, however many ranks it has
there, so that a node's link carries what one rank sends.
"""

from dataclasses import dataclass
from typing import Any

from tiebreak.compatibility import FAMILIES
from tiebreak.config import Recipe
from tiebreak.models.architectures import count_weights
from tiebreak.preflight.memory import NF4, trained_weights

ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp")
LINKS = (10, 25, 100, 200, 400)
"""Gbit/s of a node's link."""
RATE = 400e12
"""FLOP/s that a GPU is taken to reach: 40 % of the dense bf16 peak of an H100 (989e12)."""


@dataclass(frozen=True)
class Payload:
    """Bytes of the gradients that are reduced, of the trained weights, and of all weights that sharded engines gather.

    `per_token` is the arithmetic of a token in FLOP, as in training/speed.py without attention.
    """

    gradients: float
    trained: float
    gathered: dict[str, float]
    per_token: float


def find_payload(recipe: Recipe, architecture: dict[str, Any]) -> Payload:
    """Return what a recipe's steps send on GPUs with bf16."""
    sizes = count_weights(architecture)
    trained = trained_weights(recipe, sizes, architecture)
    method = recipe.model.method
    half = 4 if recipe.train.precision == "fp32" else 2
    if method == "full":
        # FSDP2 gathers a decoder's weights in the precision's type, ZeRO-3 in fp32, as they are kept.
        decoder = FAMILIES[architecture["model_type"]].decoder
        gathered = {"zero3": 4.0 * sizes.total, "fsdp": (half if decoder else 4.0) * sizes.total}
    else:
        each = half if method == "lora" else NF4 if recipe.model.bits == 4 else 1
        both = each * sizes.linear + half * (sizes.base - sizes.linear) + 4.0 * trained
        gathered = {"zero3": both, "fsdp": both}
    passes = 3 if recipe.train.gradient_checkpointing else 2
    own = min(trained, sizes.linear) if method == "full" else 0
    return Payload(4.0 * trained, 4.0 * trained, gathered, 2.0 * passes * sizes.linear + 2.0 * own)


def bytes_per_step(engine: str, payload: Payload, world: int, micro_batches: float) -> float:
    """Bytes that each rank sends in a step of `micro_batches` micro-batches.

    DDP all-reduces the gradients once. ZeRO-1 reduces them once and gathers the updated weights; ZeRO-2 reduces
    after every micro-batch. ZeRO-3 gathers all weights for the forward and again for the backward pass of every
    micro-batch and reduces after each; FSDP2 reduces once.
    """
    ring = (world - 1) / world
    if engine == "ddp":
        return 2 * ring * payload.gradients
    if engine in ("zero1", "zero2"):
        return ring * ((1 if engine == "zero1" else micro_batches) * payload.gradients + payload.trained)
    reductions = micro_batches if engine == "zero3" else 1
    return ring * (2 * micro_batches * payload.gathered[engine] + reductions * payload.gradients)


def efficiency(sent: float, link_gbit: float, mean_tokens: float, most_tokens: float, per_token: float) -> float:
    """Share of a step in which a rank computes, sending and computing in turn: a lower bound, as engines overlap them.

    Args:
        sent: bytes that a rank sends in a step.
        link_gbit: Gbit/s of a node's link.
        mean_tokens: of a rank in a step.
        most_tokens: of the rank that all wait for.
        per_token: FLOP of a token.
    """
    working, waiting = mean_tokens * per_token / RATE, most_tokens * per_token / RATE
    return working / (waiting + sent / (link_gbit * 1e9 / 8))
