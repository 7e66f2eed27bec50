"""A training run from the command line to the model folder."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tiebreak.cluster.ranks import Ranks, agree, find_ranks, joined, settle_process
from tiebreak.config import Recipe, load_recipe
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.data.plan import Plan
from tiebreak.data.sample import sample_file
from tiebreak.data.tokens import Tokens, prepare
from tiebreak.engines.choose import check_engine, make_engine
from tiebreak.errors import UserError
from tiebreak.files import write_atomically, write_json
from tiebreak.models.loading import (
    build_judge,
    choose_precision,
    load_tokenizer,
    save_judge,
)
from tiebreak.report import baselines
from tiebreak.report.metrics import softmax
from tiebreak.report.table import compare, render
from tiebreak.training.checkpoints import (
    Cursor,
    find_checkpoint,
    load_cursor,
    load_optimizer,
    load_weights,
)
from tiebreak.training.evaluate import predict_rows
from tiebreak.training.log import RunLog
from tiebreak.training.loop import Job, fit
from tiebreak.training.losses import cross_entropy
from tiebreak.training.optimizer import build_optimizer
from tiebreak.training.preemption import StopRequest

HOLD_OUT = "0/10"
FREE_TO_CHANGE = {"train.tokens_per_micro_batch", "train.save_every", "train.keep", "train.timeout_s"}
"""Fields that a resumed run may set otherwise: they change speed and bookkeeping, never the result."""


def train(options: argparse.Namespace) -> int:
    """Train a judge as the command line says; returns the exit code."""
    recipe = load_recipe(options.recipe, options.set)
    if options.model:
        recipe.model.base = options.model
    ranks = find_ranks()
    settle_process()
    say = print if ranks.first else (lambda text: None)
    ds_config = check_engine(options.engine, options.ds, recipe.train, ranks.world)

    files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
    if options.data:
        say(f"data: {', '.join(map(str, files))}")
    else:
        say(f"data: the embedded sample, as no --data was given ({recipe.data.sample_rows:,} rows)")
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    prepared = (tokenizer, recipe.model.template, recipe.data, options.on_bad_row, True, False, say)
    tokens = prepare(files, *prepared)
    valid, rows, held_out = split(options, recipe, tokens, prepared, say)

    with joined(ranks, recipe.train.timeout_s, always=ds_config is not None):
        folder = Path(str(agree(options.out or default_folder(recipe, options))))
        found, notes = open_folder(folder, recipe, options.resume is not None, ranks)
        device = ranks.device
        precision = choose_precision(recipe.train.precision, device)
        judge = build_judge(recipe, tokenizer, device, precision)
        engine = make_engine(judge, build_optimizer(judge, recipe.train), ranks, recipe.train, ds_config)
        train_settings = recipe.train
        plan = Plan(
            tokens.lengths[rows],
            train_settings.batch_size,
            train_settings.epochs,
            train_settings.seed,
            recipe.data.swap,
            train_settings.max_steps,
            ranks.world,
            train_settings.tokens_per_micro_batch,
        )
        cursor = Cursor()
        if found is not None:
            cursor = load_cursor(found)
            load_weights(found, engine)
            load_optimizer(found, engine)
            notes.append(f"resumed from {found.name}")
        describe(folder, recipe, engine, tokens, files, rows, held_out, options)
        log = RunLog(folder, recipe, plan.steps, ranks.first, cursor.step)
        log.say(
            f"{recipe.name}: {len(rows):,} rows to train on, {len(held_out):,} held out, {plan.steps:,} steps; "
            f"{sum(p.numel() for p in engine.trainable().values()):,} trained parameters; {engine.name}, "
            f"{ranks.world} rank{'s' * (ranks.world > 1)}, {precision}; attention: {judge.attention.implementation} "
            f"({judge.attention.reason})"
        )
        for note in [*notes, f"run folder: {folder}"]:
            log.say(note)
        job = Job(
            recipe,
            engine,
            plan,
            tokens,
            rows,
            valid,
            held_out,
            cross_entropy,
            folder / "checkpoints",
            log,
            StopRequest(folder),
            train_settings.eval_every or max(1, -(-plan.steps_per_epoch // 4)),
        )
        try:
            cursor = fit(job, cursor)
            finish(job, cursor, folder, tokenizer)
        finally:
            log.close()
    return 0


def split(
    options, recipe: Recipe, tokens: Tokens, prepared: tuple[Any, ...], say
) -> tuple[Tokens, np.ndarray, np.ndarray]:
    """The table to validate on, the rows to train on, and the rows of that table to hold out."""
    everything = np.arange(len(tokens))
    if options.valid == "none":
        return tokens, everything, everything[:0]
    if options.valid and options.fold:
        raise UserError("--valid and --fold both say what to validate on: give one of them")
    if options.valid:
        valid = prepare([Path(options.valid)], *prepared)
        shared = np.isin(valid.groups, tokens.groups)
        if shared.any():
            say(f"warning: {shared.sum():,} rows of {options.valid} have a prompt that is also trained on")
        return valid, everything, np.arange(len(valid))
    fold, folds = parse_fold(options.fold or HOLD_OUT)
    if not options.fold:
        say("validation: a tenth of the prompts is held out (--valid, --fold or --valid none to say otherwise)")
    assigned = assign_folds(tokens.labels, tokens.groups, folds, recipe.data.folds_seed)
    return tokens, everything[assigned != fold], everything[assigned == fold]


def default_folder(recipe: Recipe, options: argparse.Namespace) -> Path:
    return Path("runs") / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def open_folder(folder: Path, recipe: Recipe, resume: bool, ranks: Ranks) -> tuple[Path | None, list[str]]:
    """Create the run folder, or find the checkpoint at which an earlier run in it stands.

    Rank 0 looks, and every rank gets its answer: others would see a folder that it has just made.

    Raises:
        UserError: the folder holds a run and is not to be resumed, or a run of another recipe.
    """
    found, notes, refusal = agree(_open_folder(folder, recipe, resume) if ranks.first else None)
    if refusal:
        raise UserError(refusal)
    return found, notes


def _open_folder(folder: Path, recipe: Recipe, resume: bool) -> tuple[Path | None, list[str], str | None]:
    stored = folder / "recipe.yaml"
    if not stored.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(stored, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        return None, [], None
    if not resume:
        return None, [], f"{folder} holds a run already: --resume auto goes on with it, or choose another --out"
    earlier = yaml.safe_load(stored.read_text(encoding="utf-8"))
    changed = [
        f"{section}.{name}: {earlier[section][name]!r} then, {value!r} now"
        for section, fields in recipe.model_dump(mode="json").items()
        if isinstance(fields, dict) and section != "log"
        for name, value in fields.items()
        if earlier[section].get(name) != value and f"{section}.{name}" not in FREE_TO_CHANGE
    ]
    if changed:
        return None, [], f"{folder} was begun with another recipe:\n  " + "\n  ".join(changed)
    return *find_checkpoint(folder / "checkpoints"), None


def describe(folder: Path, recipe, engine, tokens: Tokens, files, rows, held_out, options) -> None:
    """environment.json: what ran, on what, with which versions; and the rows that were left out."""
    if not engine.ranks.first:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    packages = ("tiebreak", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "datasets", "numpy")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    write_json(
        folder / "environment.json",
        {
            "command": sys.argv,
            "git": commit.stdout.strip() or None,
            "python": platform.python_version(),
            "versions": versions,
            "host": platform.node(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "device": device,
            "engine": engine.name,
            "world": engine.ranks.world,
            "data": [str(path) for path in files],
            "tokens": tokens.folder.name,
            "fold": options.fold,
            "rows_trained": len(rows),
            "rows_held_out": len(held_out),
        },
    )
    if problems := tokens.problems:
        lines = "".join(json.dumps(problem) + "\n" for problem in problems)
        write_atomically(folder / "skipped_rows.jsonl", lines)
        print(f"{len(problems)} bad rows were left out: {folder / 'skipped_rows.jsonl'}", flush=True)


def finish(job: Job, cursor: Cursor, folder: Path, tokenizer) -> None:
    """Take the best checkpoint, score it beside the baselines, and leave model/ and metrics.json."""
    best = cursor.best_step or cursor.step
    if best != cursor.step:
        load_weights(job.checkpoints / f"step-{best:08d}", job.engine)
    fitted = baselines.fit(job.tokens.chars[job.rows], job.tokens.labels[job.rows])
    rows: dict[str, dict[str, float]] = {}
    if len(job.held_out):
        budget = job.recipe.train.tokens_per_micro_batch
        logits = predict_rows(job.engine, job.valid, job.held_out, budget, lambda: False)
        if job.engine.ranks.first and logits is not None:
            bayes = job.valid.bayes[job.held_out] if job.valid.bayes is not None else None
            labels, chars = job.valid.labels[job.held_out], job.valid.chars[job.held_out]
            rows = compare(softmax(logits), labels, chars, fitted, bayes)
    if not job.engine.ranks.first:
        return
    save_judge(job.engine.judge, tokenizer, job.recipe, fitted, folder / "model")
    write_json(folder / "metrics.json", {"best_step": best, "steps": cursor.step, "validation": rows})
    if rows:
        job.log.say(f"held-out rows, best of {len(cursor.evaluated)} evaluations (step {best}):\n{render(rows)}")
    job.log.say(f"model: {folder / 'model'}")
