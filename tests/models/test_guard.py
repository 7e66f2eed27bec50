"""Folders from anywhere: changed, foreign or oversized files are told before anything is loaded."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from tiebreak.errors import UserError
from tiebreak.files import hash_once
from tiebreak.models.demo import demo_path
from tiebreak.models.guard import check_adapter, check_config, check_folder, is_sealed, seal, verify
from tiebreak.pretrained.base_files import weight_files


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(demo_path("demo-deberta"), tmp_path / "base"))


def test_a_changed_an_absent_and_an_added_file_are_told(folder):
    hashes = seal(folder)
    verify(folder, hashes)
    verify(folder, None)  # of an earlier version
    for name in hashes:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(folder / name, ns=(1, 1))
        with pytest.raises(UserError, match=f"{name} is not the one that was saved"):
            verify(folder, hashes)
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"no {name}"):
            verify(folder, hashes)
        (folder / name).write_bytes(whole)
    (folder / "notes.txt").write_text("mine")  # read by nobody
    verify(folder, hashes)
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(UserError, match=r"added_tokens\.json: not saved with this model"):
        verify(folder, hashes)


def test_a_file_is_hashed_once_while_it_stays(folder, monkeypatch):
    from tiebreak import files

    path = folder / "model.safetensors"
    first = hash_once(path)
    monkeypatch.setattr(files, "sha256", lambda _: "again")
    assert hash_once(path) == first
    os.utime(path, ns=(5, 5))
    assert hash_once(path) == "again"


def test_weights_card_and_manifest_are_sealed_or_not():
    assert all(map(is_sealed, ["a.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"]))
    assert not any(map(is_sealed, ["README.md", "tiebreak.json", ".DS_Store", "metrics.json", "notes.txt"]))


def test_pickled_weights_are_refused_unless_they_are_not_needed(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    check_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin: pickled weights.*docs/trust\.md"):
        check_folder(folder)


def test_a_link_that_leaves_the_folder_is_refused_but_into_the_hubs_blobs(folder, tmp_path):
    (folder / "inside.json").symlink_to("config.json")
    check_folder(folder)
    weights = folder / "model.safetensors"
    weights.rename(tmp_path / "outside")
    weights.symlink_to("../outside")
    with pytest.raises(UserError, match="leaves the folder"):
        check_folder(folder)
    weights.unlink()
    weights.symlink_to("model.safetensors")
    with pytest.raises(UserError, match="link to nothing"):
        check_folder(folder)
    weights.unlink()
    cached = tmp_path / "hub/models--a--b"
    (cached / "blobs").mkdir(parents=True)
    (cached / "snapshots").mkdir()
    (tmp_path / "outside").rename(cached / "blobs/abc")
    folder = folder.rename(cached / "snapshots/1")
    (folder / "model.safetensors").symlink_to("../../blobs/abc")
    check_folder(folder)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "x.bin", 5, None, "a/b.safetensors", "a\0.safetensors"]
)
def test_an_index_names_safetensors_of_its_own_folder(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"index\.json: names"):
        weight_files(folder)


@pytest.mark.parametrize(
    "field",
    [
        {"hidden_size": 10**9},
        {"hidden_size": -8},
        {"hidden_size": "64"},
        {"hidden_size": True},
        {"num_hidden_layers": 10**7},
        {"num_attention_heads": 0},
        {"vocab_size": 10**12},
        {"intermediate_size": 2.5},
        {"layer_norm_eps": "small"},
        {"hidden_dropout_prob": 7},
        {"id2label": [1]},
        {"pos_att_type": ["x"]},
        {"quantization_config": [1]},
    ],
    ids=str,
)
def test_a_configuration_beyond_reason_is_told_by_its_field(field):
    with pytest.raises(UserError, match=rf"config\.json: {next(iter(field))} is"):
        check_config(Path("config.json"), field)


ADAPTER = {
    **{"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "bias": "none"},
    **{"target_modules": ["q_proj"], "modules_to_save": ["score"], "base_model_name_or_path": "x"},
}


@pytest.fixture
def adapter(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format("A"): np.zeros((4, 8), np.float32), name.format("B"): np.zeros((8, 4), np.float32)}

    def write(**fields):
        save_file({key: value for key, value in tensors.items() if key not in fields.get("without", ())},
                  tmp_path / "adapter_model.safetensors")  # fmt: skip
        (tmp_path / "adapter_config.json").write_text(json.dumps({**ADAPTER, **fields.get("config", {})}))
        return tmp_path

    write.names = list(tensors)
    return write


@pytest.mark.parametrize(
    "field",
    [
        {"peft_type": "LOHA"},
        {"task_type": "CAUSAL_LM"},
        {"bias": "all"},
        {"use_dora": True},
        {"r": 8},
        {"r": 10**9},
        {"r": "big"},
        {"r": 0},
        {"lora_alpha": "x"},
        {"target_modules": "("},
        {"target_modules": []},
        {"modules_to_save": None},
        {"modules_to_save": ["evil"]},
        {"rank_pattern": {"q_proj": 10**9}},
        {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}},
        {"base_model_name_or_path": 5},
    ],
    ids=str,
)
def test_an_adapter_of_another_kind_is_told(adapter, field):
    check_adapter(adapter())
    with pytest.raises(UserError):
        check_adapter(adapter(config=field))


def test_an_adapters_matrices_come_in_pairs(adapter):
    for name in adapter.names:
        with pytest.raises(UserError, match="partner None"):
            check_adapter(adapter(without=[name]))
    with pytest.raises(UserError, match="no matrices"):
        check_adapter(adapter(without=adapter.names))
