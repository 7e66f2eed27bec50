"""Train a judge: from a recipe and tables to the model folder."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tiebreak.cluster.ranks import Ranks, agree, find_ranks, joined, settle_process
from tiebreak.cluster.watchdog import HangWatchdog
from tiebreak.compatibility import Setting, check_compatibility, check_positions
from tiebreak.config import Recipe
from tiebreak.data.augment import make_augmentation
from tiebreak.data.plan import Plan
from tiebreak.data.split import RowsManifest, Split, read_split
from tiebreak.engines.choose import Choice, choose_engine, hands_out, make_engine
from tiebreak.engines.hand_out import build_for_engine
from tiebreak.errors import UserError
from tiebreak.models.bases import BaseRecord, locate, record_base, settle_quantization
from tiebreak.models.check_base import check_model_type, check_quantization
from tiebreak.models.heads import FeatureHead
from tiebreak.models.loading import choose_precision, find_model_type
from tiebreak.models.preference import PreferenceModel, count_parameters
from tiebreak.models.tokenizer import load_tokenizer
from tiebreak.outputs import refuse_foreign
from tiebreak.preemption import StopRequest
from tiebreak.preflight.checks import LaunchPlan, check_network, enabled, run_checks
from tiebreak.preflight.recompute import fit_here, with_settings
from tiebreak.pretrained.base_files import read_config
from tiebreak.tables.table import OnBadRow
from tiebreak.training.checkpoints import Cursor, Saver, folder_of, load_cursor, load_optimizer, load_weights
from tiebreak.training.claim import Claim
from tiebreak.training.finish import Pause, Run, finish, tell_held_out
from tiebreak.training.frozen_cache import keep_frozen
from tiebreak.training.log import RunLog
from tiebreak.training.loop import Loss, TrainingJob, fit
from tiebreak.training.losses import choose_loss
from tiebreak.training.optimizer import build_optimizer
from tiebreak.training.run_folder import CHECKPOINTS, default_folder, describe, keep_problems, open_folder, refuse_used
from tiebreak.training.speed import StepFlops
from tiebreak.training.teachers import Teachers, find_teachers

if TYPE_CHECKING:
    import torch.distributed as dist
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FEW_HELD_OUT = 50
"""Rows; below, their scores are told to be chance."""
WATCHDOG_FIRST_S = 60
"""How long before a collective times out the watchdog reports: it knows which rank is at fault."""


@dataclass(frozen=True)
class Prepared:
    """All that is known of a run before weights are loaded and ranks are joined.

    Attributes:
        manifest: names tables, split, teachers and base; a resumed run must have the same.
        base: which one it is; known on rank 0, where its files are on this machine.
        preflight, store: of the preflight, if it ran; the ranks have signed in at `store`.
    """

    recipe: Recipe
    ranks: Ranks
    choice: Choice
    tokenizer: "PreTrainedTokenizerBase"
    split: Split
    teachers: Teachers | None
    loss: Loss
    plan: Plan
    manifest: RowsManifest
    base: BaseRecord | None
    preflight: LaunchPlan | None
    store: "dist.Store | None"

    @property
    def teachers_record(self) -> dict[str, Any]:
        """What metrics.json and environment.json say of the teachers; empty without them."""
        return self.teachers.record if self.teachers else {}

    @property
    def precision(self) -> torch.dtype:
        """Of the weights, on this rank's device."""
        return choose_precision(self.recipe.train.precision, self.ranks.device)

    def new_model(self, recompute: bool) -> PreferenceModel:
        """Build the model that the run starts with; a head with features is fitted on the training rows."""
        recipe, handed_out = with_settings(self.recipe, recompute), hands_out(self.choice.kind, self.recipe)
        model = build_for_engine(recipe, self.tokenizer, self.ranks, self.precision, handed_out)
        head, tokens, rows = model.head, self.split.tokens, self.split.train
        if isinstance(head, FeatureHead):
            head.fit(tokens.features[rows], tokens.labels[rows])
        return model

    def join(self) -> AbstractContextManager[None]:
        """Hold the process group around the job's work."""
        always = self.choice.kind not in ("single", "ddp")
        timeout_s = self.recipe.train.timeout_s + WATCHDOG_FIRST_S
        return joined(self.ranks, timeout_s, always=always, store=self.store)


@dataclass(frozen=True)
class OpenRun:
    """A run folder that this process holds, and where the run in it stands.

    Attributes:
        checkpoint: to go on from, if there is one. notes: for the log, once the run begins.
    """

    folder: Path
    claim: Claim
    checkpoint: Path | None
    cursor: Cursor
    notes: list[str]
    log: RunLog


