"""Ratings equal scikit-learn's, intervals hold what they promise, and the command does what Python does."""

import csv
import json

import numpy as np
import pytest
from handmade import write_csv
from scipy import stats
from sklearn.linear_model import LogisticRegression

import tiebreak
from tiebreak.cli import main
from tiebreak.data.predictions import write_predictions
from tiebreak.decisions.bradley_terry import BLOCK, Design, fit_both, fit_votes, solve
from tiebreak.labels import CLASSES

STRENGTH = np.array([0.6, 0.2, -0.2, -0.6])
MODELS = len(STRENGTH)


def draw_design(rng: np.random.Generator, rows: int, models: int = MODELS, features: int = 0) -> Design:
    first = rng.integers(0, models, rows)
    return Design(first, (first + rng.integers(1, models, rows)) % models, models, rng.normal(size=(rows, features)))


def dense(design: Design) -> np.ndarray:
    eye = np.eye(design.models)
    return np.concatenate([eye[design.first] - eye[design.second], design.features], axis=1)


def test_sums_over_rows_are_those_of_the_whole_table_of_rows_by_parameters():
    rng = np.random.default_rng(0)
    design = draw_design(rng, BLOCK + 500, 5, 3)  # more than a block
    table, values = dense(design), rng.normal(size=BLOCK + 500)
    groups = rng.integers(0, BLOCK, len(values))
    sums = np.zeros((BLOCK, design.size))
    np.add.at(sums, groups, values[:, None] * table)
    form = rng.normal(size=(design.size, design.size))
    theta = rng.normal(size=design.size)
    for found, expected in (
        (design.log_odds(theta), table @ theta),
        (design.moments(values), table.T @ values),
        (design.gram(values), table.T @ (values[:, None] * table)),
        (design.grouped_gram(values, groups), sums.T @ sums),
        (design.leverage(form + form.T), np.einsum("ni,ij,nj->n", table, form + form.T, table)),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("outcomes", ["votes", "probabilities"])
def test_ratings_and_effects_are_those_of_scikit_learns_logistic_regression(outcomes):
    rng, rows, models = np.random.default_rng(1), 3_000, 6
    design = draw_design(rng, rows, models, 2)
    chance = 1 / (1 + np.exp(-design.log_odds(rng.normal(size=models + 2))))
    won = rng.choice([0, 0.5, 1], rows) if outcomes == "votes" else np.clip(chance + 0.2 * rng.normal(size=rows), 0, 1)
    fit = fit_votes(design, won, np.arange(rows))
    table = dense(design)[:, 1:]  # the first model's rating is the others' zero
    plain = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=1_000, solver="newton-cholesky")
    plain.fit(np.tile(table, (2, 1)), np.repeat([1, 0], rows), np.concatenate([won, 1 - won]))  # a tie: half a row each
    ratings = np.concatenate([[0.0], plain.coef_[0, : models - 1]])
    np.testing.assert_allclose(fit.theta[:models], ratings - ratings.mean(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(fit.theta[models:], plain.coef_[0, models - 1 :], rtol=0, atol=1e-6)


def test_planted_effects_are_found_within_two_standard_errors():
    """Of 90 effects 95.4 % are expected within; fewer than 88 % would be three standard errors off."""
    rng, planted, inside = np.random.default_rng(2), np.array([0.4, -0.2, 0.0]), []
    for _ in range(30):
        design = draw_design(rng, 1_500, features=3)
        chance = 1 / (1 + np.exp(-design.log_odds(np.concatenate([STRENGTH, planted]))))
        fit = fit_votes(design, (rng.random(1_500) < chance).astype(float), np.arange(1_500))
        inside.append(np.abs(fit.theta[MODELS:] - planted) <= 2 * np.sqrt(np.diag(fit.covariance)[MODELS:]))
    assert np.mean(inside) >= 0.88


def world(rng: np.random.Generator, rows: int, group: int = 1):
    """Battles, votes, a judge that is too sure and likes the first model, prompts that share a vote."""
    met = draw_design(rng, rows // group)  # the two models that meet on a prompt
    design = Design(met.first.repeat(group), met.second.repeat(group), MODELS, np.zeros((rows, 0)))
    odds = STRENGTH[design.first] - STRENGTH[design.second] + rng.normal(size=rows // group).repeat(group)
    votes = (rng.random(rows // group).repeat(group) < 1 / (1 + np.exp(-odds))).astype(float)
    likes = 0.4 * ((design.first == 0).astype(float) - (design.second == 0))
    return design, votes, 1 / (1 + np.exp(-(1.3 * odds + likes))), np.arange(rows) // group


def test_standard_errors_are_those_of_resampled_prompts():
    """The sandwich and 400 refits agree to 10 %: a standard error of 400 resamples is known to 3.5 %."""
    rng = np.random.default_rng(3)
    design, votes, _, prompts = world(rng, 1_200, group=3)
    errors = np.sqrt(np.diag(fit_votes(design, votes, prompts).covariance))
    refits = []
    for _ in range(400):
        weights = np.bincount(rng.integers(0, 400, 400), minlength=400)[prompts].astype(float)
        refits.append(solve(design, weights * votes, weights))
    np.testing.assert_allclose(errors, np.std(refits, axis=0), rtol=0.1)
    alone = np.sqrt(np.diag(fit_votes(design, votes, np.arange(1_200)).covariance))
    assert (alone < 0.7 * errors).all(), "rows of one prompt taken for independent"


@pytest.mark.slow
def test_standard_errors_of_a_corrected_judge_are_those_of_resampled_prompts():
    """Prompts with votes and without are drawn anew; at a power of 1 both parts weigh. As close as above.

    The judge almost always says that the first model wins, so each part's gradient is far from zero, but not their sum.
    """
    rng = np.random.default_rng(6)
    design, votes, judged, prompts = world(rng, 1_560, group=2)
    judged = np.where(design.first == 0, 0.9, np.where(design.second == 0, 0.1, judged))
    labelled = prompts < 600
    errors = np.sqrt(np.diag(fit_both(design, votes, judged, labelled, prompts, power=1.0).covariance))
    refits = []
    for _ in range(400):
        drawn = np.concatenate([rng.choice(600, 600), 600 + rng.choice(180, 180)])
        rows = (2 * drawn[:, None] + np.arange(2)).ravel()
        again = fit_both(design.rows(rows), votes[rows], judged[rows], labelled[rows], np.arange(1_560) // 2, power=1.0)
        refits.append(again.theta)
    np.testing.assert_allclose(errors, np.std(refits, axis=0), rtol=0.1)


@pytest.mark.slow
def test_intervals_hold_the_truth_with_a_hundred_votes_and_are_narrower_than_those_of_votes_alone():
    """Of 800 intervals 95 % hold; 3 standard errors of 200 tables are 2.5 points (ratings of a table are alike)."""
    rng, tables = np.random.default_rng(4), 200
    design, votes, _, prompts = world(rng, 400_000)
    truth = fit_votes(design, votes, prompts).theta
    hits, widths = {"both": [], "votes": [], "judge": []}, {"both": [], "votes": [], "judge": []}
    for _ in range(tables):
        design, votes, judged, prompts = world(rng, 300)
        labelled = np.isin(prompts, rng.choice(300, 100, replace=False))
        for name, fit in (
            ("both", fit_both(design, votes, judged, labelled, prompts)),
            ("votes", fit_votes(design.rows(labelled), votes[labelled], prompts[labelled])),
            ("judge", fit_votes(design, judged, prompts)),
        ):
            half = stats.t.ppf(0.975, fit.freedom) * np.sqrt(np.diag(fit.covariance))
            hits[name].append(np.abs(fit.theta - truth) <= half)
            widths[name].append(half.mean())
    assert abs(np.mean(hits["both"]) - 0.95) < 0.025 and abs(np.mean(hits["votes"]) - 0.95) < 0.025
    assert np.mean(hits["judge"]) < 0.7, "the judge's own intervals know nothing of its errors"
    assert np.mean(widths["both"]) < 0.97 * np.mean(widths["votes"])


@pytest.fixture(scope="module")
def battles(tmp_path_factory):
    """Battles of four models and a judge's predictions, with a swapped copy of both; the first 150 rows have votes."""
    folder, rng = tmp_path_factory.mktemp("board"), np.random.default_rng(5)
    names = np.array(["<b>one</b>", "two", "three", "four"])
    design = draw_design(rng, 600)
    odds = STRENGTH[design.first] - STRENGTH[design.second] + rng.normal(size=600)
    law = np.stack([np.exp(odds / 2), np.exp(-odds / 2), np.full(600, 0.8)], axis=1)
    law /= law.sum(1, keepdims=True)
    labels = (rng.random(600)[:, None] > law.cumsum(1)[:, :2]).sum(1)
    words = [json.dumps(["word " * int(n)]) for n in rng.integers(1, 30, 1_200)]
    for name, order in (("", [0, 1, 2]), ("swapped-", [1, 0, 2])):
        a, b = (design.first, design.second) if not name else (design.second, design.first)
        one_hot = np.eye(3, dtype=int)[labels][:, order]
        texts = [(words[2 * i + order[0]], words[2 * i + order[1]]) for i in range(600)]
        rows = [
            {"id": i, "model_a": names[a[i]], "model_b": names[b[i]], "prompt": f'["question {i % 500}"]'}
            | {"response_a": texts[i][0], "response_b": texts[i][1]}
            | dict(zip(CLASSES, one_hot[i].tolist(), strict=True))
            for i in range(600)
        ]
        write_csv(folder / f"{name}battles.csv", *rows)
        write_csv(folder / f"{name}votes.csv", *rows[:150])
        write_predictions(folder / f"{name}p.csv", map(str, range(600)), law[:, order])
    return folder


@pytest.mark.parametrize("source", ["people", "judge", "both"])
def test_the_command_gives_what_python_does_and_a_swapped_table_the_same_board(battles, tmp_path, source, capsys):
    boards = []
    for name in ("", "swapped-"):
        data, predictions, votes = (str(battles / f"{name}{file}.csv") for file in ("battles", "p", "votes"))
        board = tiebreak.leaderboard(
            None if source == "people" else predictions, data=data, control=["length", "position"],
            labels=votes if source == "both" else None,
        )  # fmt: skip
        boards.append(board)
    words = ["leaderboard", *([str(battles / "p.csv")] if source != "people" else [])]
    words += ["--labels", str(battles / "votes.csv")] if source == "both" else []
    words += ["--data", str(battles / "battles.csv"), "--control", "length,position", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert str(boards[0]) in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "leaderboard.json").read_text()) == boards[0].model_dump()
    assert boards[0].source == {"both": "judge, corrected by people"}.get(source, source)
    assert boards[0].votes == {"people": 600, "judge": 0, "both": 150}[source]
    for one, other in zip(boards[0].standings, boards[1].standings, strict=True):
        assert one.model == other.model and one.rating.low == pytest.approx(other.rating.low, abs=1e-4)
    effects = [{effect.name: effect.points.value for effect in board.effects} for board in boards]
    assert effects[0].keys() == {"log ratio", "sqrt difference", "position"}
    assert effects[0]["log ratio"] == pytest.approx(effects[1]["log ratio"], abs=1e-3)
    assert effects[0]["position"] == pytest.approx(-effects[1]["position"], abs=1e-3)
    with open(tmp_path / "out" / "leaderboard.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == [standing.model for standing in boards[0].standings]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;one&lt;/b&gt;" in page and "<b>one</b>" not in page
    assert (tmp_path / "out" / "plots" / "ratings-dark.png").stat().st_size > 1_000


def test_a_rank_counts_those_that_are_better_beyond_doubt(battles):
    board = tiebreak.leaderboard(battles / "p.csv", data=battles / "battles.csv")
    for standing in board.standings:
        better = [other for other in board.standings if other.rating.low > standing.rating.high]
        assert standing.rank == 1 + len(better)
    assert board.standings[-1].rank > 1
    assert np.mean([standing.rating.value for standing in board.standings]) == pytest.approx(1_000)


def test_what_is_left_out_is_said(battles, tmp_path):
    rows = [dict(model_a="one", model_b="one"), dict(model_a="", model_b="two"), dict.fromkeys(CLASSES, "")]
    rows += [{"model_a": a, "model_b": b, **dict(zip(CLASSES, won, strict=True))} for a, b, won in (
        ("one", "two", (1, 0, 0)), ("one", "two", (0, 1, 0)), ("rare", "one", (0, 0, 1)),
    )]  # fmt: skip
    board = tiebreak.leaderboard(data=write_csv(tmp_path / "few.csv", *rows), least_rows=2)
    assert [standing.model for standing in board.standings] == ["one", "two"] and board.rows == 2
    told = "\n".join(board.notes)
    for fact in ("one model against itself", "names no models", "has no label", "fewer than 2 battles: rare"):
        assert fact in told


def test_the_users_mistakes(battles, tmp_path, capsys):
    data, out = str(battles / "battles.csv"), ["--out", str(tmp_path / "out")]
    won = [{"model_a": "one", "model_b": "two"}, {"model_a": "one", "model_b": "three"}]
    beaten = str(write_csv(tmp_path / "beaten.csv", *won))
    unnamed = [{"model_a": "", "model_b": ""}]
    for words, facts in (
        (["--data", data, "--control", "styel"], ["--control styel", "did you mean style"]),
        (["--data", data, "--control", "turns"], ["--control turns"]),
        (["--data", beaten], ["beaten.csv", ", three never", "--least-rows"]),
        (["--data", str(write_csv(tmp_path / "unnamed.csv", *unnamed))], ["no row with two models", "names no models"]),
        (["--data", data, "--least-rows", "9999"], ["--least-rows 9999"]),
        ([str(battles / "absent.csv"), "--data", data], ["absent.csv"]),
    ):
        assert main(["leaderboard", *words, *out]) == 2, words
        told = capsys.readouterr().err
        assert all(fact in told for fact in facts), told
    assert not (tmp_path / "out").exists()
