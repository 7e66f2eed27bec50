"""k-fold cross-validation in one command: every row predicted once, by a judge that never saw its prompt."""

import csv
import json
import os

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.data.encode import prompt_group
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.models.folder import read_prompts
from tiebreak.pipeline.cross_validation import join
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.table import read_table

CHANGES = ["train.max_steps=2", "train.batch_size=16", "data.max_tokens=96", "train.eval_every=2"]
OPTIONS = [word for change in CHANGES for word in ("--set", change)]


@pytest.mark.processes
def test_every_row_gets_a_prediction_of_a_judge_that_never_saw_its_prompt(tmp_path, sample, capfd):
    """Some prompts stand twice, with other spacing and case: they must fall into one fold."""
    with open(sample, encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))[:121]
    place = header.index("prompt")
    copies = [[f"9{row[0]}", *row[1:]] for row in rows[:39]]
    for copy in copies:
        copy[place] = json.dumps([f"  {turn.upper()}" for turn in json.loads(copy[place])])
    table, out = tmp_path / "twice.csv", tmp_path / "folds"
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows, *copies])
    command = ["folds", "--recipe", "demo-llama2", "--data", str(table), "--folds", "2", "--out", str(out), *OPTIONS]
    assert main(command) == 0
    pairs = read_table([table]).pairs
    groups = {pair.id: prompt_group(pair.prompt) for pair in pairs}
    assert len(set(groups.values())) < len(pairs) - 30, "the copies' prompts are equal once normalised"
    ids, probabilities = read_predictions(out / "predictions.csv")
    assert ids == [pair.id for pair in pairs] and len(ids) == 159
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-9)
    told = []
    for fold in range(2):
        seen = set(read_prompts(out / f"fold-{fold}" / "model").tolist())
        mine, _ = read_predictions(out / f"fold-{fold}" / "oof" / "predictions.csv")
        assert seen and not seen & {groups[name] for name in mine}
        trained_on = {pair.id for pair in pairs if groups[pair.id] in seen}
        assert trained_on == set(ids) - set(mine), "what is not held out was trained on"
        told += mine
    assert sorted(told) == sorted(ids)
    found = json.loads((out / "metrics.json").read_text())["out_of_fold"]
    assert found["all"]["rows"] == 159 and set(found) == {"fold 0", "fold 1", "all"}
    assert normalise_prompt(["  A b"]) == normalise_prompt(["a  B"])

    before = os.stat(out / "fold-1" / "metrics.json").st_mtime_ns
    (out / "fold-1" / "oof" / "predictions.csv").unlink()
    capfd.readouterr()
    assert main(command) == 0
    text = capfd.readouterr().out
    assert text.count("done already") == 3 and text.count("$ tiebreak predict") == 1
    assert os.stat(out / "fold-1" / "metrics.json").st_mtime_ns == before
    assert read_predictions(out / "predictions.csv")[0] == ids


def test_predictions_that_do_not_fit_the_table_are_refused():
    rows = np.full((2, 3), 1 / 3)
    with pytest.raises(UserError, match=r"1 id without one \['c'\], 1 with two \['b'\], 0 of another"):
        join(["a", "b", "c"], [(["a", "b"], rows), (["b"], rows[:1])])
    with pytest.raises(UserError, match=r"1 of another table \['x'\]"):
        join(["a"], [(["a", "x"], rows)])


def test_a_stage_that_fails_ends_the_command_with_its_code(tmp_path, capfd):
    command = ["folds", "--data", str(tmp_path / "none.csv"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "none.csv: no such file" in capfd.readouterr().err
    assert main(["folds", "--folds", "1", "--out", str(tmp_path / "out")]) == 2
