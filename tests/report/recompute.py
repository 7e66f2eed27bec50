"""Every number of a metrics.json by another route: scikit-learn, scipy or plain loops over resampled rows.

Only the draws are shared with the report: which prompts each resample holds, and which half of the prompts the
temperature is fitted on. A statistic is a function of row numbers here; its interval comes from calling it
on the rows of each resample, a row as often as its prompt was drawn.
"""

import bisect
import hashlib
import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.optimize import brentq, root
from scipy.special import expit, logsumexp
from scipy.stats import binomtest
from sklearn import metrics

from tiebreak.data.predictions import read_predictions
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.calibration import halves
from tiebreak.evaluation.inputs import read_labelled
from tiebreak.evaluation.measure import predict_baselines
from tiebreak.evaluation.self_enhancement import family_of
from tiebreak.sample.law import bayes_probabilities
from tiebreak.tables.table import read_table

CLASSES = ["A", "B", "tie"]
LABELS = [0, 1, 2]
TOLERANCE = 1e-9
"""Both routes add the same float64 numbers in another order; optima are polished to rounding on both sides."""


class Recomputed:
    """Expected values by path; `stat` adds a value with its interval."""

    def __init__(self, groups: np.ndarray, resamples: int, seed: int) -> None:
        self.bootstrap = Bootstrap(groups, resamples, seed)
        everything = np.arange(len(groups))
        counts = self.bootstrap.weights[:, self.bootstrap.index].astype(int)
        self.resampled = [np.repeat(everything, count) for count in counts]
        self.everything = everything
        self.found: dict[str, object] = {}

    def stat(self, path: str, function, centred: bool = False) -> None:
        value = function(self.everything)
        if value is None or math.isnan(value):
            self.found[path] = None
            return
        self.interval(path, value, [function(rows) for rows in self.resampled], centred)

    def interval(self, path: str, value: float, samples: list, centred: bool = False) -> None:
        kept = np.array([x for x in samples if x is not None and not math.isnan(x)])
        if centred:
            kept = np.maximum(0, kept - kept.mean() + value)
        low, high = np.quantile(kept, [0.025, 0.975])
        self.found |= {f"{path}.value": value, f"{path}.low": low, f"{path}.high": high}


def ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def check_report(
    folder: Path, labels_table: Path, predictions: list[Path], attacked: list[Path] = (), runs: list[Path] = ()
) -> int:
    """Assert that every number of a report equals its recomputation; returns how many there were."""
    found = flatten(json.loads((folder / "metrics.json").read_text()))
    pairs = [pair for pair in read_table([labels_table]).pairs if pair.label is not None]
    y = np.array([pair.label for pair in pairs])
    prompts: dict[str, int] = {}
    groups = np.array(
        [prompts.setdefault(" ".join(" ".join(p.prompt).casefold().split()), len(prompts)) for p in pairs]
    )
    all_ = Recomputed(groups, found["resamples"], found["seed"])
    expected = all_.found
    expected |= {"version": 1, "rows": len(pairs), "prompts": len(prompts), "resamples": found["resamples"]}
    expected |= {"seed": found["seed"]} | {
        f"class_counts.{name}": int((y == k).sum()) for k, name in enumerate(CLASSES)
    }
    chars = [(sum(map(len, p.response_a)), sum(map(len, p.response_b))) for p in pairs]
    ids = [pair.id for pair in pairs]
    slices = recompute_slices(pairs, chars)

    base = predict_baselines(read_labelled(labels_table))
    if "bayes" in base:
        law = bayes_probabilities(*zip(*((p.prompt, p.response_a, p.response_b) for p in pairs), strict=True))
        np.testing.assert_array_equal(base["bayes"], law)
    for name, p in base.items():
        scores(all_, f"baselines.{name}", p, y, base)
    read = []
    for k, path in enumerate(predictions):
        p = aligned(path / "predictions.csv", ids)
        read.append(p)
        at = f"judges.{k}"
        scores(all_, f"{at}.scores", p, y, base)
        for s, ((by, name), rows) in enumerate(slices.items()):
            inside = set(rows)
            expected |= {f"{at}.slices.{s}.rows": len(rows)}
            assert (found[f"{at}.slices.{s}.by"], found[f"{at}.slices.{s}.name"]) == (by, name)
            all_.stat(
                f"{at}.slices.{s}.log_loss", lambda r, p=p, i=inside: mean(-np.log(p[j, y[j]]) for j in r if j in i)
            )
            all_.stat(
                f"{at}.slices.{s}.accuracy", lambda r, p=p, i=inside: mean(p[j].argmax() == y[j] for j in r if j in i)
            )
        calibration(all_, f"{at}.calibration", p, y, found["seed"])
        selective(all_, f"{at}.selective", p, y)
        orders = [path / f"predictions_{order}.csv" for order in ("ab", "ba")]
        both = [aligned(file, ids) for file in orders] if all(file.is_file() for file in orders) else None
        position(all_, f"{at}.position", p, y, both)
        verbosity(all_, f"{at}.verbosity", p, y, chars)
        families(all_, f"{at}.self_enhancement", p, y, pairs, found)
        if attacked:
            repetition(all_, f"{at}.repetition", p, aligned(attacked[k] / "predictions.csv", ids), ids)
        wrong = sorted((j for j in range(len(y)) if p[j].argmax() != y[j]), key=lambda j: -p[j].max())[:8]
        for m, j in enumerate(wrong):
            expected[f"{at}.mistakes.{m}.probability"] = p[j].max()
            assert found[f"{at}.mistakes.{m}.id"] == ids[j]
    compare(all_, read, y, slices)
    for k, run in enumerate(runs):
        curve(expected, f"runs.{k}", run)

    numbers = {path: value for path, value in found.items() if isinstance(value, (int, float)) and value is not True}
    numbers = {path: value for path, value in numbers.items() if not isinstance(value, bool)}
    assert set(numbers) - set(expected) == set(), "numbers that nothing recomputes"
    for path, value in numbers.items():
        assert expected[path] is not None and abs(value - expected[path]) <= TOLERANCE, (path, value, expected[path])
    missing = {path for path, value in expected.items() if value is not None} - set(numbers)
    assert missing == set(), "recomputed, but not in the report"
    return len(numbers)


