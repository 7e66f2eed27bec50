"""The model folder by itself: its manifest, its template, and its use through plain peft and transformers."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.models.folder import MANIFEST_FILE, find_model_folder, fingerprint, save_model, usage
from tiebreak.models.loading import build_model, load_model, load_tokenizer
from tiebreak.models.merging import merge_adapters

CPU = torch.device("cpu")
BASELINES = {"prior": [0.4, 0.4, 0.2], "length_weights": [[0.0] * 4] * 3, "length_intercepts": [0.0] * 3}


def save(name, folder, *changes):
    """A judge away from its start, saved; its recipe."""
    recipe = load_recipe(name, changes)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32)
    with torch.no_grad():
        for parameter in judge.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    save_model(judge, tokenizer, recipe, BASELINES, folder)
    return recipe


@pytest.fixture
def edited(monkeypatch):
    """Someone edits templates.py."""
    return lambda name: monkeypatch.setitem(TEMPLATES, name, replace(TEMPLATES[name], tail=" and so on"))


def forget_template(folder):
    """Make the manifest one of the version that stored the template's name alone."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_text())
    del content["template"], content["version"]
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_editing_the_templates_does_not_change_an_older_judges_prediction(tmp_path, edited):
    save("demo-llama2", tmp_path / "model", "model.method=full")
    assert main(["sample", "--rows", "20", "--profile", "short", "--out", str(tmp_path / "t.csv")]) == 0

    def predictions(out):
        command = ["predict", "--model", str(tmp_path), "--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / out)]
        assert main(command) == 0
        return (tmp_path / out / "predictions.csv").read_bytes()

    before = predictions("before")
    edited("llama2")
    assert predictions("after") == before
    forget_template(tmp_path / "model")
    assert predictions("by-name") != before, "the edit changes nothing, so nothing was shown"


def test_the_template_is_stored_word_for_word_and_covered_by_the_fingerprint(tmp_path, edited):
    save("demo-llama2", tmp_path / "one", "model.method=lora")
    stored = json.loads((tmp_path / "one" / MANIFEST_FILE).read_text())
    assert stored["template"] == json.loads(json.dumps(asdict(TEMPLATES["llama2"])))
    before = fingerprint(tmp_path / "one")
    stored["template"]["turn"] += " "
    (tmp_path / "one" / MANIFEST_FILE).write_text(json.dumps(stored))
    assert fingerprint(tmp_path / "one") != before


def test_a_folder_without_a_template_uses_the_name_and_a_change_asks_for_another(tmp_path, edited):
    save("demo-llama2", tmp_path / "m", "model.method=lora")
    original = TEMPLATES["llama2"]
    edited("llama2")
    _, manifest = find_model_folder(tmp_path / "m")
    assert manifest.text_template(manifest.make_recipe()) == original
    assert manifest.text_template(manifest.make_recipe(["model.template=plain"])) == TEMPLATES["plain"]
    forget_template(tmp_path / "m")
    _, manifest = find_model_folder(tmp_path / "m")
    assert manifest.version == 1 and manifest.text_template(manifest.make_recipe()) == TEMPLATES["llama2"]


@pytest.mark.parametrize("into_base", [False, True])
def test_merged_adapters_keep_the_stored_template(into_base, tmp_path, edited):
    original = TEMPLATES["llama2"]
    for name in ("one", "two"):
        save("demo-llama2", tmp_path / name, "model.method=lora", "model.lora.r=2")
    edited("llama2")
    merge_adapters([tmp_path / "one", tmp_path / "two"], tmp_path / "out", into_base=into_base)
    _, manifest = find_model_folder(tmp_path / "out")
    assert manifest.template == original and manifest.merged == [str(tmp_path / "one"), str(tmp_path / "two")]
    save("demo-llama2", tmp_path / "other", "model.method=lora", "model.lora.r=2")
    with pytest.raises(UserError, match="another template"):
        merge_adapters([tmp_path / "one", tmp_path / "other"], tmp_path / "third")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "out", "two"]


def test_a_folder_is_found_by_a_str(tmp_path):
    save("demo-llama2", tmp_path / "model", "model.method=lora")
    assert find_model_folder(str(tmp_path))[0] == tmp_path / "model" == find_model_folder(str(tmp_path / "model"))[0]


@pytest.mark.parametrize(
    ("name", "method"), [("demo-gemma2", "lora"), ("demo-llama2", "qlora"), ("demo-deberta", "full")]
)
def test_invariant_4_the_cards_lines_answer_with_the_winner_names(name, method, tmp_path, monkeypatch, capsys):
    """Adapters and whole models, in plain peft and transformers, with the scores of our own loader."""
    recipe = save(name, tmp_path, f"model.method={method}")
    lines = usage(find_model_folder(tmp_path)[1])
    assert lines is not None and "tiebreak" not in lines
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(lines, scope)
    assert "winner_tie" in capsys.readouterr().out
    (answer,) = scope["judge"]([scope["text"]], add_special_tokens=False)
    shares = {one["label"]: one["score"] for one in answer}
    assert set(shares) == set(CLASSES)
    tokens = load_tokenizer(recipe.model.base, recipe.model.template)(scope["text"], add_special_tokens=False)
    # The card's lines load an adapter's base unquantised, so the comparison is with the same adapter over such a base.
    plain = load_recipe(name, [f"model.method={'lora' if method == 'qlora' else method}"])
    judge = load_model(tmp_path, plain, CPU, torch.float32)
    with torch.no_grad():
        logits = judge(torch.tensor(tokens["input_ids"]), [len(tokens["input_ids"])])
    expected = dict(zip(CLASSES, logits.softmax(-1)[0].tolist(), strict=True))
    assert shares == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("change", ["model.head=mlp", "model.pooling=mean", "data.features=[length]"])
def test_a_model_that_plain_libraries_cannot_load_has_no_such_lines(change, tmp_path):
    save("demo-deberta", tmp_path, "model.method=full", change)
    assert usage(find_model_folder(tmp_path)[1]) is None


def test_the_backend_of_a_family_goes_by_two_names():
    """`rows` is the former name of `packed-sdpa`, and both are the family's own packed attention."""
    for name, backend in (("demo-llama2", "packed-sdpa"), ("demo-deberta", "packed-deberta")):
        for word in ("rows", "packed-sdpa", "auto"):
            recipe = load_recipe(name, [f"model.attention={word}", "model.method=full"])
            tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
            assert build_model(recipe, tokenizer, CPU, torch.float32).attention.backend == backend
