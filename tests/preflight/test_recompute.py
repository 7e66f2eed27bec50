"""`train.gradient_checkpointing=auto`: activations are kept where the estimate says that they fit."""

import json
from functools import partial

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig

from tiebreak.attention import backends
from tiebreak.cli import main
from tiebreak.cluster.ranks import Ranks
from tiebreak.config import load_recipe, shipped
from tiebreak.engines.choose import Choice
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.preflight.memory import ERROR, GIB, estimate
from tiebreak.preflight.recompute import Fit, fit, fit_here, least

GEMMA = load_recipe("gemma2-9b")
WITH_FLASH = partial(estimate, flash=True)
ASKED = [name for name in shipped() if load_recipe(name).train.gradient_checkpointing == "auto"]


def without(recipe, *changes):
    return load_recipe(recipe.name, ["train.gradient_checkpointing=false", *changes])


def test_large_recipes_leave_it_to_the_card():
    assert {"gemma2-9b", "gemma2-27b", "llama2-70b", "llama3-8b", "qwen3-8b", "deberta-v3-large"} <= set(ASKED)


def test_activations_are_kept_from_where_they_fit_with_the_estimate_s_error():
    needs = estimate(without(GEMMA), flash=True)
    most = needs.gib * (1 + ERROR)
    found = fit(GEMMA, "single", most + 0.1, WITH_FLASH)
    assert (found.recompute, found.pieces) == (False, 1) and found.needs.running == needs.running
    assert f"activations: kept ({needs.gib:.1f} of" in found.told and "cut" not in found.told
    assert fit(GEMMA, "single", most - 0.1, WITH_FLASH).pieces == 2


def test_an_80_gib_card_keeps_those_of_9b_in_half_micro_batches():
    """As many tokens at a time as memory allows; a set of rows is what makes a step."""
    found = fit(GEMMA, "ddp", 79.0, WITH_FLASH)
    assert (found.recompute, found.pieces) == (False, 2)
    halves = without(GEMMA, "train.tokens_per_micro_batch=4096")
    assert found.needs.gib == estimate(halves, flash=True).gib < 79 / (1 + ERROR)
    assert found.told.endswith("micro-batches cut in 2")


def test_a_small_card_computes_them_again():
    found = fit(GEMMA, "single", 24.0, WITH_FLASH)
    assert found.recompute and found.needs.gib == estimate(GEMMA, flash=True).gib
    assert "computed again" in found.told


def test_no_micro_batch_is_smaller_than_a_row():
    rows = load_recipe("gemma2-9b", ["data.max_tokens=8192"])
    assert fit(rows, "single", 79.0, WITH_FLASH).recompute


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp"])
def test_engines_that_send_with_each_micro_batch_get_no_smaller_ones(engine):
    assert fit(GEMMA, engine, 79.0, WITH_FLASH).recompute


@pytest.mark.parametrize("wanted", [True, False])
def test_what_the_recipe_says_is_done(wanted):
    recipe = load_recipe("gemma2-9b", [f"train.gradient_checkpointing={str(wanted).lower()}"])
    found = fit(recipe, "single", 24.0 if not wanted else 400.0, WITH_FLASH)
    assert found.recompute is wanted and found.told == "" and found.pieces == 1


def test_on_a_cpu_and_where_the_size_is_not_known_they_are_computed_again():
    assert fit_here(GEMMA, Choice("single"), Ranks(), torch.float32) == Fit(True)
    assert fit(GEMMA, "single", 400.0, lambda recipe: None).recompute


class OnACard(Ranks):
    device = torch.device("cuda", 0)


@pytest.mark.parametrize(("dtype", "pieces"), [(torch.bfloat16, 1), (torch.float32, 2)])
def test_what_is_free_on_the_card_decides_in_the_run_s_precision(dtype, pieces, monkeypatch, tmp_path):
    """In fp32, without flash-attn, activations take more than twice as much."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (141 * GIB, 200 * GIB))
    backend = "flash" if dtype == torch.bfloat16 else "packed-sdpa"
    monkeypatch.setattr(backends, "choose_attention", lambda *asked: backends.Attention(backend, "simulated"))
    AutoConfig.for_model(**ARCHITECTURES[GEMMA.model.base]).save_pretrained(tmp_path)
    recipe = load_recipe("gemma2-9b", base=str(tmp_path))
    found = fit_here(recipe, Choice("single"), OnACard(), dtype)
    assert not found.recompute and found.there == 141 and found.pieces == pieces
    assert found.needs.flash == (dtype == torch.bfloat16)
    assert found.record == {"gradient_checkpointing": False, "micro_batches_cut_in": pieces}


def test_the_fullest_card_decides_for_all_ranks(monkeypatch):
    """Engines that gather weights layer by layer must pass through the layers alike on every rank."""
    asked = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda box, operation: asked.append(operation) or box.fill_(7.0))
    assert least(79.0) == 7.0 and asked == [dist.ReduceOp.MIN]


def test_the_preflight_says_what_would_be_done(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ARCHITECTURES["google/gemma-2-9b-it"]))
    for gib, told in (("24", "activations: computed again"), ("400", "activations: kept")):
        assert main(["preflight", "--recipe", "gemma2-9b", "--model", str(tmp_path), "--gpu-gib", gib]) == 2, (
            "no weights"
        )
        assert told in " ".join(capsys.readouterr().out.split())