def flatten(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    return {k: v for key, part in items for k, v in flatten(part, f"{path}.{key}" if path else str(key)).items()}


def aligned(path: Path, ids: list[str]) -> np.ndarray:
    read = dict(zip(*read_predictions(path), strict=True))
    return np.array([read[name] for name in ids])


def mean(values) -> float:
    values = list(values)
    return float(sum(values) / len(values)) if values else math.nan


def scores(all_: Recomputed, at: str, p: np.ndarray, y: np.ndarray, base: dict) -> None:
    verdict = p.argmax(1)

    def per_class(function, k):
        return lambda r: function(y[r], verdict[r], labels=[k], average=None, zero_division=np.nan)[0]

    all_.stat(f"{at}.log_loss", lambda r: metrics.log_loss(y[r], p[r], labels=LABELS))
    all_.stat(f"{at}.accuracy", lambda r: metrics.accuracy_score(y[r], verdict[r]))
    all_.stat(
        f"{at}.macro_f1",
        lambda r: metrics.f1_score(y[r], verdict[r], labels=LABELS, average="macro", zero_division=0.0),
    )
    all_.stat(f"{at}.brier", lambda r: metrics.brier_score_loss(y[r], p[r], labels=LABELS, scale_by_half=False))
    for k, name in enumerate(CLASSES):
        all_.found[f"{at}.classes.{name}.rows"] = int((y == k).sum())
        all_.stat(f"{at}.classes.{name}.precision", per_class(metrics.precision_score, k))
        all_.stat(f"{at}.classes.{name}.recall", per_class(metrics.recall_score, k))
        all_.stat(
            f"{at}.classes.{name}.f1",
            lambda r, k=k: metrics.f1_score(y[r], verdict[r], labels=[k], average=None, zero_division=0.0)[0],
        )
        all_.stat(f"{at}.classes.{name}.log_loss", lambda r, k=k: mean(-np.log(p[j, k]) for j in r if y[j] == k))
    for i, line in enumerate(metrics.confusion_matrix(y, verdict, labels=LABELS)):
        all_.found |= {f"{at}.confusion.{i}.{j}": int(count) for j, count in enumerate(line)}
    if "bayes" in base:

        def gap(r):
            prior, mine, bayes = (
                metrics.log_loss(y[r], q[r], labels=LABELS) for q in (base["prior"], p, base["bayes"])
            )
            return (prior - mine) / (prior - bayes)

        all_.stat(f"{at}.gap_closed", gap)


def selective(all_: Recomputed, at: str, p: np.ndarray, y: np.ndarray) -> None:
    sure, wrong = p.max(1), p.argmax(1) != y
    # The rounding of a quantile's place is numpy's, so its own function says where a step ends.
    steps = -np.quantile(-sure, np.arange(1, 50) / 50, method="inverted_cdf")
    edges = sorted({*steps.tolist(), sure.min()}, reverse=True)

    def risk(r, edge):
        inside = np.array(r)[sure[r] >= edge]
        return wrong[inside].mean() if len(inside) else math.nan

    def area(r):
        shares = [0.0, *((sure[r] >= edge).mean() for edge in edges)]
        risks = [risk(r, edge) for edge in edges]
        first = next(value for value in risks if not math.isnan(value))
        ends = [first, *(first if math.isnan(value) else value for value in risks)]
        return float(np.trapezoid(ends, shares))

    all_.stat(f"{at}.aurc", area)
    for k, edge in enumerate(edges):
        all_.found[f"{at}.curve.{k}.coverage"] = float((sure >= edge).mean())
        all_.found[f"{at}.curve.{k}.confidence"] = float(edge)
        all_.stat(f"{at}.curve.{k}.agreement", lambda r, edge=edge: 1 - risk(r, edge))


def recompute_slices(pairs, chars) -> dict[tuple[str, str], list[int]]:
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    edges = np.percentile([max(c) for c in chars], [25, 50, 75])
    names = [f"0–{edges[0]:,.0f} characters", f"{edges[0]:,.0f}–{edges[1]:,.0f} characters"]
    names += [f"{edges[1]:,.0f}–{edges[2]:,.0f} characters", f"over {edges[2]:,.0f} characters"]
    for j, pair in enumerate(pairs):
        rows["turns", "one turn" if len(pair.prompt) == 1 else "several turns"].append(j)
        rows["longer answer", names[sum(max(chars[j]) > edge for edge in edges)]].append(j)
        if pair.language:
            rows["language", pair.language].append(j)
        if chars[j] == (0, 0):
            rows["answers", "both empty"].append(j)
        elif pair.response_a == pair.response_b:
            rows["answers", "identical"].append(j)
    languages = sorted((key for key in rows if key[0] == "language"), key=lambda key: (-len(rows[key]), rows[key][0]))
    order = [("turns", "one turn"), ("turns", "several turns"), *(("longer answer", name) for name in names)]
    order += [*languages[:6], ("answers", "both empty"), ("answers", "identical")]
    return {key: rows[key] for key in order if len(rows[key]) >= (1 if key[0] == "answers" else 10)}


def bins_of(values: list[float]) -> list[int]:
    """15 bins of equal mass; equal values together."""
    ordered, n = sorted(values), len(values)
    edges = sorted({ordered[math.ceil(k * n / 15 - 1e-12) - 1] for k in range(1, 15)})
    raw = [bisect.bisect_left(edges, value) for value in values]
    place = {bin_: k for k, bin_ in enumerate(sorted(set(raw)))}
    return [place[bin_] for bin_ in raw]


def calibration(all_: Recomputed, at: str, p: np.ndarray, y: np.ndarray, seed: int) -> None:
    confidence, right = p.max(1), p.argmax(1) == y
    bins = np.array(bins_of(confidence.tolist()))
    gap = right - confidence
    all_.stat(
        f"{at}.ece",
        lambda r: sum(abs(gap[r][bins[r] == b].sum()) for b in range(bins.max() + 1)) / len(r),
        centred=True,
    )
    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(200):
        hit = rng.random(len(y)) < confidence
        chance.append(sum(abs((hit - confidence)[bins == b].sum()) for b in range(bins.max() + 1)) / len(y))
    all_.found |= {f"{at}.ece_if_calibrated": mean(chance), f"{at}.ece_if_calibrated_high": np.percentile(chance, 95)}
    for k, name in enumerate(CLASSES):
        bins_k = np.array(bins_of(p[:, k].tolist()))
        for b in range(bins_k.max() + 1):
            mine = np.flatnonzero(bins_k == b)
            hits = int((y[mine] == k).sum())
            low, high = binomtest(hits, len(mine)).proportion_ci(method="wilson")
            here = f"{at}.reliability.{name}.{b}"
            all_.found |= {f"{here}.rows": len(mine), f"{here}.predicted": mean(p[mine, k]), f"{here}.low": low}
            all_.found |= {f"{here}.observed": hits / len(mine), f"{here}.high": high}
    half = halves(all_.bootstrap, seed)
    z = np.log(p)

    def slope(r: np.ndarray, inverse: float) -> float:
        """Derivative of the summed loss of rows r in the inverse temperature."""
        q = np.exp(inverse * z[r] - logsumexp(inverse * z[r], axis=1, keepdims=True))
        return float(((q * z[r]).sum(1) - z[r, y[r]]).sum())

    fitted = np.flatnonzero(half)
    ends = [slope(fitted, 1 / 20), slope(fitted, 20)]
    if ends[0] < 0 < ends[1]:
        inverse = brentq(lambda b: slope(fitted, b), 1 / 20, 20, xtol=1e-15, rtol=1e-14)
    else:  # the best lies beyond the temperatures that are sought
        inverse = 1 / 20 if ends[0] >= 0 else 20
    steps = []
    for r in all_.resampled:
        r = r[half[r]]
        q = np.exp(inverse * z[r] - logsumexp(inverse * z[r], axis=1, keepdims=True))
        spread = ((q * z[r] ** 2).sum(1) - (q * z[r]).sum(1) ** 2).sum()
        steps.append(1 / min(20, max(1 / 20, inverse - slope(r, inverse) / spread)))
    all_.interval(f"{at}.temperature", 1 / inverse, steps)
    all_.found |= {f"{at}.fitted_rows": int(half.sum()), f"{at}.held_out_rows": int((~half).sum())}
    cooled = np.exp(inverse * z) / np.exp(inverse * z).sum(1, keepdims=True)

    def gain(r):
        r = r[~half[r]]
        return metrics.log_loss(y[r], p[r], labels=LABELS) - metrics.log_loss(y[r], cooled[r], labels=LABELS)

    all_.stat(f"{at}.held_out_gain", gain)


def position(all_: Recomputed, at: str, p: np.ndarray, y: np.ndarray, both: list | None) -> None:
    ab, ba = both or (p, None)
    human = [(1 if label == 0 else -1 if label == 1 else 0) for label in y]
    ahead = ab[:, 0] - ab[:, 1]
    all_.stat(f"{at}.humans", lambda r: mean(human[j] for j in r))
    all_.stat(f"{at}.excess", lambda r: mean(ahead[r]) - mean(human[j] for j in r))
    if ba is None:
        all_.stat(f"{at}.first_preference", lambda r: mean(ahead[r]))
        return
    all_.stat(f"{at}.first_preference", lambda r: (mean(ahead[r]) + mean(ba[r, 1] - ba[r, 0])) / 2)
    seen = [(int(one.argmax()), int(two.argmax())) for one, two in zip(ab, ba, strict=True)]
    all_.stat(f"{at}.consistency", lambda r: mean(seen[j][0] == seen[j][1] for j in r))
    all_.stat(f"{at}.first_favoured", lambda r: mean(seen[j] == (0, 1) for j in r))
    all_.stat(f"{at}.second_favoured", lambda r: mean(seen[j] == (1, 0) for j in r))
    all_.stat(f"{at}.mean_change", lambda r: mean(np.maximum(ab[j] - ba[j], 0).sum() for j in r))


def verbosity(all_: Recomputed, at: str, p: np.ndarray, y: np.ndarray, chars: list) -> None:
    longer = [0 if a > b else 1 if b > a else None for a, b in chars]
    size = [(1 + max(c)) / (1 + min(c)) for c in chars]
    verdict = p.argmax(1)

    def judge(rows):
        return ratio(sum(p[j, longer[j]] for j in rows), sum(p[j, 0] + p[j, 1] for j in rows))

    def humans(rows):
        return mean(y[j] == longer[j] for j in rows if y[j] != 2)

    def kept(r, low=1.0, high=math.inf):
        return [j for j in r if longer[j] is not None and low <= size[j] < high]

    all_.found[f"{at}.rows"] = len(kept(all_.everything))
    all_.stat(f"{at}.prefers_longer", lambda r: judge(kept(r)))
    all_.stat(f"{at}.humans", lambda r: humans(kept(r)))
    all_.stat(f"{at}.excess", lambda r: judge(kept(r)) - humans(kept(r)))
    all_.stat(
        f"{at}.verdict_prefers_longer", lambda r: mean(verdict[j] == longer[j] for j in kept(r) if verdict[j] != 2)
    )
    limits, b = [1.0, 1.25, 1.5, 2.0, 4.0, math.inf], 0
    for low, high in pairwise(limits):
        rows = kept(all_.everything, low, high)
        if not [j for j in rows if y[j] != 2]:
            continue
        here = f"{at}.bins.{b}"
        all_.found |= {
            f"{here}.rows": len(rows),
            f"{here}.longer_by": low,
            f"{here}.up_to": None if high == math.inf else high,
        }
        all_.stat(f"{here}.judge", lambda r, low=low, high=high: judge(kept(r, low, high)))
        all_.stat(f"{here}.humans", lambda r, low=low, high=high: humans(kept(r, low, high)))
        b += 1
    x = np.array([max(-3.0, min(3.0, math.log((1 + a) / (1 + b)))) for a, b in chars])
    design = np.stack([np.ones_like(x), x], axis=1)
    odds = np.clip(np.log(p[:, 0] / p[:, 1]), -15, 15)
    nothing = np.zeros_like(x)
    fits = {
        "judge": (p[:, 0] / (p[:, 0] + p[:, 1]), p[:, 0] + p[:, 1], nothing),
        "humans": ((y == 0) * 1.0, (y < 2) * 1.0, nothing),
        "rest": ((y == 0) * 1.0, (y < 2) * 1.0, odds),
    }
    slopes: dict[str, tuple[float, np.ndarray]] = {}
    for name, (target, weight, offset) in fits.items():

        def gradient(theta, r=all_.everything, target=target, weight=weight, offset=offset):
            return design[r].T @ (weight[r] * (expit(offset[r] + design[r] @ theta) - target[r])) + theta

        theta = root(gradient, np.zeros(2), tol=1e-14).x
        assert abs(gradient(theta)).max() < 1e-9
        steps = []
        for r in all_.resampled:
            share = expit(offset[r] + design[r] @ theta)
            hessian = (design[r] * (weight[r] * share * (1 - share))[:, None]).T @ design[r] + np.eye(2)
            steps.append((theta - np.linalg.inv(hessian) @ gradient(theta, r))[1])
        slopes[name] = (theta[1], np.array(steps))
    all_.interval(f"{at}.length_effect", *slopes["judge"])
    all_.interval(f"{at}.humans_length_effect", *slopes["humans"])
    all_.interval(f"{at}.residual_length_effect", *slopes["rest"])
    differ = [one - two for one, two in zip(slopes["judge"], slopes["humans"], strict=True)]
    all_.interval(f"{at}.excess_length_effect", *differ)
    all_.found[f"{at}.twice_as_long"] = expit(slopes["judge"][0] * math.log(2))
    all_.found[f"{at}.humans_twice_as_long"] = expit(slopes["humans"][0] * math.log(2))


def families(all_: Recomputed, at: str, p: np.ndarray, y: np.ndarray, pairs: list, found: dict) -> None:
    sides = [(family_of(pair.model_a), family_of(pair.model_b)) if pair.model_a else ("", "") for pair in pairs]
    count = sum(1 for path in found if path.startswith(f"{at}.families.") and path.endswith(".family"))
    expected_names = {name for one, two in sides if one != two for name in (one, two)}
    assert {found[f"{at}.families.{f}.family"] for f in range(count)} == expected_names
    for f in range(count):
        name = found[f"{at}.families.{f}.family"]
        wins = {}
        for j, (one, two) in enumerate(sides):
            if (one == name) != (two == name):
                k = 0 if one == name else 1
                wins[j] = (p[j, k] + p[j, 2] / 2, 1.0 if y[j] == k else 0.5 if y[j] == 2 else 0.0)
        all_.found[f"{at}.families.{f}.rows"] = len(wins)
        all_.stat(f"{at}.families.{f}.judge", lambda r, w=wins: mean(w[j][0] for j in r if j in w))
        all_.stat(f"{at}.families.{f}.humans", lambda r, w=wins: mean(w[j][1] for j in r if j in w))
        all_.stat(f"{at}.families.{f}.excess", lambda r, w=wins: mean(w[j][0] - w[j][1] for j in r if j in w))
        if name == found.get(f"{at}.judge_family"):
            own = {
                key.replace(f"families.{f}.excess", "own_excess"): v
                for key, v in all_.found.items()
                if f"{at}.families.{f}.excess" in key
            }
            all_.found |= own


def repetition(all_: Recomputed, at: str, before: np.ndarray, after: np.ndarray, ids: list[str]) -> None:
    side = [hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2 for name in ids]
    rank = {0: 1, 1: -1, 2: 0}
    moved = []
    for j, k in enumerate(side):
        one, two = (rank[int(q[j].argmax())] * (1 if k == 0 else -1) for q in (before, after))
        moved.append(two - one)
    all_.found[f"{at}.rows"] = len(ids)
    all_.stat(f"{at}.win_gain", lambda r: mean(after[j, side[j]] for j in r) - mean(before[j, side[j]] for j in r))
    all_.stat(f"{at}.toward", lambda r: mean(moved[j] > 0 for j in r))
    all_.stat(f"{at}.away", lambda r: mean(moved[j] < 0 for j in r))
    all_.stat(f"{at}.net", lambda r: mean(moved[j] > 0 for j in r) - mean(moved[j] < 0 for j in r))


def compare(all_: Recomputed, read: list, y: np.ndarray, slices: dict) -> None:
    k = 0
    for one in range(len(read)):
        for two in range(one + 1, len(read)):
            at, (p, q) = f"pairs.{k}", (read[one], read[two])
            v, w = p.argmax(1), q.argmax(1)
            all_.stat(
                f"{at}.log_loss",
                lambda r, p=p, q=q: (
                    metrics.log_loss(y[r], p[r], labels=LABELS) - metrics.log_loss(y[r], q[r], labels=LABELS)
                ),
            )
            all_.stat(
                f"{at}.accuracy",
                lambda r, v=v, w=w: metrics.accuracy_score(y[r], v[r]) - metrics.accuracy_score(y[r], w[r]),
            )
            all_.stat(f"{at}.agreement", lambda r, v=v, w=w: metrics.accuracy_score(v[r], w[r]))
            kinds = [(v[j] == y[j], w[j] == y[j]) for j in range(len(y))]
            names = {
                "both_right": (True, True),
                "only_first": (True, False),
                "only_second": (False, True),
                "neither": (False, False),
            }
            all_.found |= {f"{at}.{name}": kinds.count(kind) for name, kind in names.items()}
            for s, rows in enumerate(slices.values()):
                here = [kinds[j] for j in rows]
                all_.found |= {
                    f"{at}.slices.{s}.rows": len(rows),
                    f"{at}.slices.{s}.only_first": here.count((True, False)),
                }
                all_.found[f"{at}.slices.{s}.only_second"] = here.count((False, True))
            k += 1


def curve(expected: dict, at: str, run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    tail = steps[len(steps) - max(1, len(steps) // 10) :]
    tried = sorted((line["validation_log_loss"], line["step"]) for line in lines if "validation_log_loss" in line)
    expected |= {f"{at}.steps": steps[-1]["step"], f"{at}.loss": mean(line["loss"] for line in tail)}
    expected[f"{at}.best_validation_log_loss"], expected[f"{at}.best_step"] = tried[0]
    expected[f"{at}.tokens_per_second"] = sum(line["tokens"] for line in steps) / sum(line["seconds"] for line in steps)
