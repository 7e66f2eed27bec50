"""The README and the shipped recipes; tests/test_docs.py parses the README's commands and follows its links."""

import re
from pathlib import Path

import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe, shipped
from tiebreak.pipeline.ablation import LADDERS
from tiebreak.pipeline.recipe import PIPELINES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_contract_stands_in_the_readme():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", README, re.M)
    assert {"demo", "test"} <= set(targets)
    for command in ("sbatch slurm/train_gemma.sbatch", "deepspeed src/train.py --ds ds_configs/zero2.json"):
        assert re.search(rf"^{re.escape(command)}( |$)", README, re.M), command
    assert re.search(r"^python src/distill\.py .*--teachers ", README, re.M)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid_and_say_what_they_are(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    text = (ROOT / "src/tiebreak/recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"--recipe {name}" in text.splitlines()[0], "the first line is the command"
    assert recipe.description[0].isupper() and recipe.description.endswith(".") and len(recipe.description) > 60


def test_recipes_are_listed_with_whole_descriptions(capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    first, pipelines, ladders = text.split("\n\n")
    header, *lines = first.splitlines()
    assert "GiB" in header
    begins = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0] for line in begins] == shipped()
    at = header.index("GiB") - 2
    memory = {line.split()[0]: line[at : at + 5].strip() for line in begins}
    assert all((memory[name] == "") == ("demo" in name) for name in shipped()), memory
    words = " ".join(text.split())
    for name in shipped():
        assert " ".join(load_recipe(name).description.split()) in words
    for section, folder in ((pipelines, PIPELINES), (ladders, LADDERS)):
        assert [line.split()[0] for line in section.splitlines()[1:] if line[0] != " "] == shipped(folder)


def test_a_recipe_is_printed_resolved_and_can_be_read_again(capsys, tmp_path):
    assert main(["recipes", "gemma2-9b", "--set", "train.lr=3e-5"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out)
    assert load_recipe(str(path)) == load_recipe("gemma2-9b", ["train.lr=3e-5"])
    assert "max_grad_norm: 1.0" in path.read_text(), "defaults are shown"
