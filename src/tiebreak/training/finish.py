"""End a run: the best checkpoint becomes the model folder."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


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
        # Weights that were evaluated last are still the engine's: the same pass would give the same logits.
        known = job.newest[1] if job.newest is not None and job.newest[0] == best == cursor.step else None
        logits = known if known is not None else predict_held_out(job, cursor.step)
        if logits is None:
            raise Stopped  # the last step is saved: the same command comes back to here
        if job.engine.ranks.first:
            bayes = job.valid.bayes[job.held_out] if job.valid.bayes is not None else None
            labels, chars = job.valid.labels[job.held_out], job.valid.chars[job.held_out]
            rows = baselines.compare_with_baselines(softmax(logits), labels, chars, fitted, bayes)
    engine = job.engine
    weights = engine.gathered_weights(frozen_to_save(engine.model, job.recipe)) if engine.sharded else None
    if not engine.ranks.first:
        return Run(folder, best, cursor.step, {})
    claim.check()
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


def trained_prompts(job: TrainingJob) -> np.ndarray:
    """Return the prompt groups of the rows trained on, their paraphrases, and those of a base that is a judge."""
    rows = job.rows
    if job.augmentation is not None:
        variants = job.augmentation.variants
        rows = np.array([seen for row in rows.tolist() for seen in (row, *variants.get(row, []))])
    groups = job.tokens.groups[rows]
    of_base = read_prompts(Path(job.recipe.model.base))
    return groups if of_base is None else np.concatenate([groups, of_base])