def train(
    recipe: Recipe,
    *,
    data: Sequence[Path] = (),
    valid: Path | Literal["none"] | None = None,
    fold: tuple[int, int] | None = None,
    out: Path | None = None,
    teachers: Sequence[str] = (),
    extra: Sequence[Path] = (),
    allow_in_sample: bool = False,
    engine: str = "auto",
    ds: Path | None = None,
    resume: bool = False,
    on_bad_row: OnBadRow = "fail",
    on_step: Callable[[dict[str, Any]], None] | None = None,
    on_done: Callable[[Run], None] | None = None,
    pause: Pause | None = None,
) -> Run:
    """Train a judge from labels and, if there are any, teachers.

    Under a launcher every rank calls this, and a job of several ranks ends its processes instead of returning.

    Args:
        recipe: what to train, and how.
        data: labelled tables; none means the embedded sample.
        valid: a table to validate on; `none` trains on every row. Without it and `fold` a tenth of the prompts is held
            out.
        fold: (k, n) validates on fold k of n.
        out: the run folder; by default a new one in runs/.
        teachers: each `FOLDER`, `NAME=FOLDER,FOLDER` (predictions), `bayes`, the sample's own law, or `baseline`.
        extra: tables to train on without labels.
        allow_in_sample: accept teachers that were trained on these rows.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
        resume: go on from the newest whole checkpoint in `out`.
        on_bad_row: `fail` or `skip`.
        on_step: called on rank 0 with the record of every step, as log.jsonl has it.
        on_done: called on rank 0 once the model folder is written, before the ranks part.
        pause: where the run pauses, without a model folder.

    Raises:
        UserError: a mistake that the user can correct, in one message.
        Stopped: asked to stop; the same call with `resume` goes on.
    """
    if resume and out is None:
        raise UserError("--resume auto needs --out, the run folder to resume (in Python: resume=True needs out=)")
    if out is not None:
        refuse_foreign(out, "recipe.yaml")
        if not resume:
            refuse_used(out)
    prepared = prepare(
        recipe,
        data=data,
        valid=valid,
        fold=fold,
        out=out,
        teachers=teachers,
        extra=extra,
        allow_in_sample=allow_in_sample,
        choice=choose_engine(engine, ds, recipe.train, find_ranks().world),
        on_bad_row=on_bad_row,
    )
    telling = pause.telling(prepared.ranks.first) if pause else nullcontext()
    with prepared.join(), telling, open_run(prepared, out, resume, on_step) as run:
        job = build_job(prepared, run, pause)
        with job.watch, job.stop:
            cursor = fit(job, run.cursor)
            if pause:
                tell_held_out(job, cursor, pause)
                if cursor.step < job.plan.steps:
                    return Run(run.folder, cursor.best_step or cursor.step, cursor.step, {})
            record = prepared.teachers_record
            return finish(job, cursor, run.claim, prepared.tokenizer, record, on_done, prepared.base)


def prepare(
    recipe: Recipe,
    *,
    data: Sequence[Path],
    valid: Path | Literal["none"] | None,
    fold: tuple[int, int] | None,
    out: Path | None,
    teachers: Sequence[str],
    extra: Sequence[Path],
    allow_in_sample: bool,
    choice: Choice,
    on_bad_row: OnBadRow,
) -> Prepared:
    """Check that the run can start, and read its tables and teachers; no weights are loaded yet."""
    ranks, recipe = find_ranks(), settle_quantization(recipe)
    settle_process()
    preflight = None
    if enabled():
        table = None if valid == "none" else valid
        preflight = LaunchPlan.of(
            recipe, ranks, choice, data=data, valid=table, extra=extra, out=out, on_bad_row=on_bad_row
        )
    store = run_checks(preflight) if preflight else None
    model_type = find_model_type(recipe.model.base)  # which fetches a hub's configuration, if it is not here
    recipe = settle_quantization(recipe)
    tokenizer = check_recipe(recipe, model_type, ranks, choice)
    split = read_split(
        recipe, tokenizer, data=data, valid_from=valid, fold=fold, extra_from=extra, on_bad_row=on_bad_row
    )
    known = find_teachers(teachers, allow_in_sample, split, recipe.distill) if teachers else None
    base = record_base(recipe.model.base) if ranks.first else None
    more = ({"teachers": known.identity} if known else {}) | ({"base": base.sha256} if base else {})
    return Prepared(
        recipe=recipe,
        ranks=ranks,
        choice=choice,
        tokenizer=tokenizer,
        split=split,
        teachers=known,
        loss=choose_loss(recipe, known),
        plan=make_plan(recipe, split, ranks),
        manifest=split.manifest.model_copy(update=more),
        base=base,
        preflight=preflight,
        store=store,
    )


