"""What a sweep leaves in its folder: what it is made from, who runs at each rung, their results, the table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tiebreak.manifests import Manifest, Section, read_manifest
from tiebreak.pipeline.ablation import compare
from tiebreak.pipeline.sweep_space import Settings, Space

RECORD, TABLE, BEST, JOURNAL = "sweep.json", "table.csv", "best.yaml", "optuna.journal"


class SweepRecord(Manifest):
    """`sweep.json`: what the sweep of a folder is made from; tables by name with the hash of their bytes."""

    space: Space
    recipe: dict[str, Any]
    """What its trials start from, every field resolved."""
    data: dict[str, str]
    fold: str
    """K/N, held out by every trial."""
    on_bad_row: str

    def differences(self, other: "SweepRecord") -> list[str]:
        """Names of the fields that differ. A description is no part of what runs."""
        mine, others = (
            each.model_dump(exclude={"version": True, "space": {"description"}, "recipe": {"description"}})
            for each in (self, other)
        )
        return [name for name in mine if mine[name] != others[name]]


class Entrant(Section):
    """A trial that runs at a rung."""

    number: int
    settings: Settings
    """Its values of the fields that vary."""
    sha256: str | None = None
    """Of `settings/NUMBER.yaml`, its whole recipe; none if there can be no such recipe."""


class Rung(Manifest):
    """`rungs/WAVE.RUNG.json`: who runs there; written once, before any of them starts."""

    entrants: list[Entrant]


class TrialResult(Manifest):
    """`rungs/WAVE.RUNG/PLACE.json`: a trial at a rung."""

    number: int
    step: int
    """At which it was looked at."""
    steps: int
    """Of its whole training."""
    tokens: int
    """That it has been trained on so far, each step counted once."""
    rows: str
    """Hash of the held-out rows' ids and labels."""
    losses: list[float]
    """-log p of the true class of each of them, in nats."""

    @property
    def log_loss(self) -> float:
        """Mean over the held-out rows."""
        return float(np.mean(self.losses))


class Outcome(Section):
    """How a trial left a rung."""

    number: int
    state: Literal["goes on", "pruned", "finished", "failed"]
    why: str
    log_loss: float | None = None
    difference: float | None = None
    """Mean difference in log loss from the rung's best on the same rows."""
    error: float | None = None
    """Standard error of that difference."""


class Decision(Manifest):
    """`rungs/WAVE.RUNG-decided.json`: how all trials left a rung, by their numbers."""

    outcomes: list[Outcome]


class Answer(NamedTuple):
    """What is known of a trial at a rung: its result, or why it has failed."""

    result: TrialResult | None
    failure: str


def rung_path(out: Path, wave: int, rung: int) -> Path:
    """The file that says who runs at a rung; its results lie in the folder of the same name without `.json`."""
    return out / "rungs" / f"{wave}.{rung}.json"


def decision_path(out: Path, wave: int, rung: int) -> Path:
    """The file that says how the trials left a rung."""
    return out / "rungs" / f"{wave}.{rung}-decided.json"


def result_path(out: Path, wave: int, rung: int, place: int) -> Path:
    """The result of the trial at a place of a rung; beside it, `PLACE.failed` says why there is none."""
    return rung_path(out, wave, rung).with_suffix("") / f"{place}.json"


def settings_path(out: Path, number: int) -> Path:
    """The whole recipe of a trial."""
    return out / "settings" / f"{number:03d}.yaml"


def read_answer(path: Path) -> Answer | None:
    """The result at this path, or why there is none; None while neither is known."""
    try:
        return Answer(read_manifest(path, TrialResult), "")
    except FileNotFoundError:
        pass
    try:
        text = path.with_suffix(".failed").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return Answer(None, " ".join(text.split()) or "no reason was given")


def judge(answers: Mapping[int, Answer], quota: int | None, margin: float) -> list[Outcome]:
    """Decide who goes on from a rung, by the losses of the same rows alone.

    The trial of the least log loss is the reference. Another ends if it is not among the `quota` best, or if its rows'
    losses are above the reference's by more than `margin` standard errors of the paired difference.

    Args:
        answers: of all trials at the rung, by number.
        quota: how many go on at most; None at the last rung, where all have finished.
        margin: in standard errors.
    """
    results = {number: answer.result for number, answer in answers.items() if answer.result is not None}
    ranked = sorted(results, key=lambda number: (results[number].log_loss, number))
    outcomes = [Outcome(number=n, state="failed", why=a.failure) for n, a in answers.items() if a.result is None]
    for rank, number in enumerate(ranked, 1):
        paired = against(results[number], results[ranked[0]])
        state: Literal["goes on", "pruned", "finished"] = "goes on"
        why = f"{rank} of {len(answers)}"
        if quota is None:
            state = "finished"
        elif rank > quota:
            state, why = "pruned", f"{why}, {quota} go on"
        elif rank > 1 and paired["difference"] > margin * paired["error"]:
            state, why = "pruned", f"{why}, above the best by more than {margin:g} standard errors"
        outcomes.append(Outcome(number=number, state=state, why=why, log_loss=results[number].log_loss, **paired))
    return sorted(outcomes, key=lambda outcome: outcome.number)


def against(one: TrialResult, other: TrialResult) -> dict[str, float]:
    """Mean difference of two trials' losses on the same rows, and its standard error."""
    paired = compare(np.array(one.losses), np.array(other.losses))
    return {"difference": paired["change"], "error": paired["error"]}
