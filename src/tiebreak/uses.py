"""What runs the commands that put a judge to use, and what they print; their options are words here, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiebreak.preemption import stop_at_once


def _decide(*, out: Path, **words: Any) -> None:
    from tiebreak.decisions.decide import decide

    print(decide(out=out, **words))
    print(f"decisions: {out / 'decisions.csv'}")


def _export(*, run: str, **words: Any) -> None:
    stop_at_once()
    from tiebreak.export.export import export_judge

    print(export_judge(run, **words))


def _leaderboard(*, out: Path, **words: Any) -> None:
    from tiebreak.decisions.leaderboard import leaderboard

    print(leaderboard(out=out, **words))
    print(f"leaderboard: {out / 'index.html'}")


def _env() -> None:
    from tiebreak.pipeline.environment import describe_environment

    print(describe_environment())


USES: dict[str, Callable[..., None]] = {
    "decide": _decide,
    "leaderboard": _leaderboard,
    "export": _export,
    "env": _env,
}
"""By command."""
