"""Numbers and names of recipes and options, each with the bound beyond which it costs memory or time that nobody has.

A bound is far above every use that is known; what is beyond it is a slip of the hand, refused with the reason before
anything is allocated.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from tiebreak.plurals import plain_number


def _no_truth(value: Any) -> Any:
    """YAML reads `yes` and `true` as truth, which Python counts as 1."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


def within(least: float, most: float, why: str) -> AfterValidator:
    """A validator of numbers from `least` to `most`; `why` says what one beyond would cost or mean."""

    def check(value: float) -> float:
        if not least <= value <= most:
            raise ValueError(f"should be from {plain_number(least)} to {plain_number(most)}: {why}")
        return value

    return AfterValidator(check)


LONGEST_NAME, LONGEST_PLACE = 100, 1_000
_MARKUP = set('/\\<>:"|?*$`{}[]')


def fault_of_name(name: str) -> str | None:
    """What keeps a name from being that of a folder and a title; None if nothing does."""
    if not name.strip() or len(name) > LONGEST_NAME:
        return f"has {len(name)} characters, and 1 to {LONGEST_NAME} are possible"
    if name.startswith((".", "-", "~")):
        return f"{name!r} begins with {name[0]!r}"
    if odd := [c for c in name if c in _MARKUP or not c.isprintable()]:
        return f"{name!r} holds {odd[0]!r}"
    return None


def is_a_place(value: str) -> str:
    """The value, if it can be a path or a hub name."""
    if not value.strip() or len(value) > LONGEST_PLACE or not value.isprintable():
        raise ValueError(
            f"should name a model, a folder or a hub name in at most {LONGEST_PLACE:,} printable characters"
        )
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]

Positive = Annotated[Whole, Field(ge=1, lt=2**31)]
NotNegativeInt = Annotated[Whole, Field(ge=0, lt=2**31)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Share = Annotated[Real, Field(ge=0.0, lt=1.0)]
Weight = Annotated[Real, within(0.0, 1e6, "the terms of a loss are weighed against each other")]

Tokens = Annotated[Whole, within(1, 1 << 26, "a micro-batch lies in memory at once")]
RowTokens = Annotated[Whole, within(16, 1 << 20, "a row lies in memory at once, with attention over it")]
BatchRows = Annotated[Whole, within(1, 1 << 20, "the rows of a step are laid out in memory")]
SampleRows = Annotated[Whole, within(1, 50_000_000, "the sample is written to a file of 1.5 KB a row")]
Steps = Annotated[Whole, within(1, 1_000_000_000, "more steps than any run has")]
Epochs = Annotated[Real, within(1e-6, 10_000, "each epoch passes over all rows")]
Rate = Annotated[Real, Field(gt=0), within(0.0, 10.0, "weights would not stay finite at a higher learning rate")]
Decay = Annotated[Real, within(0.0, 100.0, "each step takes lr times this off the weights")]
Epsilon = Annotated[Real, Field(gt=0), within(1e-30, 1.0, "it is added to the root of a gradient's mean square")]
Norm = Annotated[Real, within(1e-6, 1e6, "gradients are scaled to it")]
LayerDecay = Annotated[Real, within(1e-3, 1.0, "the lowest layer's rate is its power by the number of layers")]
Beta = Annotated[Real, Field(ge=0.0, lt=1.0)]
Rank = Annotated[Whole, within(1, 1 << 16, "each adapted layer gets two matrices of this rank")]
Alpha = Annotated[Real, Field(gt=0), within(1e-6, 1e6, "the update is scaled by alpha / r")]
Width = Annotated[Whole, within(1, 1 << 17, "the head has a matrix of this width")]
Checkpoints = Annotated[Whole, within(1, 100_000, "checkpoints are kept on the disk")]
Wait = Annotated[Whole, within(1, 30 * 86_400, "a month without progress is a hang")]
Lease = Annotated[Real, within(0.01, 7 * 86_400, "a silent process's rows are taken over after it")]
Temperature = Annotated[Real, within(1e-3, 1e3, "logits are divided by it")]
PartOfRows = Annotated[Real, within(1e-6, 1.0, "it is the share of the rows to use")]
Gigabytes = Annotated[Real, within(0.0, 1e6, "no disk holds more than a petabyte")]
Folds = Annotated[Whole, within(2, 1_000, "each fold is a training")]
Place = Annotated[str, AfterValidator(is_a_place)]
