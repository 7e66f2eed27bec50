"""Several models in one call: each as it would be alone, and their average."""

import json
import shutil

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.data.predictions import ORDERS, read_predictions
from tiebreak.errors import UserError
from tiebreak.models import switching
from tiebreak.prediction.merge import merge
from tiebreak.prediction.request import name_models

pytestmark = pytest.mark.slow

SHORT = ["--set", "train.max_steps=2", "--set", "train.batch_size=16", "--set", "data.max_tokens=128"]


@pytest.fixture(scope="module")
def others(sample, tmp_path_factory):
    """Another fold's adapter over the same base, and a model that has nothing to do with either."""
    folder = tmp_path_factory.mktemp("models")
    for name, recipe, fold in (("fold-1", "demo-llama2", "1/2"), ("student", "demo-deberta", "0/2")):
        train = ["train", "--recipe", recipe, "--data", str(sample), "--fold", fold, "--out", str(folder / name)]
        assert main([*train, *SHORT]) == 0
    return folder / "fold-1", folder / "student"


def test_several_models_are_each_as_alone_and_averaged(model, others, table, tmp_path, monkeypatch):
    """Byte for byte; adapters over one base load it once."""
    loaded = []

    def load(folder, *rest):
        loaded.append(folder)
        return original(folder, *rest)

    original = switching.load_model
    monkeypatch.setattr(switching, "load_model", load)
    models, together = [model, *others], tmp_path / "together"
    common = ["--data", str(table), "--swap", "--set", "predict.tokens_per_block=3000"]
    assert main(["predict", "--model", *map(str, models), "--out", str(together), *common]) == 0
    assert [folder.parent for folder in loaded] == [model, others[1]]
    mean, orders = 0.0, [0.0, 0.0]
    for folder, name in zip(models, ("run", "fold-1", "student"), strict=True):
        assert main(["predict", "--model", str(folder), "--out", str(tmp_path / name), *common]) == 0
        for file in ("predictions.csv", *ORDERS):
            assert (together / name / file).read_bytes() == (tmp_path / name / file).read_bytes()
        ids, probabilities = read_predictions(tmp_path / name / "predictions.csv")
        mean = mean + probabilities / 3
        orders = [
            total + read_predictions(tmp_path / name / file)[1] / 3 for total, file in zip(orders, ORDERS, strict=True)
        ]
    found_ids, found = read_predictions(together / "predictions.csv")
    assert found_ids == ids
    np.testing.assert_allclose(found, mean, atol=2e-9)  # nine decimals are written
    for file, total in zip(ORDERS, orders, strict=True):
        np.testing.assert_allclose(read_predictions(together / file)[1], total, atol=2e-9)
    before = (together / "predictions.csv").read_bytes()
    assert merge(together).rows == len(ids)
    assert (together / "predictions.csv").read_bytes() == before


def test_adaptive_is_the_first_view_but_for_close_rows(model, table, tmp_path, capsys):
    def predicted(name, *options):
        common = ["predict", "--model", str(model), "--data", str(table)]
        assert main([*common, "--out", str(tmp_path / name), *options]) == 0
        return read_predictions(tmp_path / name / "predictions.csv")[1]

    once, both = predicted("once"), predicted("both", "--swap")
    top = np.sort(once, axis=1)
    margins = top[:, 2] - top[:, 1]
    margin = round(float(np.median(margins)), 6)
    found = predicted("adaptive", "--swap", f"adaptive:{margin}")
    close = margins < margin
    # Rows of a block are packed with others: a forward pass differs by fp32 rounding.
    np.testing.assert_allclose(found[close], both[close], atol=1e-5)
    np.testing.assert_allclose(found[~close], once[~close], atol=1e-5)
    assert f"{close.sum()} of 150 rows seen in both orders, 1." in capsys.readouterr().out
    assert not any((tmp_path / "adaptive" / name).exists() for name in ORDERS)


@pytest.mark.parametrize("margin", ["adaptive:0", "adaptive:2", "adaptive:x", "sometimes"])
def test_a_swap_that_means_nothing_is_the_users_mistake(margin, model, tmp_path, capsys):
    assert main(["predict", "--model", str(model), "--out", str(tmp_path), "--swap", margin]) == 2
    assert "adaptive:MARGIN" in capsys.readouterr().err


def test_the_same_model_twice_is_refused(model, tmp_path, capsys):
    copied = shutil.copytree(model, tmp_path / "copied")
    assert main(["predict", "--model", str(model), str(copied), "--out", str(tmp_path / "out")]) == 2
    assert "are the same model" in capsys.readouterr().err


