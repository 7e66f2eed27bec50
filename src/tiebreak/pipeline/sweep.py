"""A sweep: trials of a recipe's settings, trained side by side, looked at in rungs, the worse ones pruned.

All that decides anything follows from the space, its seed and the losses of the same held-out rows: a rung is decided
once all of its trials have a result. So the table does not depend on how many jobs ran, in which order they ended, or
which of them were killed and went on.
"""

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256 as new_hash
from pathlib import Path

from tiebreak import leases
from tiebreak.config import dump_recipe, load_recipe, make_recipe
from tiebreak.data.folds import parse_fold
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import row_losses, softmax
from tiebreak.files import sha256, write_atomically
from tiebreak.manifests import read_manifest, write_manifest
from tiebreak.pipeline.stages import Stage, StageFailed, run_stage
from tiebreak.pipeline.sweep_record import (
    JOURNAL,
    RECORD,
    TABLE,
    Answer,
    Decision,
    Entrant,
    Outcome,
    Rung,
    TrialResult,
    decision_path,
    judge,
    read_answer,
    result_path,
    rung_path,
    settings_path,
)
from tiebreak.pipeline.sweep_settings import Sweep, make_record
from tiebreak.pipeline.sweep_space import draw, open_study, tell
from tiebreak.pipeline.sweep_table import SweepResult, conclude, results_of
from tiebreak.plurals import plural
from tiebreak.storage import make_folder

log = logging.getLogger(__name__)

LEASE_S = 60.0


def run_sweep(sweep: Sweep, launch: str = "") -> SweepResult:
    """Run every trial as far as it goes, one after another; a second call goes on where the first ended.

    Args:
        sweep: of `open_sweep`.
        launch: launcher of the trainings, e.g. `torchrun --nproc-per-node 8`.

    Raises:
        UserError: every trial has failed.
        StageFailed: a training ended without a result or a mistake that it could tell.
    """
    draw_wave(sweep, 0)
    for wave, rung in sweep.rungs:
        for place in range(len(read_manifest(rung_path(sweep.out, wave, rung), Rung).entrants)):
            path = result_path(sweep.out, wave, rung, place)
            if read_answer(path) is not None:
                continue
            name = f"rung-{wave}.{rung}/{place}"
            try:
                run_stage(Stage(name, [*sweep.words, "--stage", name], path, gpu=True), launch)
            except StageFailed:
                if read_answer(path) is None:
                    raise
        decide(sweep, wave, rung)
    return conclude(sweep)


def list_sweep(sweep: Sweep) -> str:
    """A line per stage, tab-separated: name, what it needs or `-`, `cpu` or `gpu`, `done` or `todo`, places to run."""
    lines, before = [f"draw\t-\tcpu\t{'done' if rung_path(sweep.out, 0, 0).is_file() else 'todo'}\t-"], "draw"
    for wave, rung in sweep.rungs:
        path = rung_path(sweep.out, wave, rung)
        decided = is_decided(sweep, wave, rung)
        known = len(read_manifest(path, Rung).entrants) if path.is_file() else sweep.space.quota(wave, rung)
        left = [p for p in range(known) if not decided and read_answer(result_path(sweep.out, wave, rung, p)) is None]
        name, places = f"rung-{wave}.{rung}", ",".join(map(str, left)) or "-"
        lines.append(f"{name}\t{before}\tgpu\t{'todo' if left else 'done'}\t{places}")
        before = f"decide-{wave}.{rung}"
        lines.append(f"{before}\t{name}\tcpu\t{'done' if decided else 'todo'}\t-")
    return "\n".join(lines)


def run_sweep_stage(sweep: Sweep, name: str) -> SweepResult | None:
    """Run one stage alone, under any launcher; the result once the last rung is decided.

    Raises:
        UserError: no such stage, one before it is not done, or a trial's mistake.
    """
    kind, _, where = name.partition("-")
    numbers = where.replace("/", ".").split(".")
    if name == "draw":
        draw_wave(sweep, 0)
        return None
    if kind not in ("rung", "decide") or len(numbers) != 2 + (kind == "rung") or not all(map(str.isdecimal, numbers)):
        raise UserError(f"no stage {name!r}; the stages are draw, rung-WAVE.RUNG/PLACE and decide-WAVE.RUNG")
    wave, rung, *place = map(int, numbers)
    if (wave, rung) not in sweep.rungs or not rung_path(sweep.out, wave, rung).is_file():
        raise UserError(f"stage {name}: there is no such rung, or the one before it is not decided; see --stages")
    if place:
        run_trial(sweep, wave, rung, place[0])
        return None
    decide(sweep, wave, rung)
    return None if sweep.after(wave, rung) else conclude(sweep)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Be the one process that draws and decides in this folder, as soon as no other does."""
    make_folder(out / "rungs")
    while True:
        with leases.held(out / "rungs" / f"deciding{leases.SUFFIX}", LEASE_S) as mine:
            if mine:
                yield
                return
        time.sleep(1)


def draw_wave(sweep: Sweep, wave: int) -> None:
    """Draw a wave's trials and write their recipes, then who runs at its first rung."""
    path = rung_path(sweep.out, wave, 0)
    with _alone(sweep.out):
        if path.is_file():
            return
        if not (sweep.out / RECORD).is_file():
            write_manifest(sweep.out / RECORD, make_record(sweep))
        study, entrants = open_study(sweep.out / JOURNAL), []
        for place, number in enumerate(sweep.space.waves[wave]):
            settings, digest = draw(sweep.space, study, number), None
            changes = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
            try:
                recipe = make_recipe(sweep.recipe.model_dump(mode="json"), changes, where=f"trial {number}")
            except UserError as error:
                _fail(result_path(sweep.out, wave, 0, place), error)
            else:
                make_folder(settings_path(sweep.out, number).parent)
                write_atomically(settings_path(sweep.out, number), dump_recipe(recipe))
                digest = sha256(settings_path(sweep.out, number))
            entrants.append(Entrant(number=number, settings=settings, sha256=digest))
        write_manifest(path, Rung(entrants=entrants))


