"""The space of a sweep: which fields of a recipe vary, how trials are drawn from it, and when they are pruned."""

import itertools
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tiebreak import bounds
from tiebreak.config import Section
from tiebreak.errors import UserError
from tiebreak.pipeline.ablation import DECIDE_HELD_OUT
from tiebreak.recipe_files import read_recipe_file, validate

if TYPE_CHECKING:
    from optuna.study import Study

STUDY = "sweep"
MOST_TRIALS = 1_000
FIXED = ("name", "description", "train.early_stopping", *(f"data.{field}" for field in DECIDE_HELD_OUT))
"""Fields that no trial may set otherwise than another: names, what a sweep prunes by, and which rows are held out."""
Choice = str | bool | int | float | None
Settings = dict[str, Choice]
"""The values that a trial has of the fields that vary, by `key.path`."""


class Range(Section):
    """Numbers from `low` to `high`: whole ones if both are."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw evenly on the logarithmic scale."""
    step: int | float | None = None
    """Distance of the values, from `low` on."""

    @model_validator(mode="after")
    def _is_one(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}, and high, {self.high}, is not above it")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and goes without step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step is {self.step}: give one above 0")
        return self


class Space(Section):
    """A sweep as its YAML file has it."""

    description: str = ""
    """What is looked for, in whole sentences."""
    space: dict[
        Annotated[str, Field(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)+$")],
        Annotated[list[Choice], Field(min_length=1)] | Range,
    ] = Field(min_length=1, max_length=100)
    """Fields of the recipe, `key.path`, each with its values: a list, or a range."""
    trials: Annotated[bounds.Whole, bounds.within(2, MOST_TRIALS, "each trial is a training")] | None = None
    """How many are drawn; under `grid` none, as that has every combination of the lists."""
    sampler: Literal["random", "tpe", "grid"] = "random"
    """How they are drawn: each by itself, by Optuna's tree-structured Parzen estimator from the results of the waves
    before, or every combination."""
    wave: Annotated[bounds.Whole, bounds.within(1, MOST_TRIALS, "each trial is a training")] | None = None
    """Trials that are drawn at once, before any of them has a result; none means all."""
    seed: bounds.Seed = 0
    """Seed of what is drawn."""
    rungs: Annotated[bounds.Whole, bounds.within(1, 10, "each rung waits for all trials of the one before")] = 3
    """Times that a trial is looked at: the last at its end, each one before at 1 / reduction_factor of the steps of the
    next."""
    reduction_factor: Annotated[bounds.Whole, bounds.within(2, 100, "it is the share of trials that goes on")] = 3
    """At each rung one of so many trials goes on, at most."""
    margin: Annotated[bounds.Real, bounds.within(0.0, 100.0, "it is counted in standard errors")] = 2.0
    """A trial also ends where its rows' log loss is above the rung's best by more than so many standard errors of the
    difference."""
    set: list[str] = Field(default_factory=list)
    """Changes of the recipe that all trials have, each `key.path=value`."""

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "Space":
        if fixed := [name for name in self.space if name in FIXED]:
            raise ValueError(f"{fixed[0]} cannot vary: trials are compared on the same held-out rows, and have no name")
        grid = self.sampler == "grid"
        if grid and (ranges := [name for name, values in self.space.items() if isinstance(values, Range)]):
            raise ValueError(f"sampler grid needs lists, and {ranges[0]} is a range: list its values")
        if grid and self.trials is not None:
            raise ValueError(
                f"trials is {self.trials}, but the grid has {self.combinations} combinations: leave it out"
            )
        if grid and self.combinations > MOST_TRIALS:
            raise ValueError(f"the grid has {self.combinations:,} combinations: shorten the lists, or draw with random")
        if not grid and self.trials is None:
            raise ValueError("trials is missing: say how many are to be drawn")
        return self

    @property
    def count(self) -> int:
        """Trials in all."""
        return self.combinations if self.trials is None else int(self.trials)

    @property
    def combinations(self) -> int:
        """Of the values of all lists."""
        sizes = [len(values) for values in self.space.values() if isinstance(values, list)]
        return int(math.prod(sizes))

    @property
    def waves(self) -> list[range]:
        """The numbers of each wave's trials."""
        size = self.wave or self.count
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]

    def share(self, rung: int) -> float:
        """The part of a training that has been done at a rung."""
        return float(self.reduction_factor ** (rung + 1 - self.rungs))

    def quota(self, wave: int, rung: int) -> int:
        """Trials of a wave that a rung takes at most."""
        return max(1, -(-len(self.waves[wave]) // int(self.reduction_factor**rung)))


def load_space(path: Path) -> Space:
    """The space in a YAML file.

    Raises:
        UserError: no such file, or naming every unknown field and every value out of range.
    """
    return validate(Space, read_recipe_file(path, Space), str(path))


def import_optuna() -> Any:
    """Optuna, which says nothing but warnings from here on.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("tiebreak sweep needs Optuna: pip install 'tiebreak[sweep]', or 'optuna>=5'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(path: Path) -> "Study":
    """The study in a journal on a shared folder; Optuna's lock is a file beside it, which works over NFS too."""
    optuna = import_optuna()
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
    storage = optuna.storages.JournalStorage(backend)
    study: Study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True)
    return study


def draw(space: Space, study: "Study", number: int) -> Settings:
    """The settings of a trial: drawn once, and the study's from then on.

    They follow from the seed, the number, and what the study has been told of earlier trials; not from the process or
    the time. A trial that was drawn already is read.
    """
    optuna = import_optuna()
    trials = study.get_trials(deepcopy=False)
    if number < len(trials):
        return dict(trials[number].params)
    spread = {name: _distribution(values) for name, values in space.space.items()}
    seed = int(np.random.SeedSequence([space.seed, number]).generate_state(1)[0])
    if space.sampler == "grid":
        values = [values for values in space.space.values() if isinstance(values, list)]
        settings = dict(zip(space.space, next(itertools.islice(itertools.product(*values), number, None)), strict=True))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            tpe = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        # In memory: the journal gets the trial in one piece.
        apart = optuna.create_study(sampler=tpe if space.sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed))
        if space.sampler == "tpe":
            apart.add_trials(trials)
        settings = apart.ask(spread).params
    running = optuna.trial.TrialState.RUNNING
    study.add_trial(optuna.trial.create_trial(state=running, params=settings, distributions=spread))
    return dict(settings)


