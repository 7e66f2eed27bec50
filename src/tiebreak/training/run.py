"""A training run from the command line to the model folder."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiebreak.cluster.ranks import agree, find_ranks, joined, settle_process
from tiebreak.compatibility import Setting, check_compatibility
from tiebreak.config import Recipe, load_recipe
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.data.plan import Plan
from tiebreak.data.sample import sample_file
from tiebreak.data.tokens import Tokens, prepare
from tiebreak.engines.choose import choose_engine, make_engine
from tiebreak.errors import UserError
from tiebreak.files import write_json
from tiebreak.models.loading import build_judge, choose_precision, find_model_type, load_tokenizer, save_judge
from tiebreak.report import baselines
from tiebreak.report.card import leave_card
from tiebreak.report.curves import leave_curves
from tiebreak.report.metrics import softmax
from tiebreak.report.table import compare, render
from tiebreak.training.checkpoints import Cursor, Saver, folder_of, load_cursor, load_optimizer, load_weights
from tiebreak.training.claim import Claim
from tiebreak.training.evaluate import predict_rows
from tiebreak.training.folder import CHECKPOINTS, default_folder, describe, keep_problems, open_folder, refuse_used
from tiebreak.training.log import RunLog
from tiebreak.training.loop import Job, fit, interrupted
from tiebreak.training.losses import cross_entropy
from tiebreak.training.optimizer import build_optimizer
from tiebreak.training.preemption import Stopped, StopRequest
from tiebreak.training.speed import StepFlops
from tiebreak.training.watch import Watch

WATCH_FIRST_S = 60
"""The watch speaks this long before a collective times out: it knows who is at fault."""
HOLD_OUT = "0/10"


def train(options: argparse.Namespace) -> int:
    """Train a judge as the command line says; returns the exit code."""
    recipe = load_recipe(options.recipe, options.set)
    if options.model:
        recipe.model.base = options.model
    if options.resume and not options.out:
        raise UserError("--resume auto needs --out, the run folder to go on with")
    if options.out and not options.resume:
        refuse_used(Path(options.out))
    ranks = find_ranks()
    settle_process()
    say = print if ranks.first else (lambda text: None)
    choice = choose_engine(options.engine, options.ds, recipe.train, ranks.world)
    model_type = find_model_type(recipe.model.base)
    for warning in check_compatibility(Setting.of(recipe, model_type, ranks.device.type, choice.kind)):
        say(warning)

    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    rows = read_rows(options, recipe, tokenizer, say)

    timeout_s = recipe.train.timeout_s
    with joined(ranks, timeout_s + WATCH_FIRST_S, always=choice.kind not in ("single", "ddp")):
        folder = agree(Path(options.out) if options.out else default_folder(recipe))
        resume = options.resume is not None
        claim, found, notes = open_folder(folder, recipe, rows.description, resume, ranks)
        precision = choose_precision(recipe.train.precision, ranks.device)
        judge = build_judge(recipe, tokenizer, ranks.device, precision)
        trained = sum(parameter.numel() for parameter in judge.parameters() if parameter.requires_grad)
        flops = StepFlops(judge, recipe.train.gradient_checkpointing)
        engine = make_engine(judge, partial(build_optimizer, train=recipe.train), ranks, recipe, choice)
        plan = Plan(
            rows.tokens.lengths[rows.train],
            recipe.train.batch_size,
            recipe.train.epochs,
            recipe.train.seed,
            recipe.data.swap,
            max_steps=recipe.train.max_steps,
            world=ranks.world,
            tokens=recipe.train.tokens_per_micro_batch,
        )
        cursor = Cursor()
        if resume and found is None:
            notes.append("no checkpoint to resume from: this run starts at the first step")
        if found is not None:
            cursor = load_cursor(found)
            load_weights(found, engine)
            load_optimizer(found, engine)
            notes.append(f"resumed from {found.name}")
        if ranks.first:
            describe(folder, engine, rows.description)
            notes += keep_problems(folder, rows.tokens)
        log = RunLog(folder, recipe, plan.steps, ranks.first, cursor.step)
        log.say(
            f"{recipe.name}: {len(rows.train):,} rows to train on, {len(rows.held_out):,} held out, "
            f"{plan.steps:,} steps; {trained:,} trained parameters; "
            f"{engine.name}, {ranks.world} rank{'s' * (ranks.world > 1)}, {str(precision).removeprefix('torch.')}; "
            f"attention: {judge.attention.implementation} ({judge.attention.reason})"
        )
        for note in [*notes, f"run folder: {folder}"]:
            log.say(note)
        job = Job(
            recipe=recipe,
            engine=engine,
            plan=plan,
            tokens=rows.tokens,
            rows=rows.train,
            valid=rows.valid,
            held_out=rows.held_out,
            loss=partial(cross_entropy, smoothing=recipe.train.label_smoothing),
            saver=Saver(folder / CHECKPOINTS, engine, recipe.train.keep, claim, timeout_s),
            log=log,
            stop=StopRequest(folder),
            watch=Watch(ranks, timeout_s),
            flops=flops,
            eval_every=recipe.train.eval_every or math.ceil(plan.steps_per_epoch / 4),
        )
        try:
            cursor = fit(job, cursor)
            finish(job, cursor, claim, tokenizer)
        finally:
            job.watch.close()
            log.close()
    return 0


@dataclass(frozen=True)
class Rows:
    """What a run learns from and is judged by.

    `train` are rows of `tokens`, `held_out` rows of `valid` (often the same table). `description`
    names tables and split: a resumed run must have the same.
    """

    tokens: Tokens
    train: np.ndarray
    valid: Tokens
    held_out: np.ndarray
    description: dict[str, Any]


def read_rows(options: argparse.Namespace, recipe: Recipe, tokenizer, say: Callable[[str], None]) -> Rows:
    """Prepare the tables and part what is trained on from what is held out."""
    if options.valid and options.fold:
        raise UserError("--valid and --fold both say what to validate on: give one of them")
    fold, folds = parse_fold(options.fold or HOLD_OUT)

    def prepared(files: list[Path]) -> Tokens:
        settings = (recipe.model.template, recipe.data, options.on_bad_row)
        return prepare(files, tokenizer, *settings, need_labels=True, say=say)

    files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
    if options.data:
        say(f"data: {', '.join(map(str, files))}")
    else:
        say(f"data: the embedded sample, as no --data was given ({recipe.data.sample_rows:,} rows)")
    tokens = valid = prepared(files)
    everything = np.arange(len(tokens))
    train, held_out = everything, everything[:0]
    if options.valid and options.valid != "none":
        valid = prepared([Path(options.valid)])
        held_out = np.arange(len(valid))
        if shared := int(np.isin(valid.groups, tokens.groups).sum()):
            say(f"warning: {shared:,} rows of {options.valid} have a prompt that is also trained on")
    elif not options.valid:
        assigned = assign_folds(tokens.labels, tokens.groups, folds, recipe.data.folds_seed)
        train, held_out = everything[assigned != fold], everything[assigned == fold]
        if not options.fold:
            say("validation: a tenth of the prompts is held out (--valid, --fold or --valid none to say otherwise)")
    if recipe.data.share < 1:
        kept = max(1, round(recipe.data.share * len(train)))
        train = np.sort(np.random.default_rng(recipe.data.folds_seed).permutation(train)[:kept])
    description = {
        "data": [str(path) for path in files],
        "tokens": tokens.folder.name,
        "valid": options.valid if options.valid == "none" else valid.folder.name,
        "fold": None if options.valid else f"{fold}/{folds}",
        "rows_trained": len(train),
        "rows_held_out": len(held_out),
    }
    return Rows(tokens, train, valid, held_out, description)


def finish(job: Job, cursor: Cursor, claim: Claim, tokenizer) -> None:
    """Take the best checkpoint, score it beside the baselines, and leave model/ and metrics.json."""
    folder = claim.folder
    best = cursor.best_step or cursor.step
    if best != cursor.step:
        load_weights(folder_of(job.saver.folder, best), job.engine)
    fitted = baselines.fit(job.tokens.chars[job.rows], job.tokens.labels[job.rows])
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
    judge = job.engine.whole_judge(lambda: build_judge(job.recipe, tokenizer, torch.device("cpu"), precision))
    if not job.engine.ranks.first:
        return
    claim.check()
    save_judge(judge, tokenizer, job.recipe, fitted, folder / "model")
    write_json(folder / "metrics.json", {"best_step": best, "steps": cursor.step, "validation": rows})
    if rows:
        job.log.say(f"held-out rows, best of {len(cursor.evaluated)} evaluations (step {best}):\n{render(rows)}")
    leave_card(folder, job.log.say)
    leave_curves(folder, job.log.say)
    job.log.say(f"model: {folder / 'model'}")
