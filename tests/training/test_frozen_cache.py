"""Kept states of frozen layers: the same losses as without, nothing computed twice, and what they are refused for."""

import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_folder
from training_runs import SHORT, set_, steps_of

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.models.frozen import frozen_states, open_gate
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.training import frozen_cache
from tiebreak.training import run as run_module
from tiebreak.training.frozen_cache import lay_out, work
from tiebreak.training.run import train

pytestmark = pytest.mark.slow

TORCHRUN = "torchrun --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint localhost:0 src/train.py".split()
QUICK = [*SHORT, *set_("train.epochs=3", "train.max_steps=12", "data.share=0.15", "train.precision=fp32")]
"""Sixty rows, and three epochs of four steps, of which the later two read what the first has left."""
FULL = set_("model.method=full")
STILL = set_("model.dropout=0", "model.head_dropout=0")
CASES = {
    "packed encoder": ["--recipe", "demo-deberta", *set_("model.freeze=2")],
    "both orders": ["--recipe", "demo-deberta", *set_("model.freeze=1", "data.swap=both", "train.epochs=1.5")],
    "padded encoder": ["--recipe", "demo-deberta", *set_("model.freeze=2", "model.attention=eager")],
    "decoder": ["--recipe", "demo-gemma2", *set_("model.freeze=1", "model.method=full")],
    "padded decoder": [
        "--recipe",
        "demo-llama2",
        *set_("model.freeze=1", "model.method=full", "model.attention=eager"),
    ],
    "mean of a siamese": ["--recipe", "demo-deberta-siamese", *set_("model.freeze=1", "model.pooling=mean")],
    "backbone": ["--recipe", "demo-deberta", *set_("model.freeze=backbone", "data.features=[length]")],
    "siamese backbone": ["--recipe", "demo-deberta-siamese", *set_("model.freeze=backbone")],
    "recomputed": [
        "--recipe",
        "demo-gemma2",
        *set_("model.freeze=1", "model.method=full"),
        *set_("train.gradient_checkpointing=true"),
    ],
}


def trained(out: Path, *words: str) -> tuple[list[float], dict[str, torch.Tensor], dict]:
    """Losses, weights and scores of a run."""
    assert main(["train", "--out", str(out), *words]) == 0
    scores = json.loads((out / "metrics.json").read_text())["validation"]["model"]
    return [record["loss"] for record in steps_of(out)], load_file(out / "model" / "model.safetensors"), scores


@pytest.mark.parametrize("case", CASES)
def test_losses_weights_and_scores_are_those_without_kept_states(case, sample, tmp_path, capsys):
    words = [*CASES[case], "--data", str(sample), *QUICK, *STILL]
    plain = trained(tmp_path / "plain", *words)
    capsys.readouterr()
    kept = trained(tmp_path / "kept", *words, *set_("train.frozen_cache_gb=1"))
    said = capsys.readouterr().out
    assert "frozen: the " in said and (("kept in" if case == "recomputed" else "made in") in said), "as the decoder's"
    assert ("in both orders" in said) == ("siamese" not in case)
    assert len(plain[0]) == 12
    assert kept[0] == pytest.approx(plain[0], abs=1e-5)
    assert kept[2]["log_loss"] == pytest.approx(plain[2]["log_loss"], abs=1e-5)
    for name, tensor in plain[1].items():
        torch.testing.assert_close(kept[1][name], tensor, atol=1e-4, rtol=0, msg=name)


def test_bert_and_a_decoder_with_windows(sample, tmp_path):
    for family, base in (("bert", "demo-deberta"), ("gemma3_text", "demo-gemma2")):
        folder = tiny_folder(family, tmp_path / family)
        changes = set_("model.freeze=1", "model.method=full", "data.max_tokens=128")
        words = ["--recipe", base, "--model", str(folder), "--data", str(sample), *QUICK, *STILL, *changes]
        plain = trained(tmp_path / f"{family}-plain", *words)
        kept = trained(tmp_path / f"{family}-kept", *words, *set_("train.frozen_cache_gb=1"))
        assert kept[0] == pytest.approx(plain[0], abs=1e-5), family


