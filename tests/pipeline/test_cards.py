"""`tiebreak recipes --memory`: the estimate of every recipe on cards of common sizes."""

import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe, shipped
from tiebreak.models.architectures import ARCHITECTURES, find_architecture
from tiebreak.pipeline.cards import CARDS_GB, how_it_fits
from tiebreak.preflight.memory import ERROR, GIB, estimate


def cell(name, card_gb, *changes):
    recipe = load_recipe(name, changes)
    return how_it_fits(recipe, find_architecture(recipe.model.base), card_gb)


def test_every_recipe_of_known_size_has_a_line(capsys):
    assert main(["recipes", "--memory"]) == 0
    head, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert all(f"{card} GB" in head for card in CARDS_GB)
    assert [row.split()[0] for row in rows] == [
        one for one in shipped() if load_recipe(one).model.base in ARCHITECTURES
    ]


def test_one_recipe_with_changes(capsys):
    assert main(["recipes", "gemma2-9b", "--memory", "--set", "model.method=full"]) == 0
    table, legend = capsys.readouterr().out.split("\n\n")
    assert len(table.splitlines()) == 2 and "zero3x" in table and "flash-attn" in legend
    assert main(["recipes", "demo-gemma2", "--memory"]) == 0
    assert "demo-gemma2 are not known" in capsys.readouterr().out


@pytest.mark.parametrize("card_gb", CARDS_GB)
def test_a_cell_is_the_estimate_and_fits_with_its_error(card_gb):
    gib, way = cell("gemma2-9b", card_gb).split()
    assert float(gib) * (1 + ERROR) < card_gb * 1e9 / GIB + 1
    kept, pieces = way.startswith("kept"), int(way.partition("/")[2] or 1)
    tokens = f"train.tokens_per_micro_batch={8192 // pieces}"
    recipe = load_recipe("gemma2-9b", [f"train.gradient_checkpointing={str(not kept).lower()}", tokens])
    assert f"{estimate(recipe).gib:.0f}" == gib


def test_larger_cards_need_fewer_of_them_and_milder_means():
    assert cell("gemma2-9b", 16) != cell("gemma2-9b", 24)
    ways = [cell("gemma2-9b", card, "model.method=full") for card in CARDS_GB]
    cards = [int(way.rpartition("x")[2]) for way in ways]
    assert cards == sorted(cards, reverse=True) and cards[0] > cards[-1] > 1
    assert cell("llama2-70b", 16) == "-"


def test_engines_that_a_recipe_does_not_go_with_are_left_out():
    """Eight bits cannot be cut by ZeRO-3 or FSDP2, and a card must hold the base."""
    assert "zero3" not in cell("llama3-8b-8bit", 8) and "fsdp" not in cell("llama3-8b-8bit", 8)
