"""The faults of a model folder are found in the headers of its files."""

import json
import os
import shutil
import struct

import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.models.demo import demo_folder
from tiebreak.preflight.findings import Finding
from tiebreak.preflight.model_files import check_folder, check_tokenizer, find_folder
from tiebreak.pretrained.base_files import fault_of

RECIPE = load_recipe("demo-llama2")


@pytest.fixture
def folder(tmp_path):
    """A whole model folder of one's own."""
    return shutil.copytree(demo_folder("demo-llama2"), tmp_path / "model")


def cut(path, by=100):
    with open(path, "rb+") as file:
        file.truncate(path.stat().st_size - by)


def test_a_whole_folder(folder):
    found = check_folder(folder)
    assert found.verdict == "ok" and "1 safetensors file" in found.text
    assert check_tokenizer(folder, RECIPE).verdict == "ok"


@pytest.mark.parametrize("family", ["demo-gemma2", "demo-llama2", "demo-deberta"])
def test_each_family_s_tokenizer_gives_the_text_back(family):
    assert check_tokenizer(demo_folder(family), load_recipe(family)).verdict == "ok"


def test_a_truncated_file_is_named_with_its_size(folder, capsys):
    path = folder / "model.safetensors"
    size = path.stat().st_size
    cut(path)
    assert main(["preflight", "--recipe", "demo-llama2", "--model", str(folder)]) == 2
    message = capsys.readouterr().err
    assert (
        f"{path}: truncated" in message and f"{size - 100:,} bytes" in message and "fetch the folder again" in message
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\x01\x02",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"{..}",
        struct.pack("<Q", 2) + b"{}more",
    ],
    ids=["shorter than a length", "shorter than its header", "a list", "no JSON", "too long"],
)
def test_other_damage(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    fault = fault_of(path, set())
    assert fault and f"{path}: " in fault and "damaged" in fault


def test_shards_and_their_index(folder):
    shard = folder / "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").rename(shard)
    with open(shard, "rb") as file:
        names = json.loads(file.read(struct.unpack("<Q", file.read(8))[0])).keys() - {"__metadata__"}
    index = folder / "model.safetensors.index.json"

    def found(weight_map):
        index.write_text(json.dumps({"weight_map": weight_map}))
        return check_folder(folder)

    whole = {name: shard.name for name in names}
    assert found(whole).verdict == "ok"
    absent = found(whole | {"more": "model-00002-of-00002.safetensors"})
    assert absent.failed and "model-00002-of-00002.safetensors: the index names it, but it is not there" in absent.text
    lacking = found(whole | {"model.norm.bias": shard.name})
    assert lacking.failed and "lacks 1 tensors that the index promises, for example model.norm.bias" in lacking.text
    index.write_text('{"weight_m')
    assert check_folder(folder).failed and "damaged" in check_folder(folder).text


def test_files_that_are_not_there(folder):
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json" in check_tokenizer(folder, RECIPE).text
    (folder / "model.safetensors").unlink()
    assert "holds no weights" in check_folder(folder).text
    (folder / "config.json").write_text("{")
    assert "config.json: not readable as JSON" in check_folder(folder).text
    (folder / "config.json").unlink()
    assert "no config.json" in check_folder(folder).text


def test_another_model_s_tokenizer(folder):
    """Ids beyond the embeddings, and a text that does not come back."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    assert "the model has 300 embeddings" in check_tokenizer(folder, RECIPE).text
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "e"}, "content": "a"}
    path.write_text(json.dumps(tokenizer))
    found = check_tokenizer(folder, RECIPE)
    assert found.failed and "comes back as" in found.text


@pytest.mark.parametrize(
    ("base", "offline", "sentence"),
    [
        ("/nowhere/gemma", False, "/nowhere/gemma: there is no such folder"),
        ("gemma", False, "no hub name (OWNER/NAME)"),
        ("google/gemma-2-9b-it", True, "HF_HUB_OFFLINE is set: give a local folder with --model"),
        ("minilm-l6", False, "not fetched yet; `tiebreak weights minilm-l6` does that"),
    ],
)
def test_a_missing_model_folder(base, offline, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["preflight", "--recipe", "demo-llama2", "--model", base]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_of_the_hub_s_cache_is_found(tmp_path, monkeypatch):
    cache = tmp_path / "models--google--gemma-2-9b-it"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_folder("google/gemma-2-9b-it") == snapshot


def test_what_is_fetched_or_built_later_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TIEBREAK_CACHE", str(tmp_path))
    for base, sentence in (
        ("google/gemma-2-9b-it", "downloaded first"),
        ("demo-gemma2-random", "built at its first use"),
    ):
        found = find_folder(base)
        assert isinstance(found, Finding) and found.verdict == "note" and sentence in found.text
    assert not os.listdir(tmp_path), "nothing is built"


@pytest.mark.parametrize(("job", "refused"), [(None, True), ("7", False)])
def test_a_login_node_says_that_jobs_refuse_what_must_be_downloaded(tmp_path, monkeypatch, job, refused):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    found = find_folder("google/gemma-2-9b-it")
    assert isinstance(found, Finding) and ("and will refuse it" in found.text) == refused
