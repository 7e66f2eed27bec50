"""Is `tiebreak leaderboard` right, do its intervals hold what they promise, and how fast is it?

python benchmarks/leaderboard.py                  # the table of docs/leaderboard.md
python benchmarks/leaderboard.py --repeats 200    # quicker

Four parts. Peer: ratings and effects against scikit-learn's logistic regression without penalty, on the same votes.
Effects: planted effects of style against their estimates. Intervals: of five models in a world whose true ratings are
known from two million votes, with a judge that sees what people see, but is too sure and likes one model; how often
95 % intervals hold the truth with 100, 300 and 1,000 votes among 5,000 judged rows, over many tables; the same where
each prompt occurs twice with the same vote. Size: a hundred models and a million rows, in time and memory.
The exit code is 1 if a claim of docs/leaderboard.md does not hold.
"""

import argparse
import math
import resource
import sys
import time

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression

from tiebreak.decisions.battles import Battles
from tiebreak.decisions.bradley_terry import Design, Fit, fit_both, fit_votes
from tiebreak.decisions.leaderboard import rank_models

STRENGTH = np.array([0.8, 0.4, 0.0, -0.4, -0.8])
MODELS, ROWS, TIES = len(STRENGTH), 5_000, 0.25


def pairs(rng: np.random.Generator, rows: int, models: int) -> tuple[np.ndarray, np.ndarray]:
    first = rng.integers(0, models, rows)
    return first, (first + rng.integers(1, models, rows)) % models


