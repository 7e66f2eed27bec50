"""What metrics.json holds: every figure of the report, typed and documented (docs/report.md shows it as a table)."""

import html

from pydantic import BaseModel, ConfigDict

VERSION = 1


class ReportSection(BaseModel):
    """A part of metrics.json, or of a record like it: undeclared fields are refused, and so are infinite numbers."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Estimate(ReportSection):
    """A figure with its 95 % bootstrap interval over prompt groups."""

    value: float
    low: float
    high: float


class ClassScores(ReportSection):
    """Scores of one class, against the other two."""

    rows: int
    """Rows whose label is this class."""
    precision: Estimate | None
    """Of the rows given this verdict, the share that is right; none if the verdict never occurs."""
    recall: Estimate | None
    """Of the rows of this class, the share that gets this verdict."""
    f1: Estimate | None
    """Harmonic mean of the two; 0 where both are."""
    log_loss: Estimate | None
    """Mean -log p of this class over its rows, in nats."""


class Scores(ReportSection):
    """Scores of one judge or baseline."""

    log_loss: Estimate
    """Mean -log p of the true class, in nats."""
    accuracy: Estimate
    """Share of rows whose most probable class is the label."""
    macro_f1: Estimate
    """Unweighted mean of the three classes' F1."""
    brier: Estimate
    """Mean squared distance between probabilities and one-hot label, summed over classes: 0 to 2."""
    classes: dict[str, ClassScores]
    """By `A`, `B` and `tie`."""
    confusion: list[list[int]]
    """Rows by label (first index: A, B, tie) and verdict (second)."""
    gap_closed: Estimate | None
    """(prior - this) / (prior - Bayes) in log loss; on the embedded sample only."""


class Slice(ReportSection):
    """Scores on some of the rows."""

    by: str
    """What the rows are divided by."""
    name: str
    rows: int
    log_loss: Estimate
    accuracy: Estimate


class Bin(ReportSection):
    """A bin of a reliability diagram."""

    rows: int
    predicted: float
    """Mean predicted probability of the class in the bin."""
    observed: float
    """Share of the bin's rows with that label."""
    low: float
    """95 % Wilson interval of `observed`."""
    high: float


class Calibration(ReportSection):
    """Whether probabilities are as often right as they say."""

    ece: Estimate
    """Expected calibration error of the verdict's probability: 15 bins of equal mass."""
    ece_if_calibrated: float
    """Mean ECE of a perfectly calibrated judge with these probabilities and this many rows (200 simulations)."""
    ece_if_calibrated_high: float
    """The 95th percentile of the same: an ECE above it is more than chance."""
    reliability: dict[str, list[Bin]]
    """Per class, up to 15 bins of equal mass by its predicted probability."""
    temperature: Estimate | None
    """Logits divided by it have the lowest log loss on half of the prompts; above 1: overconfident.

    None where that half is one prompt, or its rows give all classes the same probability.
    """
    fitted_rows: int
    """Rows of that half."""
    held_out_rows: int
    """Rows of the other half."""
    held_out_gain: Estimate | None
    """Log loss that the temperature saves on the other half."""


class CoveragePoint(ReportSection):
    """A point of a risk-coverage curve."""

    coverage: float
    """Share of rows decided, the surest first."""
    confidence: float
    """The least confidence among them: the verdict's probability."""
    agreement: Estimate
    """Share of the decided rows whose verdict is the label: 1 - risk."""


class Selective(ReportSection):
    """What the judge is worth if it may leave rows to people."""

    aurc: Estimate
    """Area under the risk-coverage curve: the mean share of wrong verdicts over all coverages; lower is better."""
    curve: list[CoveragePoint]
    """From the surest rows to all, in steps of 2 %."""


class Position(ReportSection):
    """Position bias: how much the verdict depends on which answer is shown first."""

    both_orders: bool
    """Whether predictions in both answer orders were there; if not, the last four are none."""
    first_preference: Estimate
    """Mean P(shown first wins) - P(shown second wins); over both orders, or over the table's own."""
    humans: Estimate
    """Share of labels A minus share of labels B: humans saw A first."""
    excess: Estimate
    """The same of the judge in the table's own order, minus the humans'."""
    consistency: Estimate | None
    """Share of rows with the same verdict in both orders."""
    first_favoured: Estimate | None
    """Share of rows where each order's verdict is the answer shown first."""
    second_favoured: Estimate | None
    """Share of rows where each order's verdict is the answer shown second."""
    mean_change: Estimate | None
    """Mean total variation distance between the two orders' probabilities."""


class LengthBin(ReportSection):
    """Preference for the longer answer among rows of one range of length ratios."""

    longer_by: float
    """Least ratio of the longer answer to the shorter one, in characters."""
    up_to: float | None
    """The ratio where the next bin begins."""
    rows: int
    judge: Estimate
    """P(prefers the longer | decided), by probability."""
    humans: Estimate
    """Share of decided labels that chose the longer."""


