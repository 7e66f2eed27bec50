"""`tiebreak preflight --fake-world N`: a job of N ranks planned here, from the token lengths of the data."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tiebreak.config import Recipe
from tiebreak.data.plan import Plan
from tiebreak.models.architectures import find_architecture
from tiebreak.preflight.traffic import ENGINES, LINKS, RATE, bytes_per_step, efficiency, find_payload
from tiebreak.tables.table import OnBadRow

ENOUGH_ROWS = 8
"""Rows of a step for each rank from which the plan can balance them."""


@dataclass(frozen=True)
class Balance:
    """Over the steps of a plan: tokens of a rank, mean and most; the mean of (most / mean); and micro-batches.

    `idle` is the share of ranks without a row.
    """

    steps: int
    mean_tokens: float
    most_tokens: float
    straggle: float
    micro_batches: float
    idle: float


def measure(plan: Plan) -> Balance:
    """Lay every step of a plan onto its ranks."""
    means, mosts, straggles, micro, idle = [], [], [], [], []
    for index in range(plan.steps):
        step = plan.step(index)
        lengths = plan.lengths[step.rows]
        tokens = np.array([sum(int(lengths[part].sum()) for part in parts) for parts in step.micro_batches])
        means.append(tokens.mean())
        mosts.append(tokens.max())
        straggles.append(tokens.max() / tokens.mean())
        micro.append(len(step.micro_batches[0]))
        idle.append((tokens == 0).mean())
    means_of = (float(np.mean(values)) for values in (means, mosts, straggles, micro, idle))
    return Balance(plan.steps, *means_of)


def simulate(
    recipe: Recipe,
    world: int,
    *,
    data: Sequence[Path] = (),
    valid: Path | Literal["none"] | None = None,
    fold: tuple[int, int] | None = None,
    on_bad_row: OnBadRow = "fail",
) -> str:
    """Plan a job of `world` ranks on this machine; returns its load balance and traffic as text.

    Args:
        recipe: of the training.
        world: number of ranks.
        data: labelled tables; none means the embedded sample.
        valid: a table to validate on; `none` trains on every row.
        fold: (k, n) validates on fold k of n.
        on_bad_row: `fail` or `skip`.
    """
    from tiebreak.data.split import read_split
    from tiebreak.models.bases import resolve_base
    from tiebreak.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    split = read_split(recipe, tokenizer, data=data, valid_from=valid, fold=fold, on_bad_row=on_bad_row)
    train = recipe.train
    lengths = split.tokens.lengths[split.train]
    started = time.perf_counter()
    plan = Plan(
        lengths,
        train.batch_size,
        train.epochs,
        train.seed,
        recipe.data.swap,
        max_steps=train.max_steps,
        world=world,
        tokens=train.tokens_per_micro_batch,
    )
    balance = measure(plan)
    seconds = time.perf_counter() - started
    lines = [
        f"{world:,} ranks, {len(lengths):,} rows of {lengths.mean():,.0f} tokens on average: {balance.steps:,} steps "
        f"of {train.batch_size:,} rows, planned in {seconds:.1f} s\n"
        f"tokens of a rank in a step: {balance.mean_tokens:,.0f} on average, {balance.most_tokens:,.0f} on the "
        f"fullest, in {balance.micro_batches:.1f} micro-batches; straggle factor {balance.straggle:.3f}"
    ]
    if train.batch_size < ENOUGH_ROWS * world:
        lines.append(
            f"note: {train.batch_size / world:.2g} rows a rank and step leave {balance.idle:.0%} of the ranks idle and "
            f"the rest uneven: take fewer ranks, or train.batch_size={ENOUGH_ROWS * world} and a learning rate to match"
        )
    architecture = find_architecture(resolve_base(recipe.model.base))
    if architecture is None:
        return "\n".join([*lines, f"traffic: unknown, as the sizes of {recipe.model.base} are"])
    return "\n".join([*lines, render_traffic(recipe, architecture, balance, world)])


def render_traffic(recipe: Recipe, architecture: dict[str, Any], balance: Balance, world: int) -> str:
    """Bytes a rank sends in a step, and the efficiency at each link speed, by engine."""
    payload = find_payload(recipe, architecture)
    head = f"{'engine':8}{'MB a step':>14}" + "".join(f"{f'{link} Gbit/s':>12}" for link in LINKS)
    lines = [
        f"what each rank sends, and the share of a step in which it computes ({RATE / 1e12:.0f} TFLOP/s, no overlap):",
        head,
    ]
    for engine in ENGINES:
        sent = bytes_per_step(engine, payload, world, balance.micro_batches)
        shares = [efficiency(sent, link, balance.mean_tokens, balance.most_tokens, payload.per_token) for link in LINKS]
        lines.append(f"{engine:8}{sent / 1e6:>14,.1f}" + "".join(f"{share:>12.1%}" for share in shares))
    return "\n".join(lines)
