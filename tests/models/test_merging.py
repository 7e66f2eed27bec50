"""Adapters of several folds made one, and merged into the base."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.models.folder import find_model_folder, save_model
from tiebreak.models.loading import build_model, load_model, load_tokenizer
from tiebreak.models.merging import WEIGHTS, average

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folds(sample, tmp_path_factory):
    """Three adapters of demo-llama2, each trained otherwise as far as this test goes."""
    root = tmp_path_factory.mktemp("folds")
    recipe = load_recipe("demo-llama2", ["model.method=lora", "model.lora.r=4", "model.lora.alpha=6"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    for k in range(3):
        judge = build_model(recipe, tokenizer, CPU, torch.float32)
        torch.manual_seed(k)
        with torch.no_grad():
            for parameter in judge.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        save_model(judge, tokenizer, recipe, {"prior": [0.2 + 0.1 * k, 0.3, 0.5 - 0.1 * k]}, root / f"fold-{k}")
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    texts = [tokens.input_ids(row)[0] for row in range(6)]
    return root, torch.from_numpy(np.concatenate(texts)).long(), [len(text) for text in texts]


def logits(folder, flat, lengths):
    folder, stored = find_model_folder(folder)
    judge = load_model(folder, stored.make_recipe(), CPU, torch.float32)
    with torch.no_grad():
        return judge(flat, lengths)


def test_the_mean_of_updates_is_exact(folds):
    root, *_ = folds
    weights = [load_file(root / f"fold-{k}" / WEIGHTS) for k in range(3)]
    merged = average(weights, "updates")
    for name in [name for name in weights[0] if ".lora_A." in name]:
        twin = name.replace("lora_A", "lora_B")
        update = torch.stack([one[twin] @ one[name] for one in weights]).mean(0)
        torch.testing.assert_close(merged[twin] @ merged[name], update, atol=1e-6, rtol=0)
    head = next(name for name in weights[0] if "score" in name)
    torch.testing.assert_close(merged[head], sum(one[head] for one in weights) / 3, atol=1e-7, rtol=0)


def test_one_adapter_three_times_is_itself(folds, tmp_path):
    root, *rows = folds
    for how in ("updates", "factors"):
        out = tmp_path / how
        same = [str(root / "fold-1")] * 3
        assert main(["merge-adapters", *same, "--how", how, "--out", str(out)]) == 0
        torch.testing.assert_close(logits(out, *rows), logits(root / "fold-1", *rows), atol=1e-5, rtol=0)


def test_merged_into_the_base_gives_the_same_logits_without_peft(folds, tmp_path, capsys):
    root, flat, lengths = folds
    adapters = [str(root / f"fold-{k}") for k in range(3)]
    assert main(["merge-adapters", *adapters, "--out", str(tmp_path / "mean")]) == 0
    assert main(["merge-adapters", *adapters, "--into-base", "--out", str(tmp_path / "whole")]) == 0
    assert "3 adapters averaged (updates), rank 12" in capsys.readouterr().out
    expected = logits(tmp_path / "mean", flat, lengths)
    torch.testing.assert_close(logits(tmp_path / "whole", flat, lengths), expected, atol=1e-5, rtol=0)
    assert (expected - logits(root / "fold-0", flat, lengths)).abs().max() > 1e-2

    from transformers import AutoModelForSequenceClassification

    assert not list((tmp_path / "whole").glob("adapter*"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        first = plain(input_ids=flat[None, : lengths[0]]).logits
    torch.testing.assert_close(first, expected[:1], atol=1e-5, rtol=0)
    assert find_model_folder(tmp_path / "whole")[1].baselines["prior"] == pytest.approx([0.3, 0.3, 0.4])


def test_what_cannot_be_merged_is_reported(folds, tmp_path, capsys):
    root, *_ = folds
    out = ["--out", str(tmp_path / "out")]
    assert main(["merge-adapters", str(root), *out]) == 2
    assert "tiebreak.json" in capsys.readouterr().err
    assert main(["merge-adapters", str(root / "fold-0"), "--out", str(root / "fold-1")]) == 2
    assert f"{root / 'fold-1'} exists" in capsys.readouterr().err
    recipe = load_recipe("demo-llama2", ["model.method=lora", "model.lora.r=2"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    save_model(build_model(recipe, tokenizer, CPU, torch.float32), tokenizer, recipe, {}, tmp_path / "other")
    assert main(["merge-adapters", str(root / "fold-0"), str(tmp_path / "other"), *out]) == 2
    assert "another shape" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