def world(rng: np.random.Generator, rows: int, group: int = 1) -> tuple[Design, np.ndarray, np.ndarray, np.ndarray]:
    """Battles, people's votes, the judge's word and prompts; of a group, rows share the answers' unseen quality."""
    first, second = pairs(rng, rows, MODELS)
    if group > 1:  # the same two models meet again on a prompt, as when several people vote on it
        first, second = (side[::group].repeat(group)[:rows] for side in (first, second))
    quality = 1.5 * rng.normal(size=rows // group).repeat(group)
    odds = STRENGTH[first] - STRENGTH[second] + quality
    chance, thrown = (1 - TIES) / (1 + np.exp(-odds)), rng.random(rows // group).repeat(group)
    votes = np.where(thrown < chance, 1.0, np.where(thrown < chance + TIES, 0.5, 0.0))
    likes = 0.3 * ((first == 0).astype(float) - (second == 0))
    judged = (1 - TIES) / (1 + np.exp(-(1.2 * odds + 0.5 * rng.normal(size=rows) + likes))) + TIES / 2
    design = Design(first, second, MODELS, np.zeros((rows, 0)))
    return design, votes, judged, np.arange(rows) // group


def peer(rng: np.random.Generator) -> float:
    """The largest difference from scikit-learn, in log odds."""
    rows, models = 4_000, 8
    first, second = pairs(rng, rows, models)
    features = rng.normal(size=(rows, 3))
    design = Design(first, second, models, features)
    truth = np.concatenate([rng.normal(size=models), [0.5, -0.3, 0.0]])
    votes = (rng.random(rows) < 1 / (1 + np.exp(-design.log_odds(truth)))).astype(float)
    table = np.concatenate([np.eye(models)[first] - np.eye(models)[second], features], axis=1)
    plain = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1_000, solver="newton-cholesky")
    theirs = plain.fit(table[:, 1:], votes).coef_[0]
    ratings = np.concatenate([[0.0], theirs[: models - 1]])
    theirs = np.concatenate([ratings - ratings.mean(), theirs[models - 1 :]])
    return float(np.abs(theirs - fit_votes(design, votes, np.arange(rows)).theta).max())


def effects(rng: np.random.Generator, repeats: int) -> float:
    """The share of planted effects within two standard errors of their estimates."""
    inside = []
    for _ in range(repeats):
        first, second = pairs(rng, 2_000, MODELS)
        features, planted = rng.normal(size=(2_000, 3)), np.array([0.4, -0.2, 0.0])
        design = Design(first, second, MODELS, features)
        odds = design.log_odds(np.concatenate([STRENGTH, planted]))
        fit = fit_votes(design, (rng.random(2_000) < 1 / (1 + np.exp(-odds))).astype(float), np.arange(2_000))
        error = np.abs(fit.theta[MODELS:] - planted) / np.sqrt(np.diag(fit.covariance)[MODELS:])
        inside.append(error <= 2)
    return float(np.mean(inside))


def held(fit: Fit, truth: np.ndarray) -> tuple[np.ndarray, float]:
    """Which intervals hold the true ratings, and their mean width in points."""
    half = stats.t.ppf(0.975, fit.freedom) * np.sqrt(np.diag(fit.covariance)[:MODELS])
    return np.abs(fit.theta[:MODELS] - truth) <= half, float(2 * half.mean() * 400 / math.log(10))


def intervals(repeats: int, group: int, truth: np.ndarray) -> bool:
    """Print a line for each number of votes; whether all coverages are from 93 to 97 %."""
    good = True
    for count in (100, 300, 1_000):
        rng = np.random.default_rng([7, group, count])
        lines: dict[str, list[tuple[np.ndarray, float]]] = {"both": [], "votes": [], "judge": [], "alone": []}
        powers = []
        for _ in range(repeats):
            design, votes, judged, prompts = world(rng, ROWS, group)
            labelled = np.isin(prompts, rng.choice(ROWS // group, count // group, replace=False))
            both = fit_both(design, votes, judged, labelled, prompts)
            powers.append(both.power)
            lines["both"].append(held(both, truth))
            mine = design.rows(labelled)
            lines["votes"].append(held(fit_votes(mine, votes[labelled], prompts[labelled]), truth))
            lines["judge"].append(held(fit_votes(design, judged, prompts), truth))
            if group > 1:
                lines["alone"].append(held(fit_both(design, votes, judged, labelled, np.arange(ROWS)), truth))
        share = {name: np.mean([hit for hit, _ in found]) if found else np.nan for name, found in lines.items()}
        width = {name: np.mean([w for _, w in found]) if found else np.nan for name, found in lines.items()}
        cells = [f"{group}", f"{count:,}", f"{share['both']:.1%}", f"{share['votes']:.1%}", f"{share['judge']:.1%}"]
        cells += [f"{width['both']:.0f}", f"{width['votes']:.0f}", f"{1 - width['both'] / width['votes']:.0%}"]
        cells += [f"{np.mean(powers):.2f}", "" if group == 1 else f"{share['alone']:.1%}"]
        print(f"| {' | '.join(cells)} |", flush=True)
        good &= all(0.93 <= share[name] <= 0.97 for name in ("both", "votes"))
    return good


def size(rng: np.random.Generator) -> tuple[float, float]:
    """Seconds on one core, and GiB, of a board with votes on a tenth of the rows and 12 features."""
    rows, models = 1_000_000, 100
    first, second = (side.astype(np.int32) for side in pairs(rng, rows, models))
    features = rng.standard_normal((rows, 12), dtype=np.float32)
    strength = rng.normal(size=models) / 2
    chance = 1 / (1 + np.exp(strength[second] - strength[first]))
    votes = np.where(rng.random(rows) < 0.1, (rng.random(rows) < chance).astype(float), np.nan)
    judged = np.clip(chance + 0.1 * rng.normal(size=rows), 0, 1)
    names = [f"model {i}" for i in range(models)]
    battles = Battles(
        names, first, second, rng.integers(0, 700_000, rows), votes, judged, features,
        [f"feature {i}" for i in range(12)], np.ones(12),
    )  # fmt: skip
    start = time.process_time()
    rank_models(battles)
    return time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1_000)
    options = parser.parse_args()
    rng = np.random.default_rng(3)
    seconds, gib = size(rng)  # first: the most memory of a process is never given back
    difference, found = peer(rng), effects(rng, options.repeats)
    print(f"scikit-learn's ratings and effects, largest difference: {difference:.1e}")
    print(f"planted effects within two standard errors: {found:.1%}")
    print(f"100 models, 1,000,000 rows, 12 features: {seconds:.1f} s, {gib:.2f} GiB\n")
    design, votes, _, prompts = world(rng, 2_000_000)
    truth = fit_votes(design, votes, prompts).theta[:MODELS]
    heads = ["rows a prompt", "votes", "held by both", "by votes alone", "by the judge alone", "width, points"]
    heads += ["of votes alone", "narrower by", "weight of the judge", "held, prompts ignored"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    good = all([intervals(options.repeats, group, truth) for group in (1, 2)])
    return 0 if good and difference < 1e-6 and 0.94 < found < 0.97 and seconds < 30 and gib < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