def tell(study: "Study", number: int, state: str, seen: dict[int, float]) -> None:
    """Tell the study how a trial has ended; once more changes nothing.

    Args:
        study: that the trial was drawn for.
        number: of the trial.
        state: `finished`, `pruned` or `failed`.
        seen: its log loss by step.
    """
    optuna = import_optuna()
    stored = study.get_trials(deepcopy=False)[number]
    if stored.state.is_finished():
        return
    trial = optuna.trial.Trial(study, stored._trial_id)
    for step, value in seen.items():
        if step not in stored.intermediate_values:
            trial.report(value, step)
    states = optuna.trial.TrialState
    if state == "finished":
        study.tell(number, seen[max(seen)])
    else:
        study.tell(number, state=states.PRUNED if state == "pruned" and seen else states.FAIL)


def _distribution(values: list[Choice] | Range) -> Any:
    distributions = import_optuna().distributions
    if isinstance(values, list):
        return distributions.CategoricalDistribution(values)
    whole = isinstance(values.low, int) and isinstance(values.high, int) and float(values.step or 1).is_integer()
    if whole:
        return distributions.IntDistribution(values.low, values.high, log=values.log, step=int(values.step or 1))
    return distributions.FloatDistribution(values.low, values.high, log=values.log, step=values.step)
