"""Whether activations are kept or computed again: what `train.gradient_checkpointing=auto` means on a card.

Computing a layer's activations again in the backward pass repeats the forward pass. Where the memory estimate says that
they fit, they are kept; the result is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiebreak.cluster.ranks import Ranks
from tiebreak.config import Recipe
from tiebreak.engines.choose import Choice
from tiebreak.models.architectures import find_architecture
from tiebreak.models.bases import resolve_base
from tiebreak.preflight.memory import ERROR, GIB, Estimate, estimate

if TYPE_CHECKING:
    import torch

MOST_PIECES = 2
"""A quantised base is made whole for every micro-batch, and matrices want thousands of tokens: smaller ones cost."""
REDUCE_ONCE = ("single", "ddp", "zero1")
"""Engines whose weights and gradients do not travel more often when a step has more micro-batches."""


@dataclass(frozen=True)
class Fit:
    """How micro-batches run on a card.

    Attributes:
        recompute: whether activations are computed again in the backward pass.
        pieces: that each micro-batch of `train.tokens_per_micro_batch` is cut into.
        needs: the estimate of that; None where it is not known.
        there: GiB of the card that were compared with it; None where nothing was.
    """

    recompute: bool
    pieces: int = 1
    needs: Estimate | None = None
    there: float | None = None

    @property
    def told(self) -> str:
        """What `auto` came to, for the line at the start; empty where it was not asked."""
        if self.there is None:
            return ""
        size = f" ({self.needs.gib:.1f} of {self.there:.1f} GiB)" if self.needs else ""
        cut = f", micro-batches cut in {self.pieces}" if self.pieces > 1 else ""
        return f"; activations: {'computed again' if self.recompute else 'kept'}{size}{cut}"

    @property
    def record(self) -> dict[str, Any]:
        """What environment.json says of it."""
        return {"gradient_checkpointing": self.recompute, "micro_batches_cut_in": self.pieces}


def fits(needs: Estimate, there: float) -> bool:
    """Whether an estimate fits into `there` GiB though it may miss by `ERROR`."""
    return needs.gib * (1 + ERROR) <= there


def with_settings(recipe: Recipe, recompute: bool, pieces: int = 1) -> Recipe:
    """The recipe with activations kept or computed again, and smaller micro-batches."""
    tokens = recipe.train.tokens_per_micro_batch // pieces
    train = recipe.train.model_copy(update={"gradient_checkpointing": recompute, "tokens_per_micro_batch": tokens})
    return recipe.model_copy(update={"train": train})


def fit(recipe: Recipe, engine: str, there: float | None, needs_of: Callable[[Recipe], Estimate | None]) -> Fit:
    """Keep activations where the recipe leaves it open and they fit, if need be with micro-batches in halves.

    Args:
        recipe: of the training.
        engine: as in engines.choose.
        there: GiB that a card has for the run; None on a CPU, where they are computed again.
        needs_of: estimates a recipe.
    """
    auto = recipe.train.gradient_checkpointing == "auto"
    if auto and there is not None:
        for pieces in range(1, 1 + (MOST_PIECES if engine in REDUCE_ONCE else 1)):
            smaller = with_settings(recipe, False, pieces)
            if smaller.train.tokens_per_micro_batch < recipe.data.max_tokens:
                break
            needs = needs_of(smaller)
            if needs is not None and fits(needs, there):
                return Fit(False, pieces, needs, there)
    recompute = bool(recipe.train.gradient_checkpointing)
    return Fit(recompute, 1, needs_of(with_settings(recipe, recompute)), there if auto else None)


def fit_here(recipe: Recipe, choice: Choice, ranks: Ranks, precision: "torch.dtype") -> Fit:
    """What every rank does, by the fullest of their cards; to be called before the base is loaded.

    Args:
        recipe: of the training.
        choice: of the engine.
        ranks: this process among the job's, which has joined.
        precision: of a frozen base.
    """
    if recipe.train.gradient_checkpointing != "auto" or ranks.device.type != "cuda":
        return Fit(bool(recipe.train.gradient_checkpointing))
    import torch
    from transformers import AutoConfig

    from tiebreak.attention.backends import HALF_ALONE, choose_attention

    there, base = least(torch.cuda.mem_get_info(ranks.device)[0] / GIB), resolve_base(recipe.model.base)
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    fused = choose_attention(config, recipe.model.attention, ranks.device, precision).backend in HALF_ALONE
    architecture = find_architecture(base)
    update = {"precision": "bf16" if precision == torch.bfloat16 else "fp32"}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=update)})

    def needs_of(one: Recipe) -> Estimate | None:
        return estimate(one, choice.kind, ranks.world, "cuda", architecture, choice.ds, fused)

    return fit(recipe, choice.kind, there, needs_of)


def least(value: float) -> float:
    """The smallest of all ranks' values; every rank calls this."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    box = torch.tensor(value, dtype=torch.float64)  # on the host, where gloo serves every job
    dist.all_reduce(box, dist.ReduceOp.MIN)
    return float(box)
