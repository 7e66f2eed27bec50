"""The end of a run: the best checkpoint becomes the model folder."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiebreak.evaluation import baselines
from tiebreak.evaluation.metrics import softmax
from tiebreak.evaluation.table import compare, render
from tiebreak.files import write_json
from tiebreak.labels import NO_LABEL
from tiebreak.models.folder import read_prompts, save_model
from tiebreak.models.loading import choose_precision
from tiebreak.preemption import Stopped
from tiebreak.report.card import leave_card
from tiebreak.report.curves import leave_curves
from tiebreak.training.checkpoints import Cursor, folder_of, load_weights
from tiebreak.training.claim import Claim
from tiebreak.training.evaluate import predict_rows
from tiebreak.training.loop import Job, interrupted
from tiebreak.training.start import new_model


def finish(job: Job, cursor: Cursor, claim: Claim, tokenizer, learnt_from: dict[str, Any]) -> None:
    """Take the best checkpoint, score it beside the baselines, and leave model/ and metrics.json.

    Args:
        learnt_from: what metrics.json says of the teachers, empty without them.
    """
    folder = claim.folder
    best = cursor.best_step or cursor.step
    if best != cursor.step:
        load_weights(folder_of(job.saver.folder, best), job.engine)
    labelled = job.rows[job.tokens.labels[job.rows] != NO_LABEL]
    fitted = baselines.fit(job.tokens.chars[labelled], job.tokens.labels[labelled])
    rows: dict[str, dict[str, float]] = {}
    if len(job.held_out):
        budget = job.recipe.train.tokens_per_micro_batch
        logits = predict_rows(job.engine, job.valid, job.held_out, budget, partial(interrupted, job, cursor.step))
        if logits is None:
            raise Stopped  # the last step is saved: the same command comes back to here
        if job.engine.ranks.first:
            bayes = job.valid.bayes[job.held_out] if job.valid.bayes is not None else None
            labels, chars = job.valid.labels[job.held_out], job.valid.chars[job.held_out]
            rows = compare(softmax(logits), labels, chars, fitted, bayes)
    precision = choose_precision(job.recipe.train.precision, job.engine.ranks.device)
    judge = job.engine.gathered_model(
        lambda: new_model(job.recipe, tokenizer, torch.device("cpu"), precision, job.tokens, job.rows)
    )
    if not job.engine.ranks.first:
        return
    claim.check()
    save_model(
        judge, tokenizer, job.recipe, fitted, folder / "model", trained_prompts(job), learnt_from.get("in_sample", ())
    )
    record = {"best_step": best, "steps": cursor.step, "validation": rows}
    write_json(folder / "metrics.json", record | learnt_from)
    if rows:
        job.log.say(f"held-out rows, best of {len(cursor.evaluated)} evaluations (step {best}):\n{render(rows)}")
    leave_card(folder, job.log.say)
    leave_curves(folder, job.log.say)
    job.log.say(f"model: {folder / 'model'}")


def trained_prompts(job: Job) -> np.ndarray:
    """The prompt groups of the rows trained on, their paraphrases, and what the base was trained on, if a judge."""
    rows = job.rows
    if job.augmentation is not None:
        variants = job.augmentation.variants
        rows = np.array([k for row in rows.tolist() for k in (row, *variants.get(row, []))])
    mine = job.tokens.groups[rows]
    before = read_prompts(Path(job.recipe.model.base))
    return mine if before is None else np.concatenate([mine, before])
