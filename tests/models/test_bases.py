"""Which base a judge belongs to, whether one can be made of a base, and what a folder near the right one is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiebreak.api import Judge
from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.labels import CLASSES
from tiebreak.models.bases import locate, look_around, resolve_base, settle_quantization
from tiebreak.models.check_base import check_base, expected_shapes
from tiebreak.models.demo import BASES, demo_folder
from tiebreak.models.folder import find_model_folder, judge_recipe, save_model
from tiebreak.models.loading import build_model, load_model, load_tokenizer
from tiebreak.models.merging import merge_adapters
from tiebreak.preflight.model_files import check_folder
from tiebreak.pretrained.base_files import hash_base, stored_quantization

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
BASELINES = {"prior": [0.4, 0.4, 0.2], "length_weights": [[0.0] * 4] * 3, "length_intercepts": [0.0] * 3}
BNB = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}


@pytest.fixture
def base(tmp_path):
    """Copy a demo base, to be changed."""
    return lambda family, name="base": shutil.copytree(BASES / family, tmp_path / name)


def set_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    changed = {name: tensor.contiguous().clone() for name, tensor in change(load_file(path)).items()}
    save_file(changed, path, metadata={"format": "pt"})


def adapters(base, folder, *changes):
    """Save a judge of adapters over a base."""
    recipe = load_recipe("demo-llama2", ["model.method=lora", "model.lora.r=2", *changes], str(base))
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    save_model(build_model(recipe, tokenizer, CPU, torch.float32), tokenizer, recipe, BASELINES, folder)
    return folder


def nudge(folder):
    """Another revision: one tensor differs a little."""

    def change(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        return tensors | {name: tensors[name] * 1.01}

    change_weights(folder, change)


def test_the_hash_of_a_base_covers_weights_and_configuration_and_not_how_they_are_spread(base):
    folder = base("llama2")
    before = hash_base(folder)
    tensors = load_file(folder / "model.safetensors")
    names, index = sorted(tensors), {}
    for k, some in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in some}, folder / f"part-{k}.safetensors")
        index |= dict.fromkeys(some, f"part-{k}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    set_config(folder, transformers_version="0")
    assert hash_base(folder) == before
    set_config(folder, rms_norm_eps=1e-3)
    other = hash_base(folder)
    assert other != before
    (folder / "model.safetensors.index.json").unlink()
    nudge(folder)
    assert hash_base(folder) not in (before, other)


def test_adapters_are_refused_over_another_base(base, sample, tmp_path, capsys):
    first, second = base("llama2"), base("llama2", "other")
    nudge(second)
    judge = adapters(first, tmp_path / "judge")
    command = ["predict", "--model", str(judge), "--data", str(sample), "--out", str(tmp_path / "out")]
    assert main([*command, "--set", f"model.base={second}"]) == 2
    assert f"{second} is another base than the one that this judge was trained over" in capsys.readouterr().err
    recipe = load_recipe("demo-llama2", ["model.method=lora", "model.lora.r=2"], str(second))
    with pytest.raises(UserError, match="trained over another base"):
        load_model(judge, recipe, CPU, torch.float32)
    with pytest.raises(UserError, match="trained over another base than that of"):
        merge_adapters([judge, adapters(second, tmp_path / "two")], tmp_path / "merged")
    nudge(first)
    for into_base in (lambda: merge_adapters([judge], tmp_path / "whole", into_base=True), lambda: Judge.load(judge)):
        with pytest.raises(UserError, match="is another base"):
            into_base()


def test_a_base_that_moved_is_found_again_or_asked_for(base, tmp_path, monkeypatch, caplog):
    folder = base("llama2")
    monkeypatch.chdir(tmp_path)
    judge = adapters("base", tmp_path / "judge")
    monkeypatch.chdir(Path("/"))
    caplog.set_level("INFO", logger="tiebreak")
    _, manifest = find_model_folder(judge)
    assert judge_recipe(manifest).model.base == str(folder) and "taken from" in caplog.text
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"base \({folder}\): the base .* not there any more: give --set model.base"):
        Judge.load(judge)
    assert judge_recipe(manifest, [f"model.base={tmp_path / 'moved'}"]).model.base == str(tmp_path / "moved")


def test_a_judge_of_an_earlier_version_has_no_hash_and_takes_what_it_is_given(base, tmp_path, caplog):
    folder = base("llama2")
    judge = adapters(folder, tmp_path / "judge")
    manifest = json.loads((judge / "tiebreak.json").read_text())
    del manifest["base"]
    (judge / "tiebreak.json").write_text(json.dumps(manifest))
    Judge.load(judge)
    caplog.set_level("INFO", logger="tiebreak")
    judge_recipe(find_model_folder(judge)[1], ["model.base=demo-llama2"])
    assert "keeps no hash of its base" in caplog.text


def test_a_run_is_not_resumed_over_another_base(base, sample, tmp_path, capsys):
    folder = base("deberta")
    command = ["train", "--recipe", "demo-deberta", "--model", str(folder), "--data", str(sample), "--valid", "none"]
    command += ["--set", "train.max_steps=1", "--set", "train.batch_size=4", "--set", "data.max_tokens=128"]
    command += ["--out", str(tmp_path / "run"), "--resume", "auto"]
    assert main(command) == 0
    assert main(command) == 0
    set_config(folder, layer_norm_eps=1e-3)
    assert main(command) == 2
    assert f"model.base: {folder} had another configuration or other weights then" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("entailment", "neutral", "contradiction"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_a_head_of_three_other_classes_is_not_kept(names, base, tmp_path, caplog):
    folder = base("deberta")
    head = {"classifier.weight": torch.full((3, 64), 5.0), "classifier.bias": torch.full((3,), 5.0)}
    change_weights(folder, lambda tensors: tensors | head)
    caplog.set_level("INFO", logger="tiebreak")

    def build(classes):
        set_config(folder, id2label=dict(enumerate(classes)), label2id={name: k for k, name in enumerate(classes)})
        recipe = load_recipe("demo-deberta", base=str(folder))
        tokenizer = load_tokenizer(str(folder), "deberta")
        return build_model(recipe, tokenizer, CPU, torch.float32), tokenizer, recipe

    judge, tokenizer, recipe = build(names)
    assert judge.classifier.classifier.weight.abs().max() < 4
    assert f"its head is for {', '.join(names)}: replaced by a fresh one for {', '.join(CLASSES)}" in caplog.text
    save_model(judge, tokenizer, recipe, BASELINES, tmp_path / "saved")
    again = load_model(tmp_path / "saved", recipe, CPU, torch.float32)
    assert torch.equal(again.classifier.classifier.weight, judge.classifier.classifier.weight)
    kept, *_ = build(CLASSES)
    assert torch.equal(kept.classifier.classifier.weight, head["classifier.weight"])


def test_the_quantisation_on_the_disk_counts(base, caplog):
    caplog.set_level("INFO", logger="tiebreak")
    folder = base("llama2")
    set_config(folder, quantization_config=BNB)
    for method in ("qlora", "lora"):
        recipe = settle_quantization(load_recipe("demo-llama2", [f"model.method={method}"], str(folder)))
        assert (recipe.model.method, recipe.model.bits) == ("qlora", 8)
    assert "stored in 8 bits" in caplog.text
    assert settle_quantization(recipe) == recipe
    assert stored_quantization({"quantization_config": {"load_in_4bit": True}}) == ("bitsandbytes", 4)


def test_8_bits_on_the_disk_are_refused_where_8_bits_of_the_recipe_are(base, sample, tmp_path, capsys):
    folder, ds = base("llama2"), Path(__file__).parents[2] / "ds_configs" / "zero3.json"
    set_config(folder, quantization_config=BNB)
    command = ["--recipe", "demo-llama2", "--model", str(folder), "--data", str(sample), "--ds", str(ds)]
    assert main(["preflight", *command]) == 2
    assert "8-bit base under ZeRO-3" in capsys.readouterr().err
    assert main(["train", *command, "--out", str(tmp_path / "run")]) == 2
    assert "8-bit base under ZeRO-3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "method", "told"),
    [
        (BNB, "full", "stored in 8 bits, of which full fine-tuning trains nothing"),
        ({"quant_method": "gptq", "bits": 4}, "qlora", "quantised by gptq, which is not supported"),
        ({"quant_method": "fp8"}, "full", "quantised by fp8"),
        ({"quant_method": "awq"}, "lora", "quantised by awq"),
    ],
)
def test_a_quantised_base_that_cannot_be_trained_is_refused_before_it_is_loaded(stored, method, told, base, capsys):
    folder = base("llama2")
    set_config(folder, quantization_config=stored)
    for command in ("preflight", "train"):
        words = [command, "--recipe", "demo-llama2", "--model", str(folder), "--set", f"model.method={method}"]
        assert main(words) == 2
        assert told in capsys.readouterr().err


def prefixed(prefix):
    return lambda folder: change_weights(folder, lambda tensors: {prefix + name: t for name, t in tensors.items()})


FAULTS = {
    "compiled": (prefixed("_orig_mod."), "begin with '_orig_mod.'"),
    "DDP": (prefixed("module."), "begin with 'module.'"),
    "another prefix": (prefixed("x."), "weights are absent or do not fit, for example embed_tokens.weight"),
    "cut off": (lambda folder: (folder / "config.json").write_bytes(b'{"model_type": "ll'), "not readable as JSON"),
    "no object": (lambda folder: (folder / "config.json").write_text("[1]"), "not readable as JSON"),
    "a size less": (lambda folder: set_config(folder, intermediate_size=255), "config.json says [255, 96]"),
    "rows": (lambda folder: set_config(folder, vocab_size=2000), "embed_tokens.weight, which is [1024, 96]"),
    "gpt2": (
        lambda folder: set_config(folder, model_type="gpt2"),
        "gpt2 is not supported; supported: gemma2",
    ),
    "v1": (lambda folder: set_config(folder, model_type="deberta"), "(deberta-v2 is DeBERTa v2 and v3)"),
    "pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid s\n"),
        "only a pointer of Git LFS",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_preflight_train_and_loader_refuse_the_same(fault, base, sample, tmp_path, capsys):
    damage, told = FAULTS[fault]
    folder = base("llama2")
    tokenizer = load_tokenizer(str(folder), "llama2")
    damage(folder)
    words = ["--recipe", "demo-llama2", "--model", str(folder), "--data", str(sample)]
    for command in ("preflight", "train"):
        assert main([command, *words, "--out", str(tmp_path / "run")]) == 2
        assert told in capsys.readouterr().err
    with pytest.raises(UserError) as error:
        build_model(load_recipe("demo-llama2", base=str(folder)), tokenizer, CPU, torch.float32)
    assert told in str(error.value)


def test_an_untested_model_type_is_told(base):
    folder = base("llama2")
    set_config(folder, model_type="seed_oss")
    (note,) = check_base(folder)
    assert "no test of this project covers model type seed_oss" in note
    assert check_folder(folder).verdict == "note"


@pytest.mark.parametrize("family", ["gemma2", "llama2", "llama3", "qwen2", "deberta"])
def test_expected_shapes_are_those_of_the_demo_bases(family):
    folder = demo_folder(f"demo-{family}")
    assert check_base(folder) == []
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    assert len(expected_shapes(json.loads((folder / "config.json").read_text()))) in (1 + 7 * layers, 1 + 6 * layers)


def test_folders_near_the_right_one_are_told(base, tmp_path):
    outputs = tmp_path / "outputs"
    for step in (50, 500):
        shutil.copytree(BASES / "llama2", outputs / f"checkpoint-{step}")
    with pytest.raises(UserError, match=r"config.json is missing; .*checkpoint-500 is one: give that"):
        resolve_base(str(outputs))
    folder = base("llama2")
    judge = adapters(folder, tmp_path / "run" / "model")
    with pytest.raises(UserError, match=rf"adapters over {folder}: merge them into it first \(tiebreak merge-adapters"):
        resolve_base(str(judge))
    (judge / "tiebreak.json").unlink()
    assert "peft's merge_and_unload" in look_around(judge)
    assert f"; {judge} is one" in look_around(tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    for path in (tmp_path / "run" / "recipe.yaml", step / "cursor.json"):
        path.write_text("{}")
    with pytest.raises(UserError, match=rf"a checkpoint of the run {tmp_path}/run: give {judge}"):
        find_model_folder(step)
    with pytest.raises(UserError, match="a judge is trained from a plain model by tiebreak train --model"):
        find_model_folder(folder)


def test_rows_longer_than_a_decoder_was_made_for_are_told(base, capsys):
    folder = base("llama2")
    set_config(folder, max_position_embeddings=128)
    assert main(["preflight", "--recipe", "demo-llama2", "--model", str(folder)]) == 0
    assert "was made for 128 positions" in " ".join(capsys.readouterr().out.split())


def test_a_full_judge_does_not_need_its_base(base, sample, tmp_path):
    folder = base("deberta")
    recipe = load_recipe("demo-deberta", ["model.method=full"], str(folder))
    tokenizer = load_tokenizer(str(folder), "deberta")
    save_model(build_model(recipe, tokenizer, CPU, torch.float32), tokenizer, recipe, BASELINES, tmp_path / "judge")
    shutil.rmtree(folder)
    assert locate(str(folder)) is None
    command = ["predict", "--model", str(tmp_path / "judge"), "--data", str(sample), "--out", str(tmp_path / "out")]
    assert main(command) == 0
