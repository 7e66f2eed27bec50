"""Ensembles: aligned by id, weighted only where that is honest; and the formats that are handed in."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from tiebreak.cli import main
from tiebreak.data.predictions import read_predictions, write_predictions, write_table
from tiebreak.errors import UserError
from tiebreak.evaluation.blend import fit_calibration, fit_weights
from tiebreak.evaluation.metrics import log_loss, softmax

pytestmark = pytest.mark.slow

ROWS = 3_000


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Labels, and three judges' files in shuffled orders: a good one, its equal, and one that is mostly noise."""
    folder = tmp_path_factory.mktemp("ensemble")
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(ROWS, 3))
    labels = (softmax(truth).cumsum(1) > rng.random((ROWS, 1))).argmax(1)
    ids = [str(k) for k in range(1000, 1000 + ROWS)]
    judges = {}
    for name, noise in (("good", 0.7), ("equal", 0.7), ("bad", 3.0)):
        judges[name] = softmax(truth + noise * rng.normal(size=truth.shape))
        order = rng.permutation(ROWS)
        write_predictions(folder / f"{name}.csv", [ids[k] for k in order], judges[name][order])
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "winner_model_a", "winner_model_b", "winner_tie"])
        writer.writerows([name, *np.eye(3, dtype=int)[label]] for name, label in zip(ids, labels, strict=True))
    return folder, ids, labels, judges


def ensemble(world, tmp_path, names, *options):
    folder = world[0]
    out = tmp_path / "out.csv"
    code = main(["ensemble", *(str(folder / f"{name}.csv") for name in names), "--out", str(out), *map(str, options)])
    return code, out


def by_id(world, out):
    found_ids, found = read_predictions(out)
    place = {name: k for k, name in enumerate(found_ids)}
    return found[[place[name] for name in world[1]]]


def test_shuffled_files_are_aligned_by_id_and_averaged(world, tmp_path):
    judges = world[3]
    code, out = ensemble(world, tmp_path, ["good", "bad"])
    assert code == 0
    assert read_predictions(out)[0] == read_predictions(world[0] / "good.csv")[0], "not in the first file's order"
    np.testing.assert_allclose(by_id(world, out), (judges["good"] + judges["bad"]) / 2, atol=3e-9)
    assert ensemble(world, tmp_path, ["good", "bad"], "--weights", 3, 1)[0] == 0
    np.testing.assert_allclose(by_id(world, out), 0.75 * judges["good"] + 0.25 * judges["bad"], atol=3e-9)
    assert ensemble(world, tmp_path, ["good", "bad"], "--space", "logits")[0] == 0
    expected = softmax((np.log(judges["good"]) + np.log(judges["bad"])) / 2)
    np.testing.assert_allclose(by_id(world, out), expected, atol=1e-5)  # of nine decimals, some 0.000000017


def test_unequal_ids_are_refused_with_the_difference(world, tmp_path, capsys):
    folder = world[0]
    lines = (folder / "bad.csv").read_text().splitlines()
    lost = lines[7].split(",")[0]
    (tmp_path / "short.csv").write_text("\n".join([*lines[:7], *lines[8:], "stranger,0.2,0.3,0.5"]) + "\n")
    files = [str(folder / "good.csv"), str(tmp_path / "short.csv")]
    assert main(["ensemble", *files, "--out", str(tmp_path / "o.csv")]) == 2
    told = capsys.readouterr().err
    assert f"1 id not in {tmp_path / 'short.csv'}: {lost}" in told
    assert f"1 id not in {folder / 'good.csv'}: stranger" in told
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("space", ["probabilities", "logits"])
def test_fitted_weights_are_used_where_they_beat_equal_ones(world, tmp_path, capsys, space):
    _, _, labels, judges = world
    assert ensemble(world, tmp_path, ["good", "bad"], "--fit", world[0] / "labels.csv", "--space", space)[0] == 0
    record = json.loads((tmp_path / "out.csv.json").read_text())
    assert record["used"] == "fitted weights" and record["weights"]["good"] > 0.8
    scores = record["cross_fitted_log_loss"]
    assert scores["fitted weights"] < scores["equal weights"]
    assert f"{scores['fitted weights']:.5f}" in capsys.readouterr().out
    stacked = np.stack([judges["good"], judges["bad"]])
    weights = fit_weights(stacked, labels, space)
    np.testing.assert_allclose(list(record["weights"].values()), weights, atol=1e-4)  # files of nine decimals
    # The fit is the least: no other weights on a grid are better.
    for share in np.linspace(0, 1, 21):
        mixed = share * stacked[0] + (1 - share) * stacked[1]
        if space == "logits":
            mixed = softmax(share * np.log(stacked[0]) + (1 - share) * np.log(stacked[1]))
        best = (
            np.tensordot(weights, stacked, 1)
            if space == "probabilities"
            else softmax(np.tensordot(weights, np.log(stacked), 1))
        )
        assert log_loss(best, labels) <= log_loss(mixed, labels) + 1e-9


