"""A tokenizer that is not the model's own, or does not know the template, is found wherever one is loaded."""

import json
import shutil

import pytest

from tiebreak.api import Judge
from tiebreak.cli import main
from tiebreak.data.templates import TEMPLATES, special_tokens
from tiebreak.errors import UserError
from tiebreak.models.demo import BASES
from tiebreak.models.tokenizer import load_saved_tokenizer, load_tokenizer

pytestmark = pytest.mark.slow

TRAIN = ["--set", "train.max_steps=1", "--set", "train.batch_size=4", "--set", "data.max_tokens=128", "--valid", "none"]


@pytest.fixture
def base(tmp_path):
    """Copy a demo base, to be damaged."""
    return lambda family: shutil.copytree(BASES / family, tmp_path / family)


@pytest.fixture(scope="module")
def judge(sample, tmp_path_factory):
    """A judge of full weights and one of adapters."""
    folder = tmp_path_factory.mktemp("judges")
    for name, method in (("full", "full"), ("lora", "lora")):
        command = ["train", "--recipe", "demo-deberta", "--data", str(sample), "--set", f"model.method={method}"]
        assert main([*command, *TRAIN, "--out", str(folder / name)]) == 0
    return folder


def refused(capsys, *words):
    """What a command says as it is refused."""
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("family", ["gemma2", "deberta"])
@pytest.mark.parametrize("command", ["train", "preflight"])
def test_a_base_without_a_tokenizer_is_refused(command, family, base, sample, tmp_path, capsys):
    """As a Trainer leaves it that was given none: transformers would make one of special tokens alone."""
    folder = base(family)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    more = [*TRAIN, "--out", tmp_path / "run"] if command == "train" else []
    told = refused(capsys, command, "--recipe", f"demo-{family}", "--model", folder, "--data", sample, *more)
    assert f"{folder}: no tokenizer.json" in told and "copy the tokenizer" in told


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("damage", ["absent", "another"])
def test_a_judge_with_another_tokenizer_is_refused(damage, method, judge, sample, tmp_path, capsys):
    folder = shutil.copytree(judge / method / "model", tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
        if damage == "another":
            shutil.copy(BASES / "llama3" / path.name, folder)
    told = "no tokenizer.json" if damage == "absent" else "not the one that was saved with this model"
    command = ["predict", "--model", folder, "--data", sample, "--out", tmp_path / "out"]
    assert told in refused(capsys, *command)
    with pytest.raises(UserError, match=told):
        Judge.load(folder)


def test_a_judge_of_an_earlier_version_has_no_hash_and_still_loads(judge, tmp_path):
    folder = shutil.copytree(judge / "full" / "model", tmp_path / "model")
    manifest = json.loads((folder / "tiebreak.json").read_text())
    del manifest["tokenizer"]
    (folder / "tiebreak.json").write_text(json.dumps(manifest))
    assert load_saved_tokenizer(folder).is_fast
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        load_saved_tokenizer(folder)


def cut_vocabulary(folder, rows):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))


def test_ids_of_the_vocabulary_without_an_embedding_are_refused_and_those_of_special_tokens_told(base, caplog):
    folder = base("gemma2")
    cut_vocabulary(folder, 900)
    with pytest.raises(UserError, match="ids up to 1024, but the model has 900 embeddings"):
        load_tokenizer(str(folder), "gemma2")
    folder = base("llama3")
    cut_vocabulary(folder, 1024)
    caplog.set_level("INFO", logger="tiebreak")
    load_tokenizer(str(folder), "llama3")
    assert "4 special tokens of its tokenizer without an embedding (<|begin_of_text|>" in caplog.text


@pytest.mark.parametrize(
    ("template", "family", "cut", "advice"),
    [
        ("gemma2", "llama2", "<bos>, <start_of_turn>, <end_of_turn>", "model.template=llama2"),
        ("llama2", "deberta", "<s>", "model.template=deberta"),
        ("deberta", "gemma2", r"\[CLS\], \[SEP\]", "model.template=gemma2"),
        ("gemma2", "llama3", "<bos>, <start_of_turn>, <end_of_turn>", "model.template=llama2 or llama3"),
    ],
)
def test_a_template_of_another_family_is_refused(template, family, cut, advice):
    with pytest.raises(UserError, match=f"names {cut}, which .* does not know.*--set {advice}"):
        load_tokenizer(str(BASES / family), template)


def test_train_preflight_and_predict_ask_about_the_template(judge, sample, tmp_path, capsys):
    command = ["--recipe", "demo-gemma2", "--model", "demo-llama2", "--data", sample]
    assert "the template gemma2 names <bos>" in refused(capsys, "preflight", *command)
    assert "the template gemma2 names <bos>" in refused(capsys, "train", *command, *TRAIN, "--out", tmp_path / "run")
    command = ["predict", "--model", judge / "full", "--data", sample, "--out", tmp_path / "out"]
    assert "the template gemma2 names <bos>" in refused(capsys, *command, "--set", "model.template=gemma2")


def test_tokens_that_the_template_brings_are_learnt_and_told(caplog):
    """Those of two sides belong to no family, so all of them are brought."""
    caplog.set_level("INFO", logger="tiebreak")
    tokenizer = load_tokenizer("demo-llama2", "siamese")
    assert "5 special tokens of the template siamese new to its tokenizer ([CLS], [PROMPT]" in caplog.text
    assert len(tokenizer("[CLS][PROMPT]", add_special_tokens=False)["input_ids"]) == 2


def test_what_a_template_names():
    assert special_tokens(TEMPLATES["llama2"]) == ["<s>"]
    assert special_tokens(TEMPLATES["plain"]) == []
    assert special_tokens(TEMPLATES["qwen2"]) == ["<|im_start|>", "<|im_end|>"]
    for name, template in TEMPLATES.items():
        assert set(template.added) <= set(special_tokens(template)), name
