"""The worked example of docs/unseen.md runs: two judges for each fold, the same held-out rows, slices on the page."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.models.folder import read_prompts
from tiebreak.pipeline.unseen import split_for_pipeline
from tiebreak.tables.table import read_table

PAGE = (Path(__file__).parents[2] / "docs" / "unseen.md").read_text(encoding="utf-8")
(BLOCK,) = re.findall(r"^```\n(.*?)^```$", PAGE.partition("<!-- run by")[2], re.S | re.M)


def run_here(stage, launch):
    """A stage in this process, which has imported all that it needs; test_cross_validation.py runs them as they are."""
    assert main(stage.arguments) == 0 and stage.done.is_file()


@pytest.mark.slow
def test_the_example_of_the_page(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tiebreak.report.curves.leave_curves", lambda folder: None)  # nobody looks at them
    monkeypatch.setattr("tiebreak.pipeline.unseen.run_stage", run_here)
    for line in BLOCK.splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    assert "±" in capfd.readouterr().out
    scores = json.loads((tmp_path / "unseen" / "metrics.json").read_text())["folds"]
    assert set(scores) == {"fold 0", "fold 1", "all"}
    assert scores["all"]["rows"] == scores["fold 0"]["rows"] + scores["fold 1"]["rows"]
    assert scores["all"]["difference"] == pytest.approx(scores["all"]["log_loss"] - scores["all"]["control"])
    assert scores["all"]["se"] > 0 and scores["all"]["seen"] > 0
    split = tmp_path / "unseen" / "split-0"
    rows = json.loads((split / "split.json").read_text())["rows"]
    prompts = read_prompts(tmp_path / "unseen" / "fold-0" / "model")
    assert prompts is not None and 0 < len(prompts) <= rows["train"] == rows["control"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert "both unseen in training" in page and "both seen in training" in page


def test_train_splits_by_time_and_refuses_a_table_beside_it(sample, tmp_path):
    words = ["train", "--recipe", "demo-deberta", "--data", str(sample), "--split", "time"]
    settings = ["--set", "train.max_steps=1", "--set", "data.max_tokens=64", "--set", "train.batch_size=4"]
    assert main([*words, "--out", str(tmp_path / "run"), *settings]) == 0
    rows = json.loads((tmp_path / "run" / "rows.json").read_text())
    assert rows["rows_held_out"] == 40 and rows["rows_trained"] <= 360
    held_out = [pair.id for pair in read_table([Path(rows["data"][0]).parent / "held_out.csv"]).pairs]
    assert held_out == [pair.id for pair in read_table([sample]).pairs[360:]]
    assert main([*words, "--valid", str(sample), "--out", str(tmp_path / "none"), *settings]) == 2


def test_a_pipeline_takes_its_test_table_from_the_data(sample, tmp_path):
    data, test = split_for_pipeline([sample], None, tmp_path, "models", (0, 3))
    assert data == [tmp_path / "split" / "train.csv"] and test == tmp_path / "split" / "test.csv"
    with pytest.raises(UserError, match="no --test"):
        split_for_pipeline([sample], sample, tmp_path, "models")
