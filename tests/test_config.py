"""Recipes: changes, and all problems at once."""

import pytest

from tiebreak.config import load_recipe
from tiebreak.errors import UserError


def test_changes_reach_every_kind_of_field():
    changes = ["train.lr=1e-4", "model.lora.r=8", "data.swap=both", "train.max_steps=null", "log.wandb=off"]
    recipe = load_recipe("demo-gemma2", changes)
    assert recipe.train.lr == 1e-4
    assert recipe.model.lora.r == 8
    assert recipe.data.swap == "both"
    assert recipe.train.max_steps is None
    assert recipe.log.wandb == "off"


def test_all_problems_are_told_at_once():
    with pytest.raises(UserError) as caught:
        load_recipe("demo-gemma2", ["train.lr=-1", "data.foo=3", "train.precision=int8", "model.lora.rank=3"])
    message = str(caught.value)
    for field in ("train.lr", "data.foo: no such field", "train.precision", "model.lora.rank: no such field"):
        assert field in message


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