class Verbosity(ReportSection):
    """Verbosity bias: preference for the longer answer, beside people's."""

    rows: int
    """Rows whose answers differ in length."""
    prefers_longer: Estimate
    """sum P(longer wins) / sum P(not a tie)."""
    verdict_prefers_longer: Estimate | None
    """Of the judge's verdicts that are not ties, the share for the longer; sharper than its probabilities."""
    humans: Estimate
    """Of the labels that are not ties, the share for the longer."""
    excess: Estimate
    """prefers_longer - humans."""
    bins: list[LengthBin]
    length_effect: Estimate
    """Slope of the judge's decided log odds of A over B on log(length of A / length of B), logistic model."""
    humans_length_effect: Estimate
    """The same model on the labels."""
    excess_length_effect: Estimate
    """length_effect - humans_length_effect."""
    residual_length_effect: Estimate
    """The humans' slope once the judge's own log odds are taken as given; below 0: the judge overweights length."""
    twice_as_long: float
    """The judge's modelled P(A preferred | decided) for an answer A twice as long as B, at no position preference."""
    humans_twice_as_long: float


class Family(ReportSection):
    """Win rate of one model family by the judge and by people."""

    family: str
    rows: int
    """Rows where exactly one answer is this family's."""
    judge: Estimate
    """Its win rate by the judge's probabilities, a tie counting half."""
    humans: Estimate
    """Its win rate by the labels."""
    excess: Estimate
    """judge - humans."""


class SelfEnhancement(ReportSection):
    """Self-enhancement: win rates of model families, the judge's own among them."""

    judge_family: str | None
    own_excess: Estimate | None
    """The judge's own family's `excess`; none where it does not occur or the judge's family is not known."""
    families: list[Family]


class Repetition(ReportSection):
    """What saying everything twice gains an answer."""

    rows: int
    """Rows predicted both as they are and with one answer doubled."""
    win_gain: Estimate
    """Mean change of P(win) of the doubled answer."""
    toward: Estimate
    """Share of rows whose verdict moves towards the doubled answer."""
    away: Estimate
    """Share of rows whose verdict moves away from it."""
    net: Estimate
    """toward - away."""


class EditEffect(ReportSection):
    """What an edit that should not pay gains an answer."""

    kind: str
    """Of `tiebreak attack --kinds`."""
    keeps_meaning: bool
    """Otherwise it is a plea."""
    rows: int
    """Rows predicted both as they are and with one answer edited."""
    win_gain: Estimate
    """Mean change of P(win) of the edited answer."""
    changed: Estimate
    """Share of rows whose verdict is another."""
    p_value: float
    """Of no effect, times the number of kinds."""
    alarm: bool
    """Whether that is at most .01 and the effect more than half a point."""


class Mistake(ReportSection):
    """A wrong verdict."""

    id: str
    label: str
    verdict: str
    probability: float
    """Of the verdict."""


class JudgeReport(ReportSection):
    """All figures of one judge."""

    name: str
    path: str
    scores: Scores
    slices: list[Slice]
    calibration: Calibration
    selective: Selective | None
    position: Position
    verbosity: Verbosity | None
    self_enhancement: SelfEnhancement | None
    repetition: Repetition | None
    edits: list[EditEffect] = []
    mistakes: list[Mistake]
    """The most confident wrong verdicts."""


class SlicePair(ReportSection):
    """Who of two judges is right on some of the rows."""

    by: str
    name: str
    rows: int
    only_first: int
    only_second: int


class JudgePair(ReportSection):
    """Two judges on the same rows."""

    first: str
    second: str
    log_loss: Estimate
    """First minus second: below 0, the first is better."""
    accuracy: Estimate
    """First minus second: above 0, the first is better."""
    agreement: Estimate
    """Share of rows with the same verdict."""
    both_right: int
    only_first: int
    only_second: int
    neither: int
    slices: list[SlicePair]
    """Who is right where."""


class Run(ReportSection):
    """Figures of a training run."""

    name: str
    steps: int
    loss: float
    """Mean training loss of the last tenth of the steps."""
    best_step: int | None
    best_validation_log_loss: float | None
    tokens_per_second: float
    """Over the whole run."""


class Report(ReportSection):
    """The whole of metrics.json."""

    version: int = VERSION
    labels: str
    """The labels table's name."""
    rows: int
    """Labelled rows that every file predicts."""
    prompts: int
    """Distinct prompts among them, the unit of resampling."""
    class_counts: dict[str, int]
    """Labels `A`, `B` and `tie`."""
    resamples: int
    seed: int
    notes: list[str]
    """What was lacking or left out; first, what makes figures void: too few rows, a judge that answers all alike."""
    baselines: dict[str, Scores]
    """By `prior`, `length`, `tfidf`, `numbers` (TF-IDF with all numbers) and `boosted` (trees on both), fitted on the
    other folds' prompts, and, on the embedded sample, `bayes`."""
    judges: list[JudgeReport]
    pairs: list[JudgePair]
    runs: list[Run]

    def __repr__(self) -> str:
        from tiebreak.evaluation.wording import render_scores

        return render_scores(self) or f"{len(self.runs)} runs, no judges"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre; overflow-x: auto">{html.escape(repr(self))}</pre>'
