"""The one training loop: every model, every engine, every kind of loss."""

import logging
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from tiebreak.cluster.transfer import to_device
from tiebreak.cluster.watchdog import HangWatchdog
from tiebreak.config import Recipe
from tiebreak.data.augment import Augmentation
from tiebreak.data.plan import Plan, Step
from tiebreak.data.tokens import Tokens
from tiebreak.engines.base import Engine
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import scores, softmax
from tiebreak.preemption import Stopped, StopRequest
from tiebreak.terminal import one_line
from tiebreak.training.batches import Batch, make_batch
from tiebreak.training.checkpoints import Cursor, Saver, find_checkpoint
from tiebreak.training.frozen_cache import FrozenStates
from tiebreak.training.log import RunLog
from tiebreak.training.optimizer import lr_factor, set_learning_rates
from tiebreak.training.speed import StepFlops, padded_tokens, peak_flops
from tiebreak.training.validation import predict_rows

log = logging.getLogger(__name__)

SHOWN_IDS = 40
Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
"""Logits (n, 3) and their batch -> the sum of the rows' losses."""


class StepTotals(NamedTuple):
    """Counts of one step: `padded_tokens` as computed, `flops` floating-point operations, ranks asked to stop."""

    loss: float
    tokens: float
    padded_tokens: float
    flops: float
    stop_requests: float


@dataclass
class TrainingJob:
    """All that the loop needs once everything is loaded.

    `rows` are the rows of `tokens` that `plan` speaks of; `held_out` those of `valid` to evaluate on
    (none: no evaluation). `loss` sums over a batch's rows. `targets` are the teachers' logits of the
    rows of `tokens`, as `make_batch` takes them. `augmentation` changes rows as they are trained on.
    `newest` is the step of this process's last evaluation, and its logits. `pieces` is what each micro-batch is cut
    into, after memory ran out. `until` is the step after which the run pauses, evaluated and saved (none: the plan's
    last). `frozen` are the kept states of the rows of `tokens` and of `valid`.
    """

    recipe: Recipe
    engine: Engine
    plan: Plan
    tokens: Tokens
    rows: np.ndarray
    valid: Tokens
    held_out: np.ndarray
    loss: Loss
    saver: Saver
    log: RunLog
    stop: StopRequest
    watch: HangWatchdog
    flops: StepFlops
    eval_every: int
    targets: np.ndarray | None = None
    augmentation: Augmentation | None = None
    newest: tuple[int, np.ndarray] | None = None
    pieces: int = 1
    until: int | None = None
    frozen: tuple[FrozenStates | None, FrozenStates | None] = (None, None)

    @property
    def last_step(self) -> int:
        """The step to run to: the plan's last, or that at which the run pauses."""
        return self.plan.steps if self.until is None else self.until


def fit(job: TrainingJob, cursor: Cursor) -> Cursor:
    """Run the plan from the cursor to its end, to where it pauses, or to early stopping.

    Raises:
        Stopped: asked to stop; a checkpoint of the last finished step is saved.
    """
    train, plan = job.recipe.train, job.plan
    job.engine.module.train()
    stopped = not evaluate_if_due(job, cursor)  # a run stopped during an evaluation repeats it first
    while not stopped and cursor.step < job.last_step and not out_of_patience(job, cursor):
        stopped = train_step(job, plan.step(cursor.step), cursor.step)
        cursor.step += 1
        due = is_due(job, cursor)
        if due and not stopped:
            stopped = not evaluate_if_due(job, cursor)
        if due or stopped or (train.save_every and cursor.step % train.save_every == 0):
            job.watch.at(cursor.step, "saving")
            job.saver.save(cursor)
    settle(job)
    if stopped:
        if job.engine.ranks.first:
            job.stop.clear()
        folder = job.saver.folder.parent
        log.info(
            f"stopped as requested: step {cursor.step} is saved in {folder}; go on with the same command, --resume auto"
        )
        raise Stopped
    return cursor


def settle(job: TrainingJob) -> None:
    """Wait on every rank until the last checkpoint is on disk."""
    job.saver.wait()
    job.engine.gather(None)  # a barrier: the ranks that read it next wait for the one that writes it