def test_names_take_as_much_of_the_path_as_tells_them_apart(tmp_path):
    folders = [tmp_path / "gemma" / "fold-0" / "model", tmp_path / "llama" / "fold-0", tmp_path / "llama" / "fold-1"]
    assert name_models(folders) == ["gemma-fold-0", "llama-fold-0", "llama-fold-1"]
    assert name_models(folders[1:]) == ["fold-0", "fold-1"]
    assert name_models(folders[:1]) == [""]
    with pytest.raises(UserError, match="not different"):
        name_models([folders[0], folders[0].parent])


def test_special_rows_get_their_outputs_and_no_others_do(model, table, tmp_path, capsys):
    rows = [(1, "a", "b"), (2, "", ""), (3, "same", "same"), (4, "", "b"), (5, None, None)]
    path = tmp_path / "odd.csv"
    with open(path, "w") as file:
        file.write("id,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n")
        for name, a, b in rows:
            cells = ['"' + json.dumps([text]).replace('"', '""') + '"' for text in ("p", a, b)]
            file.write(f"{name},{','.join(cells)},{'1,0,0' if name != 3 else '0,0,1'}\n")
    common = ["predict", "--model", str(model), "--data", str(path)]
    assert main([*common, "--out", str(tmp_path / "off")]) == 0
    assert main([*common, "--out", str(tmp_path / "on"), "--special", "0.1,0.2,0.7"]) == 0
    assert "2 rows with empty answers: A, B, tie = 0.100, 0.200, 0.700" in capsys.readouterr().out
    off, on = (read_predictions(tmp_path / name / "predictions.csv")[1] for name in ("off", "on"))
    np.testing.assert_array_equal(on[[0, 3]], off[[0, 3]])
    np.testing.assert_allclose(on[[1, 2, 4]], [[0.1, 0.2, 0.7]] * 3, atol=2e-9)
    assert main([*common, "--out", str(tmp_path / "fitted"), "--special", str(path)]) == 0
    fitted = read_predictions(tmp_path / "fitted" / "predictions.csv")[1]
    # Two empty rows that A won and five rows of all rows' shares (.8, 0, .2); A and B alike.
    np.testing.assert_allclose(fitted[1], [3 / 7, 3 / 7, 1 / 7], atol=2e-9)
    # One identical row, a tie.
    np.testing.assert_allclose(fitted[2], [1 / 3, 1 / 3, 1 / 3], atol=2e-9)
    assert main([*common, "--out", str(tmp_path / "bad"), "--special", "1,2,3"]) == 2
    assert "sum to one" in capsys.readouterr().err


def test_a_row_that_no_memory_suffices_for_gets_the_prior(model, table, tmp_path, monkeypatch, capsys):
    """As many tokens as fit are a matter of the machine: here, so many that only the longest row does not."""
    from tiebreak.models.preference import PreferenceModel

    lengths = []
    forward = PreferenceModel.forward

    def limited(self, tokens, each, *numbers):
        lengths.extend(each)
        if len(tokens) >= most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return forward(self, tokens, each, *numbers)

    most = 10**9
    monkeypatch.setattr(PreferenceModel, "forward", limited)
    common = ["predict", "--model", str(model), "--data", str(table), "--set", "data.max_tokens=250"]
    assert main([*common, "--out", str(tmp_path / "all")]) == 0
    most = max(lengths)
    too_long = lengths.count(most)
    expected_ids, expected = read_predictions(tmp_path / "all" / "predictions.csv")
    capsys.readouterr()
    assert main([*common, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "split in two" in told and "got the class prior" in told
    failed = (tmp_path / "out" / "failed.csv").read_text().splitlines()
    assert failed[0] == "id,reason" and all("out of memory, even alone" in line for line in failed[1:])
    names = [line.split(",")[0] for line in failed[1:]]
    ids, found = read_predictions(tmp_path / "out" / "predictions.csv")
    assert ids == expected_ids and len(names) == too_long
    prior = json.loads((model / "model" / "tiebreak.json").read_text())["baselines"]["prior"]
    lost = np.isin(ids, names)
    np.testing.assert_allclose(found[lost], np.tile(prior, (lost.sum(), 1)), atol=2e-9)
    # Rows are packed with others than before: fp32 rounding.
    np.testing.assert_allclose(found[~lost], expected[~lost], atol=1e-5)
