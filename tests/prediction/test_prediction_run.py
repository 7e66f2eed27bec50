"""Invariant 5, the predictions file, labels, and rows that cannot be read."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.data import prepare as data_prepare
from tiebreak.data.prediction_manifest import PREDICTION_FILE, read_prediction_manifest
from tiebreak.data.predictions import ORDERS, read_predictions, write_predictions
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import softmax
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.prediction.merge import merge
from tiebreak.prediction.parts import read_part
from tiebreak.sample.generator import write_sample

pytestmark = pytest.mark.slow

BLOCKS = ["--set", "predict.tokens_per_block=1500"]


def test_block_sizes_change_the_rows_by_rounding_only(model, table, tmp_path):
    common = ["predict", "--model", str(model), "--data", str(table)]
    assert main([*common, "--out", str(tmp_path / "small"), "--set", "predict.tokens_per_block=200"]) == 0
    assert main([*common, "--out", str(tmp_path / "large")]) == 0
    small, large = (read_predictions(tmp_path / name / "predictions.csv") for name in ("small", "large"))
    assert small[0] == large[0]
    np.testing.assert_allclose(small[1], large[1], atol=1e-5, rtol=0)


def test_rows_sum_to_exactly_one_as_written(model, table, tmp_path):
    assert main(["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path)]) == 0
    with open(tmp_path / "predictions.csv", encoding="utf-8") as file:
        assert file.readline() == "id,winner_model_a,winner_model_b,winner_tie\n"
        for line in file:
            assert sum(int(value.replace(".", "")) for value in line.strip().split(",")[1:]) == 10**9


def test_hard_probabilities_still_sum_to_one(tmp_path):
    rows = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.4999999996, 0.4999999996, 0.0000000008], [1 / 3] * 3])
    write_predictions(tmp_path / "p.csv", list("abcd"), rows)
    ids, read = read_predictions(tmp_path / "p.csv")
    assert ids == list("abcd")
    assert (read >= 0).all()
    np.testing.assert_allclose(read, rows, atol=2e-9)
    np.testing.assert_allclose(read.sum(1), 1, atol=1e-12)


def test_swap_averages_both_orders(model, table, tmp_path):
    assert (
        main(["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path), "--swap", *BLOCKS]) == 0
    )
    part = read_part(min(tmp_path.glob("parts-*/part-*.npz")), read_prediction_manifest(tmp_path).provenance)
    expected = (softmax(part.logits) + softmax(part.swapped_logits)[:, SWAPPED_CLASS]) / 2
    np.testing.assert_allclose(read_predictions(tmp_path / "predictions.csv")[1][part.rows], expected, atol=2e-9)
    assert np.abs(softmax(part.logits) - expected).max() > 1e-6
    orders = [read_predictions(tmp_path / name)[1][part.rows] for name in ORDERS]
    np.testing.assert_allclose(orders[0], softmax(part.logits), atol=2e-9)
    np.testing.assert_allclose(orders[1], softmax(part.swapped_logits)[:, SWAPPED_CLASS], atol=2e-9)
    (tmp_path / "predictions.csv").unlink()
    assert main(["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path), *BLOCKS]) == 0
    assert not any((tmp_path / name).exists() for name in ORDERS), "the orders of an earlier prediction stayed"


def test_labels_are_scored_from_the_data_or_from_another_table(model, table, tmp_path, capsys):
    common = ["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path)]
    assert main([*common, "--labels", "auto"]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["model"]["rows"] == 150
    assert found["bayes"]["gap_closed"] == 1
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = tmp_path / "labels.csv"
    names = ["id", "winner_model_a", "winner_model_b", "winner_tie"]
    with open(labels, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(reversed(rows))
    assert main([*common, "--labels", str(labels)]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    probabilities = read_predictions(tmp_path / "predictions.csv")[1]
    truth = np.array([[int(row[name]) for name in names[1:]] for row in rows])
    assert found["model"]["log_loss"] == pytest.approx(-(np.log(probabilities) * truth).sum(1).mean(), abs=1e-9)
    labels.write_text("id,winner_model_a,winner_model_b,winner_tie\nnobody,1,0,0\n")
    assert main([*common, "--labels", str(labels)]) == 2
    assert "none of its ids" in capsys.readouterr().err


def test_a_table_without_ids_is_predicted_and_scored_by_its_rows_numbers(model, table, tmp_path):
    """With the probabilities of the same table with ids; in every layout: tests/tables/test_ids.py."""
    with open(table, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    place = header.index("id")
    bare = tmp_path / "bare.csv"
    with open(bare, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row[:place] + row[place + 1 :] for row in (header, *rows)])
    common = ["predict", "--model", str(model), *BLOCKS]
    assert main([*common, "--data", str(table), "--labels", "auto", "--out", str(tmp_path / "with")]) == 0
    assert main([*common, "--data", str(bare), "--labels", str(bare), "--out", str(tmp_path / "without")]) == 0
    ids, probabilities = read_predictions(tmp_path / "without" / "predictions.csv")
    assert ids == [str(number) for number in range(1, 151)]
    np.testing.assert_array_equal(probabilities, read_predictions(tmp_path / "with" / "predictions.csv")[1])
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text())["model"] for name in ("with", "without"))
    assert one == other and one["rows"] == 150


def test_rows_of_another_table_without_ids_are_refused(model, tmp_path, capsys):
    """Row numbers fit every table, so the rows themselves are compared."""
    for name, seed in (("one", 7), ("other", 8)):
        write_sample(tmp_path / "sample.csv", 60, seed=seed, profile="short")
        with open(tmp_path / "sample.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with open(tmp_path / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [column for column in rows[0] if column != "id"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    one, other, out = (str(tmp_path / name) for name in ("one.csv", "other.csv", "p"))
    predict = ["predict", "--model", str(model), "--data", one, *BLOCKS, "--out", out, "--labels"]
    assert main([*predict, other]) == 2
    assert (
        "other.csv: has no column id" in capsys.readouterr().err and not (tmp_path / "p" / "predictions.csv").exists()
    )
    assert main([*predict, one]) == 0
    report = ["report", out, "--out", str(tmp_path / "r"), "--resamples", "100", "--labels"]
    assert main([*report, other]) == 2
    assert "a prediction of other rows than the labelled table's" in capsys.readouterr().err
    assert main([*report, one]) == 0
    assert main(["decide", out, "--calibrate", other, "--agree", "0.5", "--out", str(tmp_path / "k")]) == 2
    assert "a prediction of other rows" in capsys.readouterr().err
    for table, name in ((other, "q"), (one, "same")):
        more = ["--model", str(model), "--data", table, "--out", str(tmp_path / name)]
        assert main(["predict", *more, "--swap"]) == 0
    blend = ["ensemble", "--out", str(tmp_path / "blend.csv"), out]
    capsys.readouterr()
    assert main([*blend, str(tmp_path / "q")]) == 2
    assert "60 ids (such as 1) stand for other prompts or answers" in capsys.readouterr().err
    assert main([*blend, str(tmp_path / "same"), "--fit", other]) == 2
    assert "a prediction of other rows than the labelled table's" in capsys.readouterr().err
    assert not (tmp_path / "blend.csv").exists()
    assert main([*blend, str(tmp_path / "same"), "--fit", one]) == 0


def test_a_row_that_cannot_be_read_gets_the_prior_and_is_named(model, tmp_path, capsys):
    table = tmp_path / "test.csv"
    table.write_text(
        'id,prompt,response_a,response_b\n7,"[""p""]","[""a""]","[""b""]"\n8,"[""p""]",[broken],"[""b""]"\n'
    )
    assert main(["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "id 8: test.csv, row 2: response_a: not a JSON array" in text
    ids, probabilities = read_predictions(tmp_path / "out" / "predictions.csv")
    prior = json.loads((model / "model" / "tiebreak.json").read_text())["baselines"]["prior"]
    assert ids == ["7", "8"]
    np.testing.assert_allclose(probabilities[1], prior, atol=2e-9)
    with open(tmp_path / "out" / "failed.csv", newline="") as file:
        (failed,) = csv.DictReader(file)
    assert failed["id"] == "8"
    assert "test.csv, row 2: response_a: not a JSON array" in failed["reason"]


def test_a_finished_prediction_is_never_replaced_by_another(model, table, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    common = ["predict", "--model", str(model), "--out", str(out)]
    assert main([*common, "--data", str(table)]) == 0
    before = {path: path.read_bytes() for path in out.glob("*.*")}
    other, attacked, named = tmp_path / "other.csv", tmp_path / "attacked.csv", tmp_path / "named" / table.name
    write_sample(other, 150, seed=9, profile="short")
    assert main(["attack", "--data", str(table), "--out", str(attacked)]) == 0  # the same ids
    named.parent.mkdir()
    shutil.copy(other, named)
    copied = shutil.copytree(model, tmp_path / "copied")
    (copied / "model" / "tiebreak.json").write_text((model / "model" / "tiebreak.json").read_text() + " ")
    same = ["--data", str(table)]
    monkeypatch.setattr(data_prepare, "read_table", lambda *_: pytest.fail("a table was read"))
    capsys.readouterr()
    for words, fact in (
        (["--data", str(other)], "another table, other.csv"),
        (["--data", str(attacked)], "another table, attacked.csv"),
        (["--data", str(named)], "a table with other contents"),
        ([*same, "--fold", "0/5"], "fold 0/5"),
        ([*same, "--set", "data.max_tokens=64"], "data.max_tokens=64 (it was 128)"),
        ([*same, "--set", "predict.tokens_per_block=999"], "other settings"),
        ([*same, "--swap"], "both answer orders"),
        ([*same, "--special", "0.1,0.2,0.7"], "--special 0.1,0.2,0.7"),
        ([*same, "--model", str(copied)], f"another model, {copied}"),
        ([*same, "--model", str(model), str(copied)], "the average of run, copied"),
    ):
        assert main([*common, *words]) == 2
        told = capsys.readouterr().err
        assert fact in told and f"{out / 'predictions.csv'} is finished: 150 rows of {table.name}" in told, told
        assert "another --out" in told
    assert {path: path.read_bytes() for path in out.glob("*.*")} == before and len(list(out.glob("parts-*"))) == 1


def test_the_same_prediction_again_says_that_it_is_done(model, table, tmp_path, capsys):
    common = ["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path / "out")]
    assert main(common) == 0
    assert "done already" not in capsys.readouterr().out
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    assert main(common) == 0
    assert "predictions.csv is done already: 150 rows of" in capsys.readouterr().out
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before


def test_a_table_of_unknown_rows_is_not_replaced_and_one_moved_away_makes_room(model, table, tmp_path, capsys):
    out = tmp_path / "out"
    common = ["predict", "--model", str(model), "--data", str(table), "--out", str(out)]
    assert main(common) == 0
    first = (out / "predictions.csv").rename(tmp_path / "moved.csv").read_bytes()
    assert main([*common, "--set", "data.max_tokens=64"]) == 0
    assert (out / "predictions.csv").read_bytes() != first
    assert len(list(out.glob("parts-*"))) == 2
    (out / PREDICTION_FILE).unlink()
    assert main(common) == 2
    assert "not known" in capsys.readouterr().err


def test_on_bad_row_without_a_fold_is_said_to_change_nothing(model, table, tmp_path, capsys):
    common = ["predict", "--model", str(model), "--data", str(table)]
    assert main([*common, "--out", str(tmp_path / "out"), "--on-bad-row", "skip"]) == 0
    assert "--on-bad-row counts with --fold only" in capsys.readouterr().out
    assert main([*common, "--out", str(tmp_path / "fold"), "--on-bad-row", "skip", "--fold", "0/5"]) == 0
    assert "--on-bad-row" not in capsys.readouterr().out


def test_merge_tells_what_is_missing(model, table, tmp_path, capsys):
    with pytest.raises(UserError, match="no prediction was begun"):
        merge(tmp_path)
    assert main(["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path), *BLOCKS]) == 0
    before = (tmp_path / "predictions.csv").read_bytes()
    assert main(["merge", str(tmp_path)]) == 0
    assert (tmp_path / "predictions.csv").read_bytes() == before
    (ids,) = tmp_path.glob("parts-*/ids.jsonl")
    whole = ids.read_bytes()
    ids.write_bytes(bytes([*whole[:1], whole[1] ^ 1, *whole[2:]]))
    assert main(["merge", str(tmp_path)]) == 2
    assert "absent or damaged" in capsys.readouterr().err
    assert (tmp_path / "predictions.csv").read_bytes() == before
    assert main(["predict", "--model", str(model), "--data", str(table), "--out", str(tmp_path), *BLOCKS]) == 0
    assert ids.read_bytes() == whole and (tmp_path / "predictions.csv").read_bytes() == before
    capsys.readouterr()
    min(tmp_path.glob("parts-*/part-*.npz")).unlink()
    assert main(["merge", str(tmp_path)]) == 2
    assert "1 of" in capsys.readouterr().err


def test_the_users_mistakes(model, table, tmp_path, capsys):
    assert main(["predict", "--model", str(tmp_path), "--data", str(table), "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path} is not a tiebreak model folder" in err and "tiebreak.json" in err
    twice = tmp_path / "twice.csv"
    twice.write_text(
        'id,prompt,response_a,response_b\n7,"[""p""]","[""a""]","[""b""]"\n7,"[""p""]","[""a""]","[""b""]"\n'
    )
    assert main(["predict", "--model", str(model), "--data", str(twice), "--out", str(tmp_path / "out")]) == 2
    assert "unique id" in capsys.readouterr().err


def test_a_later_edit_of_a_template_does_not_change_what_a_model_predicts(model, table, tmp_path, monkeypatch):
    command = ["predict", "--model", str(model), "--data", str(table), *BLOCKS]
    assert main([*command, "--out", str(tmp_path / "before")]) == 0
    for name, template in TEMPLATES.items():
        monkeypatch.setitem(TEMPLATES, name, dataclasses.replace(template, before_first="Another text:"))
    assert main([*command, "--out", str(tmp_path / "after")]) == 0
    before, after = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("before", "after"))
    assert before == after
