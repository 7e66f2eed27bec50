"""Whether `--split models` finds a cost of unseen model families where there is one, and none where there is none.

    python benchmarks/unseen_models.py

People like an answer's quality, which the judge sees, and each family's style by an amount of its own (times the
effect), which a judge can learn only of families that it was trained on. The judge is a logistic model of quality and
style. For each seed the families of each fold are held out, a control of equal size is trained, and the difference of
their log losses on the same rows stands over its standard error, by prompt group. Printed: how many seeds find more
than two standard errors.
"""

import argparse

import numpy as np

from tiebreak.evaluation.baselines import fit_logistic
from tiebreak.evaluation.holdout import hold_out
from tiebreak.evaluation.metrics import grouped_error, row_losses, softmax
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.tables.rows import Pair

FAMILIES, FOLDS = 12, 3


def planted(effect: float, seed: int, rows: int = 6_000) -> tuple[float, float]:
    """The cost in nats of unseen families, and its standard error."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, FAMILIES, rows)
    b = (a + rng.integers(1, FAMILIES, rows)) % FAMILIES
    liking, quality = rng.normal(size=FAMILIES), rng.normal(size=rows)
    score = quality + effect * (liking[a] - liking[b])
    logits = np.stack([score / 2, -score / 2, np.full(rows, -0.5)], axis=1)
    labels = (rng.random(rows)[:, None] > softmax(logits).cumsum(1)[:, :2]).sum(1)
    prompts = rng.integers(0, rows // 2, rows)
    names = [f"style{chr(97 + family)}" for family in range(FAMILIES)]
    pairs = [
        Pair(str(i), [f"prompt {prompts[i]}"], ["a"], ["b"], int(labels[i]), names[a[i]], names[b[i]])
        for i in range(rows)
    ]
    features = np.concatenate([quality[:, None], np.eye(FAMILIES)[a] - np.eye(FAMILIES)[b]], axis=1)
    differences, groups = [], []
    for k in range(FOLDS):
        split = hold_out(pairs, "models", (k, FOLDS), seed)
        losses = []
        for train in (split.train, split.control):
            there = features[train]
            weights, biases = fit_logistic(
                np.concatenate([there, -there]), np.concatenate([labels[train], SWAPPED_CLASS[labels[train]]])
            )
            losses.append(row_losses(softmax(features[split.held_out] @ weights.T + biases), labels[split.held_out]))
        differences.append(losses[0] - losses[1])
        groups.append(prompts[split.held_out])
    values = np.concatenate(differences)
    return float(values.mean()), grouped_error(values, np.concatenate(groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=6_000)
    options = parser.parse_args()
    for effect in (0.0, 0.5, 1.0):
        found = [planted(effect, seed, options.rows) for seed in range(options.seeds)]
        over = sum(cost > 2 * se for cost, se in found)
        costs = ", ".join(f"{cost:+.4f} ± {se:.4f}" for cost, se in found[:3])
        print(f"effect {effect}: {over} of {options.seeds} seeds over 2 s.e. ({costs}, ...)", flush=True)


if __name__ == "__main__":
    main()
