"""Invariant 4 and the errors of models that are not there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_folder

from tiebreak.config import load_recipe
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.models.demo import demo_folder
from tiebreak.models.folder import find_model_folder, fingerprint, save_model
from tiebreak.models.loading import build_model, load_model, load_tokenizer

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")

PLAIN = """
import json, sys
import numpy as np, torch
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig
from peft import AutoPeftModelForSequenceClassification
for folder in sys.argv[1:]:
    rows = [torch.tensor(row) for row in json.load(open(folder + "/rows.json"))]
    kind = folder.rpartition("-")[2]
    if kind == "full":
        model = AutoModelForSequenceClassification.from_pretrained(folder + "/model")
    else:
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=["score", "classifier", "pooler", "bert.pooler"],
        )
        extra = {"quantization_config": four_bit} if kind == "qlora" else {}
        model = AutoPeftModelForSequenceClassification.from_pretrained(folder + "/model", num_labels=3, **extra)
        for module in model.modules():  # bitsandbytes' bf16 kernel for some processors, not exact to 1e-5
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    model.eval()
    with torch.no_grad():
        kept = [model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits for row in rows]
    np.save(folder + "/plain.npy", torch.cat(kept).float().numpy())
assert not any(name.startswith("tiebreak") for name in sys.modules)
"""
METHODS = ("full", "lora", "qlora")
NAMES = ("demo-gemma2", "demo-llama2", "demo-deberta", "bert")


def saved(name, method, sample, folder):
    """Save a judge away from its start, and six rows; its logits on them, and the recipe."""
    base = str(tiny_folder(name, folder / "base")) if name == "bert" else None
    recipe = load_recipe("demo-deberta" if name == "bert" else name, [f"model.method={method}", "train.seed=11"], base)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    tokens = prepare([sample], tokenizer, TEMPLATES[recipe.model.template], recipe.data, need_labels=True)
    judge = build_model(recipe, tokenizer, CPU, torch.float32).eval()
    with torch.no_grad():
        for parameter in judge.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    rows = [tokens.input_ids(k)[0].tolist() for k in range(6)]
    with torch.no_grad():
        before = judge(*packed(rows)).numpy()
    save_model(judge, tokenizer, recipe, {"prior": [0.4, 0.4, 0.2]}, folder / "model")
    (folder / "rows.json").write_text(json.dumps(rows))
    return before, recipe


def packed(rows):
    return torch.tensor([token for row in rows for token in row]), [len(row) for row in rows]


@pytest.fixture(scope="module")
def judges(sample, tmp_path_factory):
    """Every judge's logits before it was saved, its recipe and folder; read again by one plain process."""
    scratch = tmp_path_factory.mktemp("judges")
    folders = {(name, method): scratch / f"{name}-{method}" for name in NAMES for method in METHODS}
    for folder in folders.values():
        folder.mkdir()
    made = {key: (*saved(*key, sample, folder), folder) for key, folder in folders.items()}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, folders.values())], capture_output=True, text=True, cwd=scratch
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_invariant_4_saved_equals_reloaded(name, method, judges):
    """In our own loader, and in a fresh process that knows transformers and peft alone."""
    before, recipe, scratch = judges[name, method]
    assert before.std() > 1e-3
    folder, stored = find_model_folder(scratch)
    assert stored.baselines == {"prior": [0.4, 0.4, 0.2]}
    rows = json.loads((scratch / "rows.json").read_text())
    with torch.no_grad():
        ours = load_model(folder, recipe, CPU, torch.float32)(*packed(rows)).numpy()
    np.testing.assert_allclose(ours, before, atol=1e-6, rtol=0)
    # Packed against one row at a time: fp32 rounding.
    np.testing.assert_allclose(np.load(scratch / "plain.npy"), before, atol=1e-5, rtol=0)