def is_due(job: TrainingJob, cursor: Cursor) -> bool:
    """Whether to evaluate and save now: every `eval_every` steps, after the last, and where the run pauses."""
    return cursor.step > 0 and (cursor.step % job.eval_every == 0 or cursor.step in (job.last_step, job.plan.steps))


def out_of_patience(job: TrainingJob, cursor: Cursor) -> bool:
    """Whether `train.early_stopping` evaluations in a row brought no gain."""
    patience = job.recipe.train.early_stopping
    if patience is None or cursor.without_gain < patience:
        return False
    log.info(f"no better log loss in {cursor.without_gain} evaluations: stopped early")
    return True


def train_step(job: TrainingJob, step: Step, index: int) -> bool:
    """Make one optimizer step on this rank's share of the step's rows; return whether to stop after it."""
    engine, train, started = job.engine, job.recipe.train, time.monotonic()
    ranks = engine.ranks
    rates = set_learning_rates(engine.optimizer, lr_factor(index, job.plan.steps, train.warmup, train.schedule))
    step, losses, own = accumulate_within_memory(job, step, index)
    sums, norm = engine.step(own_totals(losses, own, ranks.device))
    totals = StepTotals(*sums)
    if not (math.isfinite(totals.loss) and math.isfinite(norm)):
        raise_non_finite(job, step, index, totals.loss, norm, losses)
    seconds = time.monotonic() - started
    record = {
        "step": index + 1,
        "loss": totals.loss,
        **rates,
        "grad_norm": norm,
        "tokens": int(totals.tokens),
        "seconds": seconds,
        "tokens_per_second": totals.tokens / seconds,
        "padding": 1 - totals.tokens / totals.padded_tokens,
        "memory_gib": peak_memory_gib(ranks.device),
    }
    if peak := peak_flops(ranks.device):
        record["mfu"] = totals.flops / seconds / (peak * ranks.world)
    job.log.step(record)
    return totals.stop_requests > 0


def accumulate_within_memory(job: TrainingJob, step: Step, index: int) -> tuple[Step, list[torch.Tensor], StepTotals]:
    """Accumulate a step; where the GPU's memory runs out, clear it and begin it again, and those after it, in halves.

    One process can. Of several ranks the others are in a collective by then.

    Returns:
        The step as it was cut, and what `accumulate` returns.

    Raises:
        torch.OutOfMemoryError: with several ranks, or at one row alone.
    """
    ranks = job.engine.ranks
    while True:
        cut = step.cut(job.pieces)
        torch.manual_seed(int(np.random.SeedSequence([job.recipe.train.seed, index, ranks.rank]).generate_state(1)[0]))
        try:
            return cut, *accumulate(job, cut, index)
        except torch.OutOfMemoryError:
            if ranks.world > 1 or max(map(len, cut.micro_batches[ranks.rank])) == 1:
                raise
        # Outside the handler, whose traceback would keep the failed pass's tensors.
        job.engine.optimizer.zero_grad(set_to_none=True)
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        job.pieces *= 2
        log.warning(
            f"step {index + 1}: the GPU's memory ran out: micro-batches are cut in {job.pieces} from here on, which "
            "leaves the result as it is (train.tokens_per_micro_batch sets their size)"
        )


def accumulate(job: TrainingJob, step: Step, index: int) -> tuple[list[torch.Tensor], StepTotals]:
    """Add up the gradients of this rank's share of a step.

    Nothing here waits for the device: what the losses are is looked at once, when the step is done.

    Returns:
        The micro-batches' losses, scalars on the device; and this rank's totals, the loss left out.
    """
    engine, ranks = job.engine, job.engine.ranks
    labelled = job.targets is None or index >= job.recipe.distill.soft_only * job.plan.steps
    micro_batches = step.micro_batches[ranks.rank]
    losses: list[torch.Tensor] = []
    tokens, padded, flops = 0, 0, 0.0
    for number, members in enumerate(micro_batches, 1):
        rows = job.rows[step.rows[members]]
        job.watch.at(index + 1, "reading rows")
        seen_as = (job.augmentation, step.epoch, job.frozen[0])
        batch = make_batch(job.tokens, rows, step.swapped[members], ranks.device, job.targets, labelled, *seen_as)
        job.watch.at(index + 1, "computing")
        with engine.micro_batch(last=number == len(micro_batches)):
            loss = job.loss(engine.module(*batch.inputs), batch) / len(step.rows)
            engine.backward(loss * ranks.world)
        losses.append(loss.detach())
        if len(members):  # otherwise a row of weight zero stands in
            tokens += batch.tokens.numel()
            padded += padded_tokens(engine.model.attention.packed, batch.lengths)
            flops += job.flops.of(batch.lengths)
    return losses, StepTotals(0.0, tokens, padded, flops, float(bool(job.stop)))