def run_trial(sweep: Sweep, wave: int, rung: int, place: int) -> None:
    """Train the trial at this place up to this rung, on all ranks of the launcher; go on if it was begun.

    Raises:
        UserError: a mistake, which is kept as the trial's failure; or its settings are not as drawn, which is not.
        Stopped: asked to stop; the same call goes on.
    """
    entrants = read_manifest(rung_path(sweep.out, wave, rung), Rung).entrants
    path = result_path(sweep.out, wave, rung, place)
    if place >= len(entrants) or read_answer(path) is not None:
        log.info(f"nothing to do: {'done already' if place < len(entrants) else 'fewer trials have come this far'}")
        return
    trial = entrants[place]
    file = settings_path(sweep.out, trial.number)
    if not file.is_file() or sha256(file) != trial.sha256:
        raise UserError(f"{file} is not as it was drawn: put it back, or begin the sweep anew in another --out")
    log.info(f"trial {trial.number}: {', '.join(f'{name}={value}' for name, value in trial.settings.items())}")
    from tiebreak.cluster.ranks import find_ranks
    from tiebreak.training.finish import HeldOut, Pause
    from tiebreak.training.run import train

    folder = sweep.out / "trials" / f"{trial.number:03d}"

    def reached(seen: HeldOut) -> None:
        rows = new_hash(json.dumps([seen.ids, seen.labels.tolist()]).encode()).hexdigest()
        losses = row_losses(softmax(seen.logits), seen.labels).tolist()
        tokens = count_tokens(folder, seen.step)
        make_folder(path.parent)
        result = TrialResult(
            number=trial.number, step=seen.step, steps=seen.steps, tokens=tokens, rows=rows, losses=losses
        )
        write_manifest(path, result)

    pause = Pause(sweep.space.share(rung), reached, partial(_fail, path))
    with pause.telling(find_ranks().first):
        train(
            load_recipe(str(file)),
            data=sweep.data,
            fold=parse_fold(sweep.fold),
            out=folder,
            engine=sweep.engine,
            ds=sweep.ds,
            resume=True,
            on_bad_row=sweep.on_bad_row,
            pause=pause,
        )


def _fail(path: Path, error: UserError) -> None:
    make_folder(path.parent)
    write_atomically(path.with_suffix(".failed"), f"{error}\n")


def count_tokens(folder: Path, step: int) -> int:
    """Tokens of a run's steps up to this one, each counted once."""
    tokens = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        record = json.loads(line)
        if "tokens" in record and record["step"] <= step:
            tokens[record["step"]] = record["tokens"]
    return sum(tokens.values())


def is_decided(sweep: Sweep, wave: int, rung: int) -> bool:
    """Whether it is known how the trials left a rung, and what follows."""
    following = sweep.after(wave, rung)
    then = rung_path(sweep.out, *following) if following else sweep.out / TABLE
    return decision_path(sweep.out, wave, rung).is_file() and then.is_file()


def decide(sweep: Sweep, wave: int, rung: int) -> None:
    """Decide who goes on from a rung, tell Optuna, and write who runs at the next; draw the next wave after the last.

    Raises:
        UserError: trials without a result, or with results on other rows.
    """
    out = sweep.out
    entrants = read_manifest(rung_path(out, wave, rung), Rung).entrants
    answers = read_answers(sweep, wave, rung, entrants)
    last = rung + 1 == sweep.space.rungs
    with _alone(out):
        if not is_decided(sweep, wave, rung):
            outcomes = judge(answers, None if last else sweep.space.quota(wave, rung + 1), sweep.space.margin)
            _tell_study(sweep, wave, rung, outcomes)
            write_manifest(decision_path(out, wave, rung), Decision(outcomes=outcomes))
            if not last:
                staying = {outcome.number for outcome in outcomes if outcome.state == "goes on"}
                still = [entrant for entrant in entrants if entrant.number in staying]
                write_manifest(rung_path(out, wave, rung + 1), Rung(entrants=still))
    if last and (following := sweep.after(wave, rung)):
        draw_wave(sweep, following[0])


def read_answers(sweep: Sweep, wave: int, rung: int, entrants: Sequence[Entrant]) -> dict[int, Answer]:
    """What is known of each of a rung's trials, by number.

    Raises:
        UserError: nothing of some, or results on other rows.
    """
    places = {entrant.number: result_path(sweep.out, wave, rung, p) for p, entrant in enumerate(entrants)}
    found = {number: read_answer(path) for number, path in places.items()}
    if absent := [f"{number} ({places[number]})" for number, answer in found.items() if answer is None]:
        raise UserError(
            f"rung {wave}.{rung}: {plural(len(absent), 'trial')} without a result: {', '.join(absent[:8])}; run them "
            "again, or write into the .failed file of that name why one is to be left out"
        )
    answers = {number: answer for number, answer in found.items() if answer is not None}
    rows = {answer.result.rows for answer in answers.values() if answer.result is not None}
    if len(rows) > 1:
        raise UserError(f"rung {wave}.{rung}: trials held out different rows, and cannot be compared: use a new --out")
    return answers


def _tell_study(sweep: Sweep, wave: int, rung: int, outcomes: Sequence[Outcome]) -> None:
    study = open_study(sweep.out / JOURNAL)
    for outcome in outcomes:
        if outcome.state != "goes on":
            results = results_of(sweep, wave, rung, outcome.number)
            tell(study, outcome.number, outcome.state, {result.step: result.log_loss for result in results})
