"""`tiebreak recipes --memory`: what each recipe takes of a GPU, and how it fits on those of common sizes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tiebreak.compatibility import Setting, check_compatibility
from tiebreak.config import Recipe, load_recipe, shipped
from tiebreak.engines.choose import Choice, choose_engine
from tiebreak.errors import UserError
from tiebreak.models.architectures import find_architecture
from tiebreak.preflight.memory import GIB, estimate, flash_is_here
from tiebreak.preflight.recompute import MOST_PIECES, REDUCE_ONCE, fits, with_settings

CARDS_GB = (16, 24, 40, 80, 141)
"""Of T4, L4, A100, H100 and H200; a GB is 10^9 bytes, so that what the driver keeps is left out."""
RANKS = (2, 4, 8, 16, 32, 64)
CUT = ("zero2", "zero3", "fsdp")
"""Engines that lay one model over several cards, the one that sends least first."""
PIECES = (1, 2, 4)
NOTHING = "-"


def list_memory(name: str | None = None, changes: Sequence[str] = ()) -> str:
    """A table of GiB by recipe and card.

    Args:
        name: of one recipe; without it, all shipped ones whose base is of a known size.
        changes: of their fields, each as `key.path=value`.

    Raises:
        UserError: no such recipe, or a faulty change.
    """
    recipes = [load_recipe(one, changes) for one in ([name] if name else shipped())]
    known = [(recipe, find_architecture(recipe.model.base)) for recipe in recipes]
    rows = [(recipe.name, [how_it_fits(recipe, a, card) for card in CARDS_GB]) for recipe, a in known if a is not None]
    if not rows:
        return f"the sizes of {', '.join(recipe.model.base for recipe in recipes)} are not known here"
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{'recipe':{width}}" + "".join(f"{f'{card} GB':>19}" for card in CARDS_GB)]
    lines += [f"{name:{width}}" + "".join(f"{cell:>19}" for cell in cells) for name, cells in rows]
    flash = "with" if flash_is_here() else "without"
    return "\n".join([*lines, "", *(line.format(flash=flash) for line in LEGEND)])


LEGEND = (
    "GiB of a card in bf16, estimated {flash} flash-attn:",
    "  kept      activations are kept: train.gradient_checkpointing=auto finds that by itself",
    "  again     activations are computed again in the backward pass",
    "  /2 /4     with a half or a quarter of train.tokens_per_micro_batch, which leaves the result as it is",
    "  zero2x8   on 8 cards at least, with --ds ds_configs/zero2.json (zero3 likewise; fsdp: --engine fsdp)",
    f"  {NOTHING}         not on {RANKS[-1]} cards",
)


def how_it_fits(recipe: Recipe, architecture: dict[str, Any], card_gb: float) -> str:
    """The first way in which a recipe fits on cards of a size: on one, else on as few as can be.

    Args:
        recipe: of the training.
        architecture: of its base.
        card_gb: of each card.
    """
    there = card_gb * 1e9 / GIB
    for choice, world in _engines(recipe, architecture):
        name = f" {choice.kind}x{world}" if world > 1 else ""
        for words, smaller in _ways(recipe, choice.kind):
            needs = estimate(smaller, choice.kind, world, "cuda", architecture, choice.ds)
            if needs is not None and fits(needs, there):
                return f"{needs.gib:.0f} {words}{name}"
    return NOTHING


def _ways(recipe: Recipe, engine: str) -> Iterator[tuple[str, Recipe]]:
    """Keep activations as `auto` does, else compute them again, else with smaller micro-batches, of a row at least."""
    pieces = [count for count in PIECES if recipe.train.tokens_per_micro_batch // count >= recipe.data.max_tokens]
    kept = [(False, count) for count in pieces if count <= (MOST_PIECES if engine in REDUCE_ONCE else 1)]
    for recompute, count in [*kept, *((True, count) for count in pieces)]:
        words = "again" if recompute else "kept"
        yield words + (f"/{count}" if count > 1 else ""), with_settings(recipe, recompute, count)


def _engines(recipe: Recipe, architecture: dict[str, Any]) -> Iterator[tuple[Choice, int]]:
    """One card, then the engines that cut, on ever more cards; those that the recipe does not go with are left out."""
    yield Choice("single"), 1
    for world in RANKS:
        for kind in CUT:
            ds = None if kind == "fsdp" else Path(f"ds_configs/{kind}.json")
            try:
                check_compatibility(Setting.of(recipe, architecture["model_type"], "cuda", kind))
                yield choose_engine("auto" if ds else "fsdp", ds, recipe.train, world), world
            except UserError:
                continue