def test_a_second_recipe_computes_no_frozen_layer_and_another_bottom_is_another_entry(
    sample, tmp_path, monkeypatch, capsys, session_cache
):
    words = ["train", "--recipe", "demo-deberta", "--data", str(sample), *QUICK]
    words += set_("train.frozen_cache_gb=1", "data.max_tokens=112")  # which no other test has
    assert main([*words, "--out", str(tmp_path / "one"), *set_("model.freeze=2", "train.lr=1e-3")]) == 0
    entries = set((session_cache / "frozen").iterdir())
    calls = []
    honest = frozen_cache.frozen_states
    monkeypatch.setattr(frozen_cache, "frozen_states", lambda *given: calls.append(1) or honest(*given))
    capsys.readouterr()
    other = set_("model.freeze=2", "train.lr=5e-4", "model.dropout=0.2", "train.batch_size=8", "train.seed=3")
    assert main([*words, "--out", str(tmp_path / "two"), *other]) == 0
    assert not calls and "kept in" in capsys.readouterr().out
    assert set((session_cache / "frozen").iterdir()) == entries
    assert main([*words, "--out", str(tmp_path / "three"), *set_("model.freeze=1")]) == 0
    assert calls and len(set((session_cache / "frozen").iterdir())) == len(entries) + 1
    assert not list((session_cache / "frozen").glob(".tmp-*"))


def test_the_frozen_layers_do_not_run_once_states_are_kept(sample, tmp_path, monkeypatch):
    """And they have no dropout, while the layers above keep theirs: as a run that only turns it off."""
    ran: list[int] = []
    words = ["--recipe", "demo-deberta", "--data", str(sample), *QUICK]
    words += set_("model.freeze=2", "model.dropout=0.1", "train.frozen_cache_gb=1")
    honest = run_module.keep_frozen

    def without(engine, recipe, split):
        honest(engine, recipe, split)
        for layer in engine.model.layers[:2]:
            layer.attention.register_forward_hook(lambda *_: ran.append(1))
        return None, None

    def watched(engine, recipe, split):
        found = honest(engine, recipe, split)
        for layer in engine.model.layers[:2]:
            layer.attention.register_forward_hook(lambda *_: ran.append(1))
        return found

    monkeypatch.setattr(run_module, "keep_frozen", watched)
    kept = trained(tmp_path / "kept", *words)
    assert not ran
    monkeypatch.setattr(run_module, "keep_frozen", without)
    plain = trained(tmp_path / "plain", *words)
    assert ran
    assert kept[0] == pytest.approx(plain[0], abs=1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(sample, tmp_path, session_cache):
    """Also where the kept states were removed meanwhile, and are computed anew."""
    words = ["--recipe", "demo-deberta", "--data", str(sample), *QUICK, *set_("model.freeze=2")]
    words += set_("train.frozen_cache_gb=1")
    whole = trained(tmp_path / "whole", *words)
    parted = tmp_path / "parted"
    trained(parted, *words, *set_("train.save_every=3", "train.keep=9"))
    for checkpoint in (parted / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > 6:
            shutil.rmtree(checkpoint)
    shutil.rmtree(session_cache / "frozen")
    _, weights, scores = trained(parted, *words, "--resume", "auto")
    assert scores == whole[2]
    assert all(torch.equal(weights[name], tensor) for name, tensor in whole[1].items())


@pytest.mark.processes
@pytest.mark.parametrize("engine", [[], ["--ds", "ds_configs/zero2.json"]], ids=["ddp", "zero2"])
def test_two_ranks_give_the_losses_of_one(run, sample, tmp_path, engine):
    """Each computes half of the entry; one process reads what two have written."""
    words = ["--recipe", "demo-deberta", "--data", sample, *QUICK, *STILL, *set_("model.freeze=2")]
    words += set_(f"train.weight_decay=0.0{1 + len(engine)}")
    cache = {"TIEBREAK_CACHE": str(tmp_path / "cache")}
    run(*TORCHRUN, *engine, *words, "--out", tmp_path / "two", *set_("train.frozen_cache_gb=1"), **cache)
    found = [record["loss"] for record in steps_of(tmp_path / "two")]
    (entry,) = (tmp_path / "cache" / "frozen").iterdir()
    assert json.loads((entry / "frozen.json").read_text())["parts"] == 2
    done = run(
        sys.executable, "src/train.py", *words, "--out", tmp_path / "one", *set_("train.frozen_cache_gb=1"), **cache
    )
    assert "kept in" in done.stdout
    run(sys.executable, "src/train.py", *words, "--out", tmp_path / "plain", **cache)
    for name in ("one", "plain"):
        assert [record["loss"] for record in steps_of(tmp_path / name)] == pytest.approx(found, abs=1e-5), name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["model.freeze=none"], "set model.freeze to a number of layers"),
        (["model.freeze=3"], "take model.freeze=backbone"),
        (
            ["model.freeze=2", "train.frozen_cache_gb=0.000001", "data.max_tokens=96"],
            r"frozen layers take 0\.0\d GB: raise it",
        ),
        (["model.freeze=2", "data.jitter=0.2"], "make other rows in each epoch"),
    ],
)
def test_what_it_cannot_do_is_said(changes, sentence, sample, tmp_path):
    recipe = load_recipe("demo-deberta", ["train.frozen_cache_gb=1", "data.max_tokens=128", *changes])
    with pytest.raises(UserError, match=sentence):
        train(recipe, data=[sample], out=tmp_path / "run")