def test_start_depends_on_the_seed_alone():
    recipe = load_recipe("demo-llama2", ["model.method=lora"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    torch.manual_seed(5)
    one = build_model(recipe, tokenizer, CPU, torch.float32)
    torch.manual_seed(6)
    two = build_model(recipe, tokenizer, CPU, torch.float32)
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_adapters_stand_on_every_linear_layer_of_the_backbone_and_on_nothing_else():
    recipe = load_recipe("demo-deberta", ["model.method=lora"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32)
    trained = {name for name, p in judge.named_parameters() if p.requires_grad}
    adapted = {name for name in trained if "lora_" in name}
    assert len(adapted) == 2 * 3 * 6  # A and B, three layers, six linear layers each
    assert all("modules_to_save" in name for name in trained - adapted)
    assert {name.split(".")[3] for name in trained - adapted} == {"classifier", "pooler"}


def test_4_bit_weights_stay_exact_after_an_evaluation():
    """bitsandbytes would repack them for some processors, inexactly and without a backward pass."""
    recipe = load_recipe("demo-gemma2", ["model.method=qlora"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32)
    row = torch.arange(40)
    judge.eval()
    with torch.no_grad():
        evaluated = judge(row, [40])
    trained = judge.train()(row, [40])
    torch.testing.assert_close(evaluated, trained, atol=1e-6, rtol=0)
    trained.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in judge.named_parameters() if "lora_B" in n)


def test_fingerprint_changes_with_the_weights(tmp_path):
    recipe = load_recipe("demo-llama2", ["model.method=lora"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32)
    save_model(judge, tokenizer, recipe, {}, tmp_path / "one")
    with torch.no_grad():
        judge.classifier.score.weight.add_(1)
    save_model(judge, tokenizer, recipe, {}, tmp_path / "two")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


def test_missing_models_are_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"not a tiebreak model folder: tiebreak\.json"):
        find_model_folder(tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path}/none does not exist;"):
        find_model_folder(tmp_path / "none")
    with pytest.raises(UserError, match=rf"runs/none does not exist in {Path.cwd()};"):
        find_model_folder("runs/none")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_tokenizer(str(tmp_path), "plain")
    (tmp_path / "tiebreak.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        find_model_folder(tmp_path)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_truncated_weights_are_reported(method, tmp_path):
    recipe = load_recipe("demo-llama2", [f"model.method={method}"])
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32)
    save_model(judge, tokenizer, recipe, {}, tmp_path / "model")
    (path,) = (tmp_path / "model").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="not loadable"):
        load_model(tmp_path / "model", recipe, CPU, torch.float32)


def test_a_head_for_other_classes_is_made_anew_and_a_backbone_that_does_not_fit_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    base = demo_folder("demo-deberta")
    two = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, ignore_mismatched_sizes=True)
    two.save_pretrained(tmp_path)
    tokenizer = load_tokenizer("demo-deberta", "deberta")
    tokenizer.save_pretrained(tmp_path)
    recipe = load_recipe("demo-deberta", base=str(tmp_path))
    judge = build_model(recipe, tokenizer, CPU, torch.float32)
    assert judge.classifier.classifier.weight.shape == (3, 64)
    assert torch.equal(judge.classifier.pooler.dense.weight, two.pooler.dense.weight)
    weights = load_file(tmp_path / "model.safetensors")
    for wrong in (None, torch.zeros(2, 2)):
        changed = {k: v for k, v in weights.items() if not k.endswith("layer.1.output.dense.weight")}
        if wrong is not None:
            changed["deberta.encoder.layer.1.output.dense.weight"] = wrong
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"1 weights are absent or do not fit.*layer\.1\.output\.dense\.weight"):
            build_model(recipe, tokenizer, CPU, torch.float32)


def test_rows_longer_than_a_table_of_positions_are_refused(tmp_path):
    recipe = load_recipe("demo-deberta", ["data.max_tokens=512"], str(tiny_folder("bert", tmp_path)))
    tokenizer = load_tokenizer(recipe.model.base, "deberta")
    with pytest.raises(UserError, match="has 256 positions"):
        build_model(recipe, tokenizer, CPU, torch.float32)


def test_families_of_which_no_judge_is_made_are_reported(tmp_path):
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=2_000, dim=16, hidden_dim=16, n_layers=1, n_heads=2)
    DistilBertModel(config).save_pretrained(tmp_path)
    recipe = load_recipe("demo-deberta", base=str(tmp_path))
    tokenizer = load_tokenizer("demo-deberta", "deberta")
    with pytest.raises(UserError, match=r"distilbert is not supported; supported: gemma2.*bert"):
        build_model(recipe, tokenizer, CPU, torch.float32)