def check_recipe(recipe: Recipe, model_type: str, ranks: Ranks, choice: Choice) -> "PreTrainedTokenizerBase":
    """Refuse settings that do not go together and a base that cannot be trained, warn of others, load the tokenizer."""
    notes = check_model_type(model_type, recipe.model.base)
    if (folder := locate(recipe.model.base)) is not None:
        fields = read_config(folder)
        check_quantization(folder, fields, recipe)
        notes += check_positions(model_type, fields.get("max_position_embeddings"), recipe)
    warnings = check_compatibility(Setting.of(recipe, model_type, ranks.device.type, choice.kind))
    for note in [*notes, *choice.notes, *warnings]:
        log.info(note)
    return load_tokenizer(recipe.model.base, recipe.model.template)


def make_plan(recipe: Recipe, split: Split, ranks: Ranks) -> Plan:
    """Lay the training rows out as steps.

    Raises:
        UserError: a row is longer than a micro-batch.
    """
    train = recipe.train
    return Plan(
        split.longest,
        train.batch_size,
        train.epochs,
        train.seed,
        recipe.data.swap,
        max_steps=train.max_steps,
        world=ranks.world,
        tokens=train.tokens_per_micro_batch,
    )


@contextmanager
def open_run(
    prepared: Prepared, out: Path | None, resume: bool, on_step: Callable[[dict[str, Any]], None] | None
) -> Iterator[OpenRun]:
    """Claim the run folder, find its newest checkpoint and open its log; every rank must call this."""
    recipe, ranks = prepared.recipe, prepared.ranks
    if prepared.preflight and prepared.store:
        check_network(prepared.preflight, prepared.store)
    folder = agree(out or default_folder(recipe))
    claim, checkpoint, notes = open_folder(folder, recipe, prepared.manifest, resume, ranks)
    if checkpoint is not None:
        notes.append(f"resumed from {checkpoint.name}")
    elif resume:
        notes.append("no checkpoint to resume from: this run starts at the first step")
    cursor = Cursor() if checkpoint is None else load_cursor(checkpoint)
    if cursor.best_step is not None and not folder_of(folder / CHECKPOINTS, cursor.best_step).is_dir():
        cursor.best_step, cursor.best_loss = None, math.inf
    if ranks.first:
        notes += keep_problems(folder, prepared.split.problems)
    with RunLog(folder, recipe, prepared.plan.steps, ranks.first, cursor.step, on_step) as run_log:
        yield OpenRun(folder, claim, checkpoint, cursor, notes, run_log)


def build_job(prepared: Prepared, run: OpenRun, pause: Pause | None = None) -> TrainingJob:
    """Load model, engine and checkpoint; every rank must call this."""
    recipe, ranks, split, plan = prepared.recipe, prepared.ranks, prepared.split, prepared.plan
    fitted = fit_here(recipe, prepared.choice, ranks, prepared.precision)
    model = prepared.new_model(fitted.recompute)
    parameters, trained = count_parameters(model)
    flops = StepFlops(model, fitted.recompute)
    engine = make_engine(model, partial(build_optimizer, train=recipe.train), ranks, recipe, prepared.choice)
    if run.checkpoint is not None:
        load_weights(run.checkpoint, engine)
        load_optimizer(run.checkpoint, engine)
    if ranks.first:
        sizes = {"parameters": parameters, "trained_parameters": trained, **fitted.record}
        describe(run.folder, engine, sizes | prepared.manifest.record | prepared.teachers_record)
    precision = str(prepared.precision).removeprefix("torch.")
    log.info(
        f"{recipe.name}: {len(split.train):,} rows to train on, {len(split.held_out):,} held out, "
        f"{plan.steps:,} steps; {trained:,} trained parameters; "
        f"{engine.name}, {ranks.world} rank{'s' * (ranks.world > 1)}, {precision}; "
        f"attention: {model.attention.backend} ({model.attention.reason}){fitted.told}"
    )
    few = 0 < len(split.held_out) < FEW_HELD_OUT
    warned = ["note: held-out rows are so few that their scores, and the step called best, are mostly chance"] * few
    for note in [*run.notes, *warned, f"run folder: {run.folder}"]:
        log.info(note)
    return TrainingJob(
        recipe=recipe,
        engine=engine,
        plan=plan,
        tokens=split.tokens,
        rows=split.train,
        valid=split.valid,
        held_out=split.held_out,
        loss=prepared.loss,
        saver=Saver(run.folder / CHECKPOINTS, engine, recipe.train.keep, run.claim, recipe.train.timeout_s),
        log=run.log,
        stop=StopRequest(run.folder),
        watch=HangWatchdog(ranks, recipe.train.timeout_s),
        flops=flops,
        eval_every=recipe.train.eval_every or math.ceil(plan.steps_per_epoch / 4),
        targets=prepared.teachers.targets if prepared.teachers else None,
        augmentation=make_augmentation(recipe.data, recipe.train.seed, split.tokens, split.variants),
        pieces=fitted.pieces,
        until=pause.step(plan.steps) if pause else None,
        frozen=keep_frozen(engine, recipe, split),
    )