def own_totals(losses: list[torch.Tensor], own: StepTotals, device: torch.device) -> torch.Tensor:
    """This rank's totals (k,) float64 on the device, the sum of its losses first.

    A loss that is not finite makes the sum not finite, so that needs no flag of its own.
    """
    totals = to_device(np.array(own, dtype=np.float64), device)
    for loss in losses:
        totals[0] += loss
    return totals


def raise_non_finite(
    job: TrainingJob, step: Step, index: int, loss: float, norm: float, losses: list[torch.Tensor]
) -> None:
    """End the run on every rank, with the rows at fault; nothing of this step is saved.

    Args:
        job: of the run.
        step: at fault.
        index: of the step, from 0.
        loss: sum over all ranks.
        norm: of the gradient; NaN where the loss is not finite.
        losses: of this rank's micro-batches, scalars.
    """
    micro_batches = step.micro_batches[job.engine.ranks.rank]
    faulty = [members for members, one in zip(micro_batches, losses, strict=True) if not torch.isfinite(one)]
    suspects = [job.tokens.ids[row] for members in faulty for row in job.rows[step.rows[members]]]
    gathered = job.engine.gather(suspects)
    ids = [row_id for suspects in gathered for row_id in suspects]
    job.saver.wait()
    newest, _ = find_checkpoint(job.saver.folder)
    raise UserError(
        f"step {index + 1}: the loss is {loss}, the gradient norm {norm}; nothing of this step was saved. "
        + (f"Rows of the micro-batches at fault: {', '.join(map(one_line, ids[:SHOWN_IDS]))}. " if ids else "")
        + f"Newest checkpoint: {newest or 'none'}. Look at these rows, or lower train.lr and start anew"
    )


def evaluate_if_due(job: TrainingJob, cursor: Cursor) -> bool:
    """Score the held-out rows if it is time, and note the best; return False if a stop was requested meanwhile."""
    if not is_due(job, cursor) or str(cursor.step) in cursor.evaluated:
        return True
    if len(job.held_out) == 0:
        cursor.best_step = cursor.step
        return True
    logits = predict_held_out(job, cursor.step)
    if logits is None:
        return False
    job.newest = cursor.step, logits
    measured = scores(softmax(logits), job.valid.labels[job.held_out])
    best = measured["log_loss"] < cursor.best_loss
    cursor.without_gain = 0 if best else cursor.without_gain + 1
    if best:
        cursor.best_loss, cursor.best_step = measured["log_loss"], cursor.step
    cursor.evaluated[str(cursor.step)] = measured
    record = {"step": cursor.step, "best": best}
    job.log.evaluation(record | {f"validation_{name}": value for name, value in measured.items() if name != "rows"})
    return True


def predict_held_out(job: TrainingJob, step: int) -> np.ndarray | None:
    """Compute logits (n, 3) of the held-out rows with the engine's weights; None if a stop was requested meanwhile."""
    budget = job.recipe.train.tokens_per_micro_batch
    return predict_rows(job.engine, job.valid, job.held_out, budget, partial(interrupted, job, step), job.frozen[1])


def interrupted(job: TrainingJob, step: int) -> bool:
    """Whether any rank was asked to stop; called between two blocks of an evaluation."""
    job.watch.at(step, "evaluating")
    return bool(job.engine.sum(torch.tensor(float(bool(job.stop)), device=job.engine.ranks.device)) > 0)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the GPU's allocator, or without a GPU of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
