"""A ladder: rungs on the same held-out rows, compared row by row; shipped ladders; what is refused."""

import json

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.pipeline.ablation import compare, load_ablation
from tiebreak.tables.table import read_table

TINY = "set: [train.max_steps=2, data.max_tokens=96, train.batch_size=16, train.eval_every=2{more}]"


def written(folder, more="", recipe="demo-deberta-mlp"):
    path = folder / "ladder.yaml"
    first, second = TINY.format(more=""), TINY.format(more=more)
    rungs = {"small": f"recipe: demo-deberta, {first}", "a head, deeper": f"recipe: {recipe}, {second}"}
    path.write_text("rungs:\n" + "".join(f"  {name}: {{{fields}}}\n" for name, fields in rungs.items()))
    return path


@pytest.mark.processes
def test_rungs_are_compared_on_the_same_held_out_rows(tmp_path, sample, capfd):
    out = tmp_path / "out"
    command = ["ladder", str(written(tmp_path)), "--data", str(sample), "--fold", "1/8", "--out", str(out)]
    assert main(command) == 0
    table = capfd.readouterr().out.splitlines()[-5:]
    assert table[0].split() == ["log", "loss", "change", "accuracy", "macro", "F1", "best", "step", "minutes"]
    assert [line[:14].strip() for line in table[1:]] == ["prior", "length", "small", "a head, deeper"]
    labels = {pair.id: pair.label for pair in read_table([sample]).pairs}
    found = json.loads((out / "metrics.json").read_text())["rungs"]
    losses = {}
    for name, folder in {"small": "0-small", "a head, deeper": "1-a-head-deeper"}.items():
        ids, probabilities = read_predictions(out / folder / "held-out" / "predictions.csv")
        assert len(ids) == found[name]["rows"] > 40
        losses[name] = -np.log([row[labels[key]] for key, row in zip(ids, probabilities, strict=True)])
        assert found[name]["log_loss"] == pytest.approx(losses[name].mean(), abs=1e-6)
        trained = json.loads((out / folder / "metrics.json").read_text())
        # predictions.csv has the same probabilities, in other batches and to the digits it is written with
        assert found[name]["log_loss"] == pytest.approx(trained["validation"]["model"]["log_loss"], abs=1e-5)
        assert found[name]["best_step"] == 2 and found[name]["minutes"] > 0
    change = losses["a head, deeper"] - losses["small"]
    assert found["a head, deeper"]["change"] == pytest.approx(change.mean(), abs=1e-6)
    assert f"{change.mean():+.4f} ± {found['a head, deeper']['error']:.4f}" in table[-1]
    assert main(command) == 0
    assert capfd.readouterr().out.count("done already") == 4


def test_the_error_of_a_change_is_that_of_a_mean():
    assert compare(np.ones(3), None) == {}
    found = compare(np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert found == {"change": 2.0, "error": pytest.approx(np.std([0, 1, 2, 5], ddof=1) / 2)}


@pytest.mark.parametrize("name", ["demo", "deberta"])
def test_shipped_ladders_name_four_recipes_that_load(name):
    rungs = load_ablation(name).variants
    recipes = [load_recipe(rung.recipe, rung.set) for rung in rungs.values()]
    assert len(recipes) == 4
    assert [recipe.train.weight_decay for recipe in recipes] == [0, 0.01, 0.01, 0.01]
    assert recipes[2].data.max_tokens > recipes[1].data.max_tokens
    assert [recipe.model.head for recipe in recipes] == ["linear"] * 3 + ["mlp"]
    assert recipes[3].model.head_dropout > 0


def test_rungs_of_other_rows_and_faulty_files_are_reported(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["ladder", str(written(tmp_path, ", data.folds_seed=1")), "--out", out]) == 2
    assert "variant a head, deeper: data.folds_seed differs from that of small (0)" in capsys.readouterr().err
    assert main(["ladder", str(written(tmp_path, recipe="none-such")), "--out", out]) == 2
    assert "no recipe 'none-such'" in capsys.readouterr().err
    assert main(["ladder", "no-ladder", "--out", out]) == 2
    assert "shipped are deberta, demo" in capsys.readouterr().err
    assert main(["ladder", "demo", "--fold", "5/5", "--out", out]) == 2
    assert "--fold 5/5" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean deberta"):
        load_ablation("debertta")
    (tmp_path / "one.yaml").write_text("rungs:\n  small: {recipe: demo-deberta, sett: []}\n")
    with pytest.raises(UserError, match="sett"):
        load_ablation(str(tmp_path / "one.yaml"))


def test_a_file_may_speak_of_variants(tmp_path):
    path = written(tmp_path)
    rungs = load_ablation(str(path))
    path.write_text(path.read_text().replace("rungs:", "variants:"))
    assert load_ablation(str(path)) == rungs and list(rungs.variants) == ["small", "a head, deeper"]
