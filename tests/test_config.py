"""Recipes: changes, and all problems at once."""

import pytest
from pydantic import ValidationError

from tiebreak.config import load_recipe, make_recipe
from tiebreak.errors import UserError


def test_changes_reach_every_kind_of_field():
    changes = ["train.lr=1e-4", "model.lora.r=8", "data.swap=both", "train.max_steps=null", "log.wandb=off"]
    recipe = load_recipe("demo-gemma2", changes)
    assert recipe.train.lr == 1e-4
    assert recipe.model.lora.r == 8
    assert recipe.data.swap == "both"
    assert recipe.train.max_steps is None
    assert recipe.log.wandb == "off"


def test_all_problems_are_reported_at_once():
    with pytest.raises(UserError) as caught:
        load_recipe("demo-gemma2", ["train.lr=-1", "data.foo=3", "train.precision=int8", "model.lora.rank=3"])
    message = str(caught.value)
    for field in ("train.lr", "data.foo: no such field", "train.precision", "model.lora.rank: no such field"):
        assert field in message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.step=3", "train.step: no such field; did you mean train.max_steps?"),
        ("train.lrr=1", "train.lrr: no such field; did you mean train.lr?"),
        ("train.max_tokens=9", "did you mean data.max_tokens?"),
        ("max_steps=3", "did you mean train.max_steps?"),
        ("model.lora.alpah=3", "did you mean model.lora.alpha?"),
        ("trian.lr=1", "trian: no such field; did you mean train?"),
        (f"train.{'x' * 300}=1", "no such field"),
    ],
)
def test_fields_that_are_meant_are_named(change, sentence):
    with pytest.raises(UserError) as caught:
        load_recipe("demo-gemma2", [change])
    assert sentence in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "sentence"),
    [("train.lr", "key.path=value"), ("=3", "key.path=value"), ("train.lr.x=3", "a value, not a section")],
)
def test_a_change_that_is_none(change, sentence):
    with pytest.raises(UserError, match=sentence):
        load_recipe("demo-gemma2", [change])


def test_a_recipe_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {base: demo-llama2, template: llama2}\n")
    assert load_recipe(str(path)).name == "mine"
    path.write_text("model: [unclosed\n")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_recipe(str(path))
    path.write_text("- 1\n")
    with pytest.raises(UserError, match="a recipe is a mapping"):
        load_recipe(str(path))
    path.write_text("data: {}\n")
    with pytest.raises(UserError, match="model: missing"):
        load_recipe(str(path))


def test_a_validated_recipe_cannot_be_changed():
    recipe = load_recipe("demo-gemma2")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.model.base = "elsewhere"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.data.max_tokens = 1


def test_another_base_wins_over_a_change_and_content_stays_as_it_was():
    content = {"model": {"base": "demo-gemma2"}}
    recipe = make_recipe(content, ["model.base=other", "model.lora.r=8"], base="/models/é 🙂")
    assert recipe.model.base == "/models/é 🙂" and recipe.model.lora.r == 8
    assert content == {"model": {"base": "demo-gemma2"}}


@pytest.mark.parametrize(
    ("name", "sentence"), [("gema2-9b", "did you mean gemma2-9b"), ("xyzzy", "shipped are deberta-cross, ")]
)
def test_an_unknown_recipe_is_answered_with_its_likely_spelling(name, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        load_recipe(name)
    assert f"no recipe {name!r}" in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        *("train.epochs=.inf", "train.lr=.nan", "train.eps=.inf", "model.lora.alpha=.nan", "predict.lease_s=.inf"),
        *(
            "train.batch_size=1000000000000000000000000",
            "train.seed=100000000000000000000",
            "data.folds_seed=4294967296",
        ),
    ],
)
def test_numbers_that_no_run_can_use_are_named(change):
    with pytest.raises(UserError, match=change.partition("=")[0]):
        load_recipe("demo-gemma2", [change])
