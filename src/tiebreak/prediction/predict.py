"""A prediction from the command line to predictions.csv: blocks, parts, merge, scores."""

import argparse
import contextlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.cluster.ranks import find_ranks, settle_process
from tiebreak.config import Recipe
from tiebreak.data.labels import read_labels
from tiebreak.data.predictions import read_predictions
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import Baselines
from tiebreak.evaluation.table import compare, render
from tiebreak.files import TEMPORARY, sha256, write_json
from tiebreak.labels import NO_LABEL
from tiebreak.leases import SUFFIX, folder_time, held
from tiebreak.models.switching import LoadedModels
from tiebreak.prediction.compute import SwapPolicy
from tiebreak.prediction.members import ModelPrediction, find_members
from tiebreak.prediction.merge import PLAN, BadParts, merge, read_plan
from tiebreak.prediction.work import Job, work
from tiebreak.preflight.checks import look_before_prediction, wanted
from tiebreak.sample.generator import sample_file

MERGED, MERGE_LEASE = "merged.json", f"merge{SUFFIX}"
POLL_S = 0.2

Say = Callable[[str], None]


def predict(options: argparse.Namespace) -> int:
    """Predict a table as the command line says; returns the exit code.

    The processes of whatever launcher share nothing but the output folder: each takes the next part that nobody has
    done or holds, and one of them merges when all are there.
    """
    ranks = find_ranks()
    settle_process()
    say = (lambda text: print(text, flush=True)) if ranks.first else (lambda text: None)
    out, swap = Path(options.out), parse_swap(options.swap)
    # Read first, so that a mistake in them is told now and not after hours.
    given = read_labels(Path(options.labels)) if options.labels not in (None, "auto") else None

    lines: set[str] = set()

    def data(recipe: Recipe) -> list[Path]:
        files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
        told = "" if options.data else " (the embedded sample; no --data was given)"
        line = f"data: {', '.join(map(str, files))}{told}"
        if line not in lines:
            lines.add(line)
            say(line)
        return files

    if wanted():
        look_before_prediction(options, ranks)
    members = find_members(options, ranks, swap, data, say)
    take_folder(out, members, say)
    judges = LoadedModels(ranks.device, say)
    loud: Say = lambda text: print(text, flush=True)  # noqa: E731  # every rank says what went wrong on it
    jobs = [member.job(judges, swap, loud) for member in members]
    for job in jobs:
        job.look()
    left, parts = sum(len(job.parts) - len(job.done) for job in jobs), sum(len(job.parts) for job in jobs)
    rows, blocks = len(members[0].tokens), sum(len(member.cut) for member in members)
    of = f" for {len(members)} models ({', '.join(member.name for member in members)})" if len(members) > 1 else ""
    say(f"{rows:,} rows in {blocks:,} blocks{of}, {left:,} of {parts:,} parts to do")
    first = ranks.rank + array_task()
    before = stamp(out)
    while True:
        work(jobs, first, say)
        if merge_once(out, jobs, members, before, loud):
            break
    say(f"{out / 'predictions.csv'}: {rows:,} rows")
    if ranks.first and options.labels:
        score(out / "predictions.csv", members[0].tokens, given, members[0].baselines, out, say)
    return 0


def parse_swap(text: str | None) -> SwapPolicy:
    """What --swap asks for: nothing, `always` or `adaptive:MARGIN`.

    Raises:
        UserError: anything else, or a margin outside 0 to 1.
    """
    if text is None or text == "always":
        return SwapPolicy(text is not None)
    name, _, margin = text.partition(":")
    try:
        if name == "adaptive" and 0 < float(margin) <= 1:
            return SwapPolicy(True, float(margin))
    except ValueError:
        pass
    raise UserError(f"--swap {text}: write --swap alone, or adaptive:MARGIN with a margin of probability up to 1")


def array_task() -> int:
    """The number of this task in a Slurm array, so that the tasks begin with different models."""
    try:
        return int(os.environ.get("SLURM_ARRAY_TASK_ID", 0))
    except ValueError:
        return 0


