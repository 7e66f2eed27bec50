"""A student of some of a larger model's layers."""

import pytest
import torch

from tiebreak.config import load_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.models.demo import demo_folder
from tiebreak.models.folder import save_model
from tiebreak.models.loading import build_model, load_model, load_tokenizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["demo-deberta", "demo-gemma2"])
def large(request, tmp_path_factory):
    """A demo recipe and a random base of four layers of its family."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("large")
    config = AutoConfig.from_pretrained(demo_folder(request.param), num_hidden_layers=4, initializer_range=0.2)
    if getattr(config, "layer_types", None):
        config.layer_types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo_folder(request.param)).save_pretrained(folder)
    return request.param, folder


def build(name, base, *changes):
    recipe = load_recipe(name, ["model.method=full", *changes], str(base))
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    return recipe, tokenizer, build_model(recipe, tokenizer, CPU, torch.float32).eval()


def test_the_chosen_layers_are_the_bases_and_survive_a_reload(large, sample, tmp_path):
    name, base = large
    _, _, whole = build(name, base)
    recipe, tokenizer, student = build(name, base, "model.layers=[0,3]")
    assert student.classifier.config.num_hidden_layers == 2
    prefix = "encoder.layer" if name == "demo-deberta" else "layers"
    theirs, mine = (
        dict(getattr(j.classifier, j.classifier.base_model_prefix).named_parameters()) for j in (whole, student)
    )
    for key, parameter in mine.items():
        origin = key.replace(f"{prefix}.1.", f"{prefix}.3.")
        assert torch.equal(parameter, theirs[origin]), key
    assert sum(f"{prefix}.1." in key for key in mine) > 4

    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    rows = [torch.from_numpy(tokens.input_ids(k)[0]).long() for k in range(5)]
    with torch.no_grad():
        before = student(torch.cat(rows), [len(row) for row in rows])
        assert (before - whole(torch.cat(rows), [len(row) for row in rows])).abs().max() > 1e-3
        save_model(student, tokenizer, recipe, {}, tmp_path / "model")
        again = load_model(tmp_path / "model", recipe, CPU, torch.float32)
        torch.testing.assert_close(again(torch.cat(rows), [len(row) for row in rows]), before, atol=1e-6, rtol=0)

    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        alone = torch.cat([plain(row[None], attention_mask=torch.ones_like(row)[None]).logits for row in rows])
    torch.testing.assert_close(alone, before, atol=1e-5, rtol=0)  # packed against alone: fp32 rounding


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["model.layers=[0,3]"], "the base has 0 to 2: name some"),
        (["model.layers=[1,1]"], "each once"),
        (["model.layers=[]"], "at least one layer"),
        (["model.layers=[0]", "model.method=lora"], "layers needs method=full"),
    ],
)
def test_layers_that_cannot_be(changes, sentence):
    with pytest.raises(UserError, match=sentence.replace("[", r"\[")):
        build("demo-deberta", "demo-deberta", *changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["model.freeze=99"], "model.freeze is 99, but the base has 3 layers"),
        (["model.method=lora", "model.lora.targets=[nowhere]"], "model.lora.targets.*the layers.*query_proj"),
    ],
)
def test_layers_that_the_base_does_not_have_are_told(changes, told):
    recipe = load_recipe("demo-deberta", changes)
    with pytest.raises(UserError, match=told):
        build_model(recipe, load_tokenizer("demo-deberta", "deberta"), torch.device("cpu"), torch.float32)