def test_fitted_weights_of_equals_are_not_used(world, tmp_path, capsys):
    """Few rows and two judges that are equally good: weights fitted on them would be noise."""
    few = tmp_path / "few.csv"
    few.write_text("\n".join((world[0] / "labels.csv").read_text().splitlines()[:81]) + "\n")
    assert ensemble(world, tmp_path, ["good", "equal"], "--fit", few)[0] == 0
    assert "not better by more than its standard error, so not used" in capsys.readouterr().out
    record = json.loads((tmp_path / "out.csv.json").read_text())
    assert record["used"] == "equal weights" and record["weights"] == {"good": 0.5, "equal": 0.5}


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_calibration_is_scored_on_rows_it_was_not_fitted_on(world, tmp_path, kind):
    """Overconfident judges: their logits are three times too large."""
    folder, ids, labels, judges = world
    for name in ("good", "equal"):
        hot = softmax(3 * np.log(judges[name]))
        write_predictions(tmp_path / f"{name}.csv", ids, hot)
    files = [str(tmp_path / f"{name}.csv") for name in ("good", "equal")]
    options = ["--fit", str(folder / "labels.csv"), "--calibrate", kind, "--out", str(tmp_path / "out.csv")]
    assert main(["ensemble", *files, *options]) == 0
    record = json.loads((tmp_path / "out.csv.json").read_text())
    scores = record["cross_fitted_log_loss"]
    assert record["used"] == f"equal weights, {kind}"
    assert scores[f"equal weights, {kind}"] < scores["equal weights"] - 0.1
    assert len(set(record["calibration"]["scale"])) == (1 if kind == "temperature" else 3)
    in_sample = log_loss(by_id(world, tmp_path / "out.csv"), labels)
    # Three thousand rows and at most six numbers: fitted and held-out scores are near each other, in this order.
    assert in_sample < scores[f"equal weights, {kind}"] < in_sample + 0.01


def test_temperature_finds_the_factor_that_logits_were_multiplied_by():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(20_000, 3))
    labels = (softmax(truth).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    scale, shift = fit_calibration(softmax(2.5 * truth), labels, "temperature")
    np.testing.assert_allclose(scale, 1 / 2.5, rtol=0.05)  # 20,000 rows: a standard error of about 0.01
    np.testing.assert_array_equal(shift, 0)
    moved = softmax(truth + np.array([0.5, 0, -0.5]))
    scale, shift = fit_calibration(moved, labels, "vector")
    np.testing.assert_allclose(shift - shift.mean(), [-0.5, 0, 0.5], atol=0.08)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--weights", "1"], "give 2 numbers"),
        (["--weights", "-1", "2"], "give 2 numbers"),
        (["--weights", "0", "0"], "give 2 numbers"),
        (["--calibrate", "vector"], "needs labelled rows"),
        (["--weights", "1", "2", "--fit", "labels.csv"], "--weights and --fit exclude each other"),
        (["--format", "parquet"], "ends in .parquet"),
    ],
)
def test_the_users_mistakes(world, tmp_path, capsys, options, told):
    assert ensemble(world, tmp_path, ["good", "bad"], *options)[0] == 2
    assert told in capsys.readouterr().err


def test_a_prediction_is_not_overwritten_by_its_own_ensemble(world, tmp_path, capsys):
    folder = world[0]
    files = [str(folder / "good.csv"), str(folder / "bad.csv")]
    assert main(["ensemble", *files, "--out", files[1]]) == 2
    told = capsys.readouterr().err
    assert files[1] in told and "which this command reads" in told
    assert main(["ensemble", files[0], "--out", str(tmp_path / "o.csv")]) == 2
    assert "at least two predictions (got 1)" in capsys.readouterr().err


def test_formats(world, tmp_path):
    rows = np.array([[0.5, 0.2, 0.3], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
    ids = ["1", 'a "quoted", id', "é"]
    for form, suffix in (("kaggle", "csv"), ("parquet", "parquet"), ("wsdm", "csv")):
        write_table(tmp_path / f"{form}.{suffix}", [(ids[:2], rows[:2]), (ids[2:], rows[2:])], form)
    for file in ("kaggle.csv", "parquet.parquet"):
        found_ids, found = read_predictions(tmp_path / file)
        assert found_ids == ids
        np.testing.assert_allclose(found, rows, atol=1e-9)
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "parquet.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match="not a readable parquet file"):
        read_predictions(tmp_path / "torn.parquet")
    table = pq.read_table(tmp_path / "parquet.parquet")
    assert table.column_names == ["id", "winner_model_a", "winner_model_b", "winner_tie"]
    assert table["id"].to_pylist() == ids
    np.testing.assert_allclose(np.stack([table[k + 1].to_numpy() for k in range(3)], 1), rows, atol=1e-9)
    with open(tmp_path / "wsdm.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["id", "winner"], *zip_(ids, ["model_a", "model_b", "model_a"])]


def zip_(*columns):
    return [list(row) for row in zip(*columns, strict=True)]
