"""A judge's probabilities of a suite's comparisons -> the suite's own score, and scores of the comparisons."""

from collections.abc import Sequence

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.decisions.confidence import judge_rows
from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.metrics import row_losses
from tiebreak.labels import TIE
from tiebreak.suites.bench_record import Pairwise
from tiebreak.suites.forms import Game, Item, Suite, games_of, label_of
from tiebreak.suites.formulas import (
    Score,
    score_autoj,
    score_judgebench,
    score_llmbar,
    score_mt_bench,
    score_pandalm,
    score_rewardbench,
    score_rewardbench2,
)

RESAMPLES, SEED = 1_000, 0
ANNOTATED = {"1": 0, "2": 1, "0": TIE}
"""What an annotator of PandaLM says -> the class."""


def score_suite(suite: Suite, orders: np.ndarray, kept: np.ndarray | None = None) -> Score:
    """The suite's own score of its items.

    Args:
        suite: with n comparisons (`games_of`).
        orders: (2, n, 3), probabilities of the first answer, of the second and of a tie, seen in each order.
        kept: a mask of the items that count; None means all.
    """
    items = suite.items
    chosen = np.ones(len(items), dtype=bool) if kept is None else kept
    if suite.form.name == "RewardBench 2":
        return _score_many(items, games_of(suite), orders.mean(0), chosen)
    some = [item for item, keep in zip(items, chosen, strict=True) if keep]
    seen = orders[:, chosen]
    ties = "verdict" if suite.form.ties else "ignore"
    both = np.stack([judge_rows(p, ties)[0] for p in seen])  # type: ignore[arg-type]
    settled, _ = judge_rows(seen.mean(0), ties)  # type: ignore[arg-type]
    labels = np.array([item.label for item in some])
    subsets = [item.subset for item in some]
    if suite.form.name == "RewardBench":
        credit = np.where(settled < 0, 0.5, settled == labels)
        return score_rewardbench(credit, subsets)
    if suite.form.name == "JudgeBench":
        return score_judgebench(both, labels, subsets)
    if suite.form.name == "LLMBar":
        return score_llmbar(both, labels, subsets)
    if suite.form.name == "MT-bench":
        return score_mt_bench(both, labels, subsets, [item.marks["judge"] for item in some])
    if suite.form.name == "Auto-J":
        return score_autoj(both, labels, subsets)
    votes = [[ANNOTATED[item.marks[f"annotator{k}"]] for item in some] for k in (1, 2, 3)]
    return score_pandalm(settled, np.array(votes))


def _score_many(items: Sequence[Item], games: Sequence[Game], probabilities: np.ndarray, kept: np.ndarray) -> Score:
    """Of more than two answers each one's score is its mean over the others of P(preferred) + P(tie) / 2."""
    scores = [np.zeros(len(item.answers)) for item in items]
    for game, (first, second, tie) in zip(games, probabilities.tolist(), strict=True):
        of, others = scores[game.item], len(items[game.item].answers) - 1
        of[game.first] += (first + tie / 2) / others
        of[game.second] += (second + tie / 2) / others
    some = np.flatnonzero(kept).tolist()
    return score_rewardbench2(
        [scores[i] for i in some],
        [items[i].correct for i in some],
        [items[i].subset for i in some],
        [items[i].marks["id"] for i in some],
    )


def score_pairs(suite: Suite, orders: np.ndarray) -> Pairwise | None:
    """Scores of the comparisons (orders: (2, n, 3)), with intervals over prompts; None if none has a label."""
    games = games_of(suite)
    labels = np.array([_class(label_of(suite.items[game.item], game)) for game in games])
    labelled = labels >= 0
    if not labelled.any():
        return None
    groups = np.array([prompt_group(item.prompt) for item in suite.items])[[game.item for game in games]][labelled]
    p, labels = orders.mean(0)[labelled], labels[labelled]
    bootstrap = Bootstrap(groups, RESAMPLES, SEED)
    verdicts, _ = judge_rows(p, "verdict")
    sides, _ = judge_rows(p, "ignore")
    decided = labels != TIE
    ab = p[:, :2] / np.maximum(p[:, :2].sum(1, keepdims=True), 1e-12)
    right = np.where(sides < 0, 0.5, sides == labels)
    loss = row_losses(ab, np.where(decided, labels, 0))
    means = bootstrap.ratios(
        accuracy=(verdicts == labels).astype(np.float64),
        log_loss=row_losses(p, labels),
        decided_accuracy=(np.where(decided, right, 0.0), decided.astype(np.float64)),
        decided_log_loss=(np.where(decided, loss, 0.0), decided.astype(np.float64)),
    )
    accuracy, log_loss = means["accuracy"], means["log_loss"]
    assert accuracy is not None and log_loss is not None
    return Pairwise(
        rows=len(labels), prompts=bootstrap.groups, accuracy=accuracy, log_loss=log_loss,
        ties_said=float((verdicts == TIE).mean()), ties=float((labels == TIE).mean()),
        decided_accuracy=means["decided_accuracy"], decided_log_loss=means["decided_log_loss"],
    )  # fmt: skip


def _class(label: int | None) -> int:
    return -1 if label is None else label