def test_a_base_that_hands_on_more_than_states_is_refused():
    """Here the last layer looks at what the first one computed, behind the back of the states."""
    recipe = load_recipe("demo-deberta", ["model.freeze=1", "train.precision=fp32"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, torch.device("cpu"), torch.float32)
    seen = []
    judge.layers[0].attention.register_forward_hook(lambda _m, _i, output: seen.append(output[0].detach()))
    upper = judge.layers[1].intermediate.dense
    upper.register_forward_hook(lambda _m, _i, output: output + len(seen))
    with pytest.raises(UserError, match="hand on more than their states"):
        open_gate(judge, 1)


def test_all_below_the_frozen_layers_is_frozen():
    """Or their states would change, and the way back through them be computed for a norm at the bottom."""
    recipe = load_recipe("demo-deberta", ["model.freeze=2"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, torch.device("cpu"), torch.float32).train()
    assert {name for name, p in judge.backbone.named_parameters() if p.requires_grad} == {
        name for name, _ in judge.backbone.named_parameters() if name.startswith("encoder.layer.2.")
    }
    assert all(parameter.requires_grad for parameter in judge.classifier.classifier.parameters())
    tokens = torch.arange(30, 60)
    states = frozen_states_of(judge, tokens)
    assert torch.equal(states, frozen_states_of(judge, tokens)), "no dropout below the gate"


def frozen_states_of(judge, tokens):
    if judge.frozen is None:
        open_gate(judge, 2)
    return frozen_states(judge, tokens, [10, 20])


def test_every_state_has_its_place():
    """Each part is filled without a gap, in the order in which its rank writes."""
    lengths = np.random.default_rng(0).integers(1, 3_000, 200)
    for orders, parts in ((1, 1), (2, 3), (2, 500)):
        part, start = lay_out(lengths, lengths, orders, parts)
        for one in range(parts):
            mine = np.argwhere(part == one)
            spans = sorted((start[order, row], lengths[row]) for order, row in mine)
            assert all(first + size == nxt for (first, size), (nxt, _) in pairwise(spans))
        assert sum(len(rows) for _, rows in work(lengths, orders)) == orders * 200
