"""Does `tiebreak decide` keep its word, and how much does it decide? 1,000 calibrations of each judge.

python benchmarks/decide.py                       # the table of docs/decide.md
python benchmarks/decide.py --splits 200          # quicker

The judges: the embedded sample's own law, which is calibrated; the same, twice as sure as it should be; planted judges
whose chance to be right is known for each confidence: one whose confidences lie evenly between 1/3 and 1, one that
either knows (97 %) or does not (40 %), and one that is right or wrong on all five rows of a prompt at once. In each
split a threshold is found on 1,000 labelled rows; the true agreement of all rows that it decides is known from the law.
`oracle` is the coverage of the loosest threshold that truly reaches the target. The exit code is 1 if a target is
missed in more than 5 % of the splits, beyond what chance allows (three standard errors).
"""

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.decisions.confidence import judge_rows
from tiebreak.decisions.sequence import find_threshold
from tiebreak.sample.generator import write_sample
from tiebreak.sample.law import bayes_probabilities
from tiebreak.tables.table import read_table

ROWS, GROUP = 20_000, 5
CERTAINTY, ALLOWED, WITHIN = 0.95, 0.05, 0.05


@dataclass(frozen=True)
class Judge:
    """Rows of a judge: confidence (n,), true chance that people agree (n,), rows of a prompt."""

    name: str
    confidence: np.ndarray
    chance: np.ndarray
    group: int = 1


def law_judges(folder: Path) -> list[Judge]:
    write_sample(folder / "sample.csv", ROWS, seed=17, profile="short")
    pairs = read_table(folder / "sample.csv").pairs
    texts = zip(*((pair.prompt, pair.response_a, pair.response_b) for pair in pairs), strict=True)
    law = bayes_probabilities(*texts)
    sharp = law**2 / (law**2).sum(1, keepdims=True)
    judges = []
    for name, p in (("sample's law", law), ("twice as sure", sharp)):
        verdicts, confidence = judge_rows(p, "verdict")
        judges.append(Judge(name, confidence, law[np.arange(len(law)), verdicts]))
    return judges


def planted_judges(rng: np.random.Generator) -> list[Judge]:
    even = rng.uniform(1 / 3, 1, ROWS)
    knows = np.where(rng.random(ROWS) < 0.6, 0.97, 0.40) + rng.uniform(-0.02, 0.02, ROWS)
    prompts = rng.uniform(1 / 3, 1, ROWS // GROUP).repeat(GROUP)
    return [
        Judge("even", even, even),
        Judge("knows or not", knows, knows),
        Judge("five rows alike", prompts, prompts, GROUP),
    ]


def draw_agreement(judge: Judge, rng: np.random.Generator) -> np.ndarray:
    """Whether people agree with each row's verdict; the same for all rows of a prompt."""
    return rng.random(len(judge.chance) // judge.group).repeat(judge.group) < judge.chance


def oracle(judge: Judge, agree: float) -> float:
    """The coverage of the loosest threshold at which people truly agree on the target's share."""
    order = np.argsort(-judge.confidence)
    reached = np.flatnonzero(judge.chance[order].cumsum() / np.arange(1, len(order) + 1) >= agree)
    return float((reached[-1] + 1) / len(order)) if len(reached) else 0.0


def run(
    judge: Judge, agree: float, splits: int, calibration: int, naive: bool, rng: np.random.Generator
) -> tuple[float, float]:
    """The share of splits in which the target is missed, and the mean coverage."""
    covered, missed = [], 0
    prompts = len(judge.chance) // judge.group
    for _ in range(splits):
        drawn = rng.choice(prompts, calibration // judge.group, replace=False)
        rows = (drawn[:, None] * judge.group + np.arange(judge.group)).ravel()
        groups = np.arange(len(rows)) if naive else rows // judge.group
        agreed = draw_agreement(judge, rng)[rows]
        found = find_threshold(judge.confidence[rows], agreed, groups, agree, 1 - CERTAINTY)
        decided = judge.confidence >= found.value
        covered.append(decided.mean())
        missed += bool(decided.any() and judge.chance[decided].mean() < agree)
    return missed / splits, float(np.mean(covered))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=1_000)
    parser.add_argument("--calibration", type=int, default=1_000, help="labelled rows of each split")
    parser.add_argument("--agree", type=float, nargs="+", default=[0.65, 0.7, 0.8, 0.9])
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        judges = [*law_judges(Path(folder)), *planted_judges(rng)]
    print("| judge | agree | oracle's coverage | mean coverage | less by, points | missed |\n|---|---|---|---|---|---|")
    kept = True
    chance = 3 * math.sqrt(ALLOWED * (1 - ALLOWED) / options.splits)
    for judge in judges:
        for agree in options.agree:
            missed, covered = run(judge, agree, options.splits, options.calibration, False, rng)
            best = oracle(judge, agree)
            less = 100 * (best - covered)
            print(f"| {judge.name} | {agree} | {best:.1%} | {covered:.1%} | {less:.1f} | {missed:.1%} |", flush=True)
            kept &= missed <= ALLOWED + chance
    missed, covered = run(judges[-1], 0.8, options.splits, options.calibration, True, rng)
    print(f"\nfive rows alike, taken for independent: coverage {covered:.1%}, missed {missed:.1%}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
