"""Numbers and names of recipes and options: what is beyond reason is told before anything is allocated."""

import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe, make_recipe
from tiebreak.errors import UserError

BEYOND = {
    "train.epochs": ["1e9", "true", ".inf"],
    "train.batch_size": ["2147483647", "yes"],
    "train.tokens_per_micro_batch": ["2147483647"],
    "train.lr": ["1e300", ".nan", "1e400"],
    "train.betas": ["[1, 1]", "[-0.1, 0.9]", "[.nan, 0.9]"],
    "train.eps": ["1e300"],
    "train.weight_decay": ["1e300"],
    "train.max_grad_norm": ["1e-320"],
    "train.keep": ["2147483647"],
    "train.timeout_s": ["2147483647"],
    "data.max_tokens": ["2147483647"],
    "data.share": ["1e-300"],
    "model.head_hidden": ["2147483647"],
    "model.base": ["''", "[x]", '"a\\0b"', "aaaaaaaaaa" * 200],
    "model.lora.r": ["100000"],
    "model.lora.alpha": ["-1", "0", "1e300", ".nan"],
    "model.lora.targets": ["[]", "'('"],
    "predict.lease_s": ["1e300", "1e-300", ".inf"],
    "distill.kl": ["1e300"],
    "distill.temperature": ["1e-320"],
    "log.project": ["''", '"a\\nb"'],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BEYOND.items() for value in values])
def test_a_value_beyond_reason_is_told_by_its_field(key, value):
    with pytest.raises(UserError, match=key.replace(".", r"\.")) as told:
        load_recipe("demo-deberta-lora", [f"{key}={value}"])
    assert len(str(told.value)) < 1_000


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "/x", "--help", "-x", "", " ", "a/b", "$x$", "<b>", "a|b", "`x`", "[x](y)", "x" * 101]
)
def test_a_name_that_is_no_folders_is_told(name, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"name: {name!r}\nmodel: {{base: demo-deberta, template: deberta}}\n")
    with pytest.raises(UserError, match=r"r\.yaml: the recipe's name"):
        load_recipe(str(path))
    assert (
        make_recipe({"name": name, "model": {"base": "demo-deberta"}}).name == name
    )  # a judge of before stays readable


@pytest.mark.parametrize("name", ["../recipes/demo-deberta", "pipelines/demo", "./demo-deberta", "demo-deberta/", ""])
def test_a_path_is_no_name_of_a_shipped_recipe(name):
    with pytest.raises(UserError, match="no recipe"):
        load_recipe(name)


@pytest.mark.parametrize("change", ["=1", ".=1", "a..b=1", "train.lr", "a." * 50_000 + "b=1", "a" * 100_000 + "=1"])
def test_a_change_of_another_form_is_told_in_few_words(change):
    with pytest.raises(UserError) as told:
        load_recipe("demo-deberta", [change])
    assert len(str(told.value)) < 1_000


@pytest.mark.parametrize(
    "words",
    [
        "sample --out x.csv --rows 9999999999999",
        "sample --rows 5 --out x.csv --seed=-1",
        "report x --labels y --out z --resamples 999999999999",
        "report x --labels y --out z --seed=-1",
        "folds --out x --folds 1000000000",
        "baseline x --folds 0",
        "leaderboard --data x --out y --least-rows=-1",
        "preflight --gpu-gib nan",
        "preflight --gpu-gib=-5",
        "preflight --timeout 1e400",
        "preflight --fake-world 9999999999",
        "preflight --nodes 9999999999999",
        "export x --onnx --out y --tolerance 1e400",
        "export x --onnx --out y --agreement=-1",
        "export x --onnx --out y --temperature 0",
        "bench x --alike nan",
    ],
)
def test_an_option_beyond_reason_is_told_by_its_name(words, capsys):
    assert main(words.split()) == 2
    option = next(word for word in words.split()[::-1] if word.startswith("--")).partition("=")[0]
    assert f"argument {option}" in capsys.readouterr().err
