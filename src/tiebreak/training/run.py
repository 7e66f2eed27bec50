"""A training run from the command line to the model folder."""

import argparse
import math
from functools import partial
from pathlib import Path

import torch

from tiebreak.cluster.ranks import agree, find_ranks, joined, settle_process
from tiebreak.cluster.watchdog import HangWatchdog
from tiebreak.compatibility import Setting, check_compatibility
from tiebreak.config import load_recipe
from tiebreak.data.augment import Augmentation
from tiebreak.data.plan import Plan
from tiebreak.data.split import read_rows
from tiebreak.engines.choose import choose_engine, make_engine
from tiebreak.errors import UserError
from tiebreak.models.loading import choose_precision, find_model_type, load_tokenizer
from tiebreak.models.preference import count_parameters
from tiebreak.preemption import StopRequest
from tiebreak.preflight.checks import Job as Preflight
from tiebreak.preflight.checks import look, look_at_network, wanted
from tiebreak.training.checkpoints import Cursor, Saver, load_cursor, load_optimizer, load_weights
from tiebreak.training.finish import finish
from tiebreak.training.folder import CHECKPOINTS, default_folder, describe, keep_problems, open_folder, refuse_used
from tiebreak.training.log import RunLog
from tiebreak.training.loop import Job, Loss, fit
from tiebreak.training.losses import cross_entropy, distillation
from tiebreak.training.optimizer import build_optimizer
from tiebreak.training.speed import StepFlops
from tiebreak.training.start import new_model
from tiebreak.training.teachers import find_teachers

WATCH_FIRST_S = 60
"""The watch speaks this long before a collective times out: it knows who is at fault."""


def train(options: argparse.Namespace) -> int:
    """Train a judge as the command line says, from labels and, if there are any, teachers; returns the exit code."""
    recipe = load_recipe(options.recipe, options.set, options.model)
    if options.resume and not options.out:
        raise UserError("--resume auto needs --out, the run folder to go on with")
    if options.out and not options.resume:
        refuse_used(Path(options.out))
    ranks = find_ranks()
    settle_process()
    say = print if ranks.first else (lambda text: None)
    choice = choose_engine(options.engine, options.ds, recipe.train, ranks.world)
    preflight = Preflight.of(options, recipe, ranks, choice) if wanted() else None
    met = look(preflight) if preflight else None
    model_type = find_model_type(recipe.model.base)
    for warning in check_compatibility(Setting.of(recipe, model_type, ranks.device.type, choice.kind)):
        say(warning)

    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    rows = read_rows(options, recipe, tokenizer, say)
    teachers = None
    loss: Loss = partial(cross_entropy, smoothing=recipe.train.label_smoothing)
    if options.teachers:
        teachers = find_teachers(options.teachers, options.allow_in_sample, rows, recipe.distill, say)
        rows.description.update(teachers.description)
        weights = torch.tensor(teachers.weights, dtype=torch.float32)
        smoothing = recipe.train.label_smoothing
        loss = partial(distillation, settings=recipe.distill, teacher_weights=weights, smoothing=smoothing)
    learnt_from = teachers.record if teachers else {}

    timeout_s = recipe.train.timeout_s
    with joined(ranks, timeout_s + WATCH_FIRST_S, always=choice.kind not in ("single", "ddp"), met=met):
        if preflight and met:
            look_at_network(preflight, met)
        folder = agree(Path(options.out) if options.out else default_folder(recipe))
        resume = options.resume is not None
        claim, found, notes = open_folder(folder, recipe, rows.description, resume, ranks)
        precision = choose_precision(recipe.train.precision, ranks.device)
        judge = new_model(recipe, tokenizer, ranks.device, precision, rows.tokens, rows.train)
        parameters, trained = count_parameters(judge)
        flops = StepFlops(judge, recipe.train.gradient_checkpointing)
        engine = make_engine(judge, partial(build_optimizer, train=recipe.train), ranks, recipe, choice)
        plan = Plan(
            rows.longest,
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
            sizes = {"parameters": parameters, "trained_parameters": trained}
            describe(folder, engine, sizes | rows.description | learnt_from)
            notes += keep_problems(folder, rows.problems)
        log = RunLog(folder, recipe, plan.steps, ranks.first, cursor.step)
        log.say(
            f"{recipe.name}: {len(rows.train):,} rows to train on, {len(rows.held_out):,} held out, "
            f"{plan.steps:,} steps; {trained:,} trained parameters; "
            f"{engine.name}, {ranks.world} rank{'s' * (ranks.world > 1)}, {str(precision).removeprefix('torch.')}; "
            f"attention: {judge.attention.backend} ({judge.attention.reason})"
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
            loss=loss,
            saver=Saver(folder / CHECKPOINTS, engine, recipe.train.keep, claim, timeout_s),
            log=log,
            stop=StopRequest(folder),
            watch=HangWatchdog(ranks, timeout_s),
            flops=flops,
            eval_every=recipe.train.eval_every or math.ceil(plan.steps_per_epoch / 4),
            targets=teachers.targets if teachers else None,
            augmentation=Augmentation(recipe.data, recipe.train.seed, rows.tokens, rows.variants) or None,
        )
        try:
            cursor = fit(job, cursor)
            finish(job, cursor, claim, tokenizer, learnt_from)
        finally:
            job.watch.close()
            log.close()
    return 0