def take_folder(out: Path, members: Sequence[ModelPrediction], say: Say) -> None:
    """Begin or go on in the output folder, and in those of several models.

    Raises:
        UserError: it holds the predictions of other rows.
    """
    table = members[0].plan["seal"]["table"]
    several = len(members) > 1
    mine = {"models": {m.name: str(m.folder) for m in members}} if several else members[0].plan
    for folder in dict.fromkeys([out, *(member.out for member in members)]):
        refuse_other_rows(folder, table)
    if (out / "predictions.csv").is_file() and identity(read_plan(out)) != identity(mine):
        say(f"{out}: holds a prediction of these rows by another model or setting; its predictions.csv is replaced")
    for member in members:
        member.open()
    if several:
        rows = {"table": table, "rows": len(members[0].tokens), "swap": members[0].plan["swap"]}
        write_json(out / PLAN, mine | rows | {"adaptive": members[0].plan["adaptive"]})


def refuse_other_rows(folder: Path, table: str) -> None:
    """Raise UserError where a folder holds finished predictions of another table than the one with this hash."""
    path = folder / "predictions.csv"
    if not path.is_file():
        return
    try:
        plan = read_plan(folder)
    except UserError:
        plan = {}
    if (plan.get("table") or plan.get("seal", {}).get("table")) != table:
        raise UserError(
            f"{path} holds predictions of other rows (another table or fold, or not known): "
            "choose another --out, or move them away"
        )


def identity(plan: dict[str, Any]) -> object:
    """What tells predictions of one folder apart."""
    return plan.get("models") or plan.get("parts")


def stamp(out: Path) -> str | None:
    """What the last merge left in the folder."""
    try:
        return (out / MERGED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def merge_once(
    out: Path, jobs: Sequence[Job], members: Sequence[ModelPrediction], before: str | None, say: Say
) -> bool:
    """Merge, or wait until another process has; False if there are parts to compute again.

    Args:
        before: the stamp of an earlier merge; another one means that the merge is done.

    Raises:
        UserError: another prediction has taken the folder meanwhile.
    """
    lease_s = jobs[0].lease_s
    while stamp(out) == before:
        with held(out / MERGE_LEASE, lease_s) as mine:
            if mine and stamp(out) == before:
                plan = read_plan(out)
                ours = {m.name: str(m.folder) for m in members} if "models" in plan else members[0].plan["parts"]
                if identity(plan) != ours:
                    raise UserError(f"{out}: another prediction has taken this folder; choose another --out for one")
                for member in members:
                    member.open()
                try:
                    path, rows = merge(out, say)
                except BadParts as bad:
                    for path, reason in bad.found.items():
                        say(f"{path}: {reason}; computed again")
                        path.unlink(missing_ok=True)
                    return False
                for member in members:
                    clean_up(member.parts, lease_s)
                write_json(out / MERGED, {"rows": rows, path.name: sha256(path), "token": secrets.token_hex(8)})
                return True
        for job in jobs:
            job.look()
        if not all(job.whole for job in jobs):
            return False
        time.sleep(POLL_S)
    return True


def clean_up(parts: Path, lease_s: float) -> None:
    """Once all is merged, remove what killed processes left."""
    now = folder_time(parts)
    for path in [*parts.glob(f"*{SUFFIX}"), *parts.glob(f"{TEMPORARY}*")]:
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == SUFFIX or now - path.stat().st_mtime > lease_s:
                path.unlink()


def score(path: Path, tokens: Tokens, given: dict[str, int] | None, fitted: Baselines, out: Path, say) -> None:
    """Write metrics.json from the predictions and the given labels by id, or those of the data itself."""
    if given is not None:
        known = given
    else:
        known = {name: int(label) for name, label in zip(tokens.ids, tokens.labels, strict=True) if label != NO_LABEL}
    ids, probabilities = read_predictions(path)
    chosen = [k for k, name in enumerate(ids) if name in known]
    if not chosen and given is None:
        say("no labels in the data: nothing to score")
        return
    if not chosen:
        raise UserError("--labels: none of its ids is in the predictions")
    truth = np.array([known[ids[k]] for k in chosen])
    bayes = None if tokens.bayes is None else tokens.bayes[chosen]
    rows = compare(probabilities[chosen], truth, tokens.chars[chosen], fitted, bayes)
    write_json(out / "metrics.json", rows)
    say(f"{len(chosen):,} labelled rows:\n{render(rows)}")
