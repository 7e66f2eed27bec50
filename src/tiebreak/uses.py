"""What runs the commands that put a judge to use, and what they print; their options are words here, by name."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiebreak.errors import UserError
from tiebreak.plurals import plural
from tiebreak.terminal import say


def _bench(*, pairs: Path | None, files: list[str], **words: Any) -> None:
    from tiebreak.benching import bench, bench_pairs

    if pairs is None:
        say(bench(files, **words))
        return
    if words["model"] or words["predictions"] or words["trained"] or words["out"]:
        raise UserError("bench: --pairs only writes the comparisons; predict them, then give --predictions without it")
    say(f"{pairs}: {plural(bench_pairs(files, pairs, on_bad_row=words['on_bad_row']), 'comparison')}")


def _compare(*, model: str, first: str, second: str | None, prompt: str | None, json: bool) -> None:
    from tiebreak.choosing import compare

    if prompt is not None and second is None:
        raise UserError("compare: --prompt goes with two answers, A and B")
    compared = compare(model, first, second, prompt=prompt)
    say(compared.model_dump_json(indent=2) if json else compared)


def _best_of(*, model: str, candidates: str, out: Path) -> None:
    from tiebreak.choosing import best_of

    chosen = best_of(model, candidates, out=out)
    candidates = plural(sum(len(choice.scores) for choice in chosen), "candidate")
    say(f"{out}: the best of {candidates} for {plural(len(chosen), 'prompt')}")


def _decide(*, out: Path, **words: Any) -> None:
    from tiebreak.decisions.decide import decide

    say(decide(out=out, **words))
    say(f"decisions: {out / 'decisions.csv'}")


def _export(*, run: str, **words: Any) -> None:
    from tiebreak.export.export import export_judge

    say(export_judge(run, **words))


def _leaderboard(*, out: Path, **words: Any) -> None:
    from tiebreak.decisions.leaderboard import leaderboard

    say(leaderboard(out=out, **words))
    say(f"leaderboard: {out / 'index.html'}")


def _launch_files(*, folder: Path) -> None:
    from tiebreak.launch_files import copy_launch_files

    say(f"{folder}: {plural(len(copy_launch_files(folder)), 'file')}, which run this Python: {sys.executable}")
    say(f"next: cd {shlex.quote(str(folder))} && sbatch slurm/train_gemma.sbatch    (suit the lines marked EDIT first)")


def _sweep(*, stages: bool, stage: str | None, launch: str, **words: Any) -> None:
    from tiebreak.pipeline.sweep import list_sweep, run_sweep, run_sweep_stage
    from tiebreak.pipeline.sweep_settings import open_sweep

    sweep = open_sweep(**words)
    if stages:
        say(list_sweep(sweep))
    elif found := run_sweep_stage(sweep, stage) if stage else run_sweep(sweep, launch):
        say(found)


def _env() -> None:
    from tiebreak.pipeline.environment import describe_environment

    say(describe_environment())


USES: dict[str, Callable[..., None]] = {
    "bench": _bench,
    "compare": _compare,
    "best-of": _best_of,
    "decide": _decide,
    "leaderboard": _leaderboard,
    "export": _export,
    "launch-files": _launch_files,
    "env": _env,
    "sweep": _sweep,
}
"""By command."""
