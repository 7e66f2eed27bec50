"""End a run: the best checkpoint becomes the model folder."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiebreak.errors import UserError
from tiebreak.evaluation import baselines
from tiebreak.evaluation.metrics import softmax
from tiebreak.files import write_json
from tiebreak.labels import NO_LABEL
from tiebreak.models.bases import BaseRecord
from tiebreak.models.folder import read_prompts, save_model
from tiebreak.models.sharded import frozen_to_save
from tiebreak.plurals import plural
from tiebreak.preemption import Stopped
from tiebreak.training.checkpoints import Cursor, folder_of, load_weights
from tiebreak.training.claim import Claim
from tiebreak.training.loop import TrainingJob, predict_held_out
from tiebreak.training.run_folder import ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows under the weights of a step.

    Attributes:
        step: of the weights. steps: of the whole plan.
        ids: of the rows. labels: (n,). logits: (n, 3) float64.
    """

    step: int
    steps: int
    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Pause:
    """Where a run pauses, and who is told on rank 0; the same call with a later one, or without, goes on.

    Attributes:
        share: of the plan's steps after which it pauses, rounded up; 1 is the whole run.
        reached: called there with the held-out rows.
        failed: called with a mistake that ends the run, which `train` itself may not live to raise.
    """

    share: float
    reached: Callable[[HeldOut], None]
    failed: Callable[[UserError], None]

    def step(self, steps: int) -> int:
        """The step at which a plan of so many pauses."""
        return min(steps, math.ceil(steps * self.share - 1e-9))

    @contextmanager
    def telling(self, first: bool) -> Iterator[None]:
        """Tell of mistakes within, if this is rank 0."""
        try:
            yield
        except UserError as error:
            if first:
                self.failed(error)
            raise


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training run.

    Attributes:
        folder: the run folder. best_step: whose weights are in the model folder. steps: made in all.
        metrics: what metrics.json holds; `validation` has the scores of the model and the baselines by name.
    """

    folder: Path
    best_step: int
    steps: int
    metrics: dict[str, Any]

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.folder / "model"

    def __repr__(self) -> str:
        text = f"{self.folder}: {plural(self.steps, 'step')}, the model is that of step {self.best_step}"
        scores = self.metrics.get("validation")
        return f"{text}\n{baselines.render_comparison(scores)}" if scores else text


def finish(
    job: TrainingJob,
    cursor: Cursor,
    claim: Claim,
    tokenizer: "PreTrainedTokenizerBase",
    teachers_record: dict[str, Any],
    on_done: Callable[[Run], None] | None = None,
    base: BaseRecord | None = None,
) -> Run:
    """Take the best checkpoint, score it beside the baselines, and leave model/ and metrics.json.

    Args:
        job: of the run.
        cursor: where the loop ended.
        claim: this run's on its folder.
        tokenizer: saved beside the model.
        teachers_record: what metrics.json says of the teachers, empty without them.
        on_done: called on rank 0 when all is written.
        base: as it was when the run began.

    Returns:
        The run; its metrics are known on rank 0 alone.
    """
    folder = claim.folder
    best = cursor.best_step or cursor.step
    if best != cursor.step:
        load_weights(folder_of(job.saver.folder, best), job.engine)
    labelled = job.rows[job.tokens.labels[job.rows] != NO_LABEL]
    fitted = baselines.fit(job.tokens.chars[labelled], job.tokens.labels[labelled])
    rows: dict[str, dict[str, float]] = {}
    if len(job.held_out):
        logits = evaluated_logits(job, best)
        if job.engine.ranks.first:
            bayes = job.valid.bayes[job.held_out] if job.valid.bayes is not None else None
            labels, chars = job.valid.labels[job.held_out], job.valid.chars[job.held_out]
            rows = baselines.compare_with_baselines(softmax(logits), labels, chars, fitted, bayes)
    engine = job.engine
    weights = engine.gathered_weights(frozen_to_save(engine.model, job.recipe)) if engine.sharded else None
    if not engine.ranks.first:
        return Run(folder, best, cursor.step, {})
    claim.check()
    if not (folder / ROWS).is_file():
        raise UserError(
            f"{folder / ROWS} is gone: was the folder emptied meanwhile? Run the command into another --out"
        )
    in_sample = teachers_record.get("in_sample", ())
    trained = trained_prompts(job)
    place = folder / "model"
    save_model(engine.model, tokenizer, job.recipe, fitted, place, trained, in_sample, base=base, weights=weights)
    record = {"best_step": best, "steps": cursor.step, "validation": rows} | teachers_record
    write_json(folder / "metrics.json", record)
    if rows:
        table = baselines.render_comparison(rows)
        log.info(f"held-out rows, best of {len(cursor.evaluated)} evaluations (step {best}):\n{table}")
    run = Run(folder, best, cursor.step, record)
    if on_done is not None:
        on_done(run)
    log.info(f"model: {run.model}")
    return run


def tell_held_out(job: TrainingJob, cursor: Cursor, pause: Pause) -> None:
    """Tell of the held-out rows under the weights of the step at which the run stands.

    Raises:
        UserError: that step is another than where it was to pause.
    """
    if cursor.step != job.last_step:
        folder = job.saver.folder.parent
        raise UserError(
            f"{folder} stands at step {cursor.step}, not {job.last_step}: empty it, or choose another --out"
        )
    logits = evaluated_logits(job, cursor.step)
    if job.engine.ranks.first:
        ids = [job.valid.ids[row] for row in job.held_out]
        pause.reached(HeldOut(cursor.step, job.plan.steps, ids, job.valid.labels[job.held_out], logits))


def evaluated_logits(job: TrainingJob, step: int) -> np.ndarray:
    """Logits (n, 3) of the held-out rows under the engine's weights, which are those of the step.

    Those of this process's last evaluation, if that was there: the same pass would give the same.

    Raises:
        Stopped: asked to stop meanwhile; the last step is saved, and the same command comes back to here.
    """
    if job.newest is not None and job.newest[0] == step:
        return job.newest[1]
    logits = predict_held_out(job, step)
    if logits is None:
        raise Stopped
    return logits


def trained_prompts(job: TrainingJob) -> np.ndarray:
    """Return the prompt groups of the rows trained on, their paraphrases, and those of a base that is a judge."""
    rows = job.rows
    if job.augmentation is not None:
        variants = job.augmentation.variants
        rows = np.array([seen for row in rows.tolist() for seen in (row, *variants.get(row, []))])
    groups = job.tokens.groups[rows]
    of_base = read_prompts(Path(job.recipe.model.base))
    return groups if of_base is None else np.concatenate([groups, of_base])
