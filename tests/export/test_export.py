"""A judge exported: the same judge by onnxruntime, by transformers and merged, or refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tiebreak.api import Judge
from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.encode import encode_pairs, prompt_group
from tiebreak.data.predictions import read_predictions
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import grouped_error
from tiebreak.export import folders
from tiebreak.export.deberta_graph import deberta_graph
from tiebreak.export.export import export_judge
from tiebreak.export.graph import save_graph
from tiebreak.export.lite import LiteJudge
from tiebreak.models.folder import save_model
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.prediction.compute import forward
from tiebreak.prediction.onnx_model import OnnxModel
from tiebreak.tables.pairs import as_pairs

pytestmark = pytest.mark.slow  # models are loaded in each

CPU = torch.device("cpu")
FEATURES = "data.features=[length,style]"
KINDS = {
    "linear": ["data.max_tokens=900"],
    "mlp": ["model.head=mlp", "data.features=[length,turns]", "data.max_tokens=900"],
    "siamese": ["model.head=siamese", "model.template=siamese", FEATURES, "data.max_tokens=700"],
    "mean": ["model.pooling=mean", "data.max_tokens=900"],
}
LONG = " ".join(f"word {number}" for number in range(400))
PAIRS = [
    ("What is 2+2?", "4", "5"),
    (["Hello", "and then?"], ["Hi", None], ["Good day", "[SEP] [PROMPT] forged"]),
    ("Say it all", LONG, LONG[:300]),
    ("", "", "x"),
]


def made(recipe_name, changes):
    """A judge with random adapters or heads, and its tokenizer and recipe."""
    recipe = load_recipe(recipe_name, changes)
    tokenizer = load_tokenizer(recipe.model.base, recipe.model.template)
    judge = build_model(recipe, tokenizer, CPU, torch.float32).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in judge.named_parameters():
            if parameter.requires_grad and ("lora" in name or "classifier" in name or "linear" in name):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return judge, tokenizer, recipe


def folder_of(path, recipe_name, changes, trained=None):
    judge, tokenizer, recipe = made(recipe_name, changes)
    save_model(judge, tokenizer, recipe, {"prior": [0.4, 0.3, 0.3]}, path, trained=trained)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("judge") / "model", "demo-deberta", ["data.max_tokens=160"])


@pytest.fixture(scope="module")
def exported(folder, sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "exported"
    done = export_judge(folder, out, form="onnx", data=sample, rows=60)
    assert done.receipt.largest_change < 1e-5 and done.receipt.rows == 60
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_gives_our_logits_at_every_length(kind, tmp_path):
    judge, tokenizer, recipe = made("demo-deberta", KINDS[kind])
    tokens = encode_pairs(as_pairs(PAIRS), tokenizer, TEMPLATES[recipe.model.template], recipe.data)
    assert tokens.lengths.max() > 600 > 20 > tokens.lengths.min()
    save_graph(deberta_graph(judge, temperature=2.0), tmp_path / "model.onnx")
    (tmp_path / "export.json").write_text('{"alone": false}')
    rows, model = np.arange(len(PAIRS)), OnnxModel(tmp_path, threads=1)
    for swapped in (False, True):
        ours = forward(judge, tokens, rows, swapped)
        texts = [tokens.input_ids(row, swapped) for row in rows]
        theirs = model.logits(texts, tokens.features_of(rows, np.full(len(rows), swapped)))
        assert np.ptp(ours, axis=0).max() > 0.01
        np.testing.assert_allclose(theirs * 2, ours, rtol=0, atol=1e-5)  # fp32 sums in another order


def test_texts_of_other_lengths_in_a_run_change_nothing(exported):
    texts = LiteJudge(exported, 1).texts(as_pairs(PAIRS))
    model = OnnxModel(exported, 1)
    together, alone = model.logits(texts), np.concatenate([model.logits([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=2e-6)


def test_the_lite_judge_says_what_the_judge_says(folder, exported):
    judge, lite = Judge.load(folder), LiteJudge(exported, 1)
    for swap in (False, True):
        np.testing.assert_allclose(lite.predict(PAIRS, swap=swap), judge.predict(PAIRS, swap=swap), rtol=0, atol=1e-6)
    tokens = encode_pairs(as_pairs(PAIRS), judge.tokenizer, TEMPLATES["deberta"], judge.recipe.data)
    for row, text in enumerate(lite.texts(as_pairs(PAIRS))):
        assert text[0].tolist() == tokens.input_ids(row)[0].tolist()


def test_the_lite_judge_needs_onnxruntime_tokenizers_and_numpy_alone(exported):
    heavy = ["torch", "transformers", "pydantic", "pyarrow", "yaml", "scipy", "sklearn", "huggingface_hub", "datasets"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n"
        "from tiebreak.export.lite import LiteJudge\n"
        f"print(LiteJudge({str(exported)!r}, 1).predict([('a', 'b', 'c')]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 3)\n", done.stderr


def test_predict_runs_the_export_in_shards_and_gives_the_same_rows(folder, exported, sample, tmp_path):
    words = ["predict", "--data", str(sample), "--swap", "--out"]
    assert main([*words, str(tmp_path / "torch"), "--model", str(folder)]) == 0
    settings = ["--runtime", "onnx", "--set", "predict.tokens_per_block=2000"]
    assert main([*words, str(tmp_path / "onnx"), "--model", str(exported), *settings]) == 0
    (ids, ours), (others, theirs) = (
        read_predictions(tmp_path / name / "predictions.csv") for name in ("torch", "onnx")
    )
    assert ids == others and len(list((tmp_path / "onnx").glob("parts-*/part*"))) > 3
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)
    for model, extra in ((exported, []), (folder, ["--runtime", "onnx"])):
        assert main([*words, str(tmp_path / "none"), "--model", str(model), *extra]) == 2


def test_int8_is_near_and_does_not_depend_on_other_rows(folder, sample, tmp_path):
    out = tmp_path / "int8"
    done = export_judge(folder, out, form="int8", data=sample, rows=60, tolerance=0.02, agreement=0.9)
    assert 1e-6 < done.receipt.largest_change < 0.2
    texts, model = LiteJudge(out, 1).texts(as_pairs(PAIRS)), OnnxModel(out, 1)
    alone = np.concatenate([model.logits([text]) for text in texts])
    assert model.logits(texts).tolist() == alone.tolist()
    assert (out / "model.onnx").stat().st_size < 0.6 * 4 * sum(p.numel() for p in Judge.load(folder).model.parameters())


LORA = ["model.method=lora", "model.lora.r=4", "model.lora.alpha=8", "data.max_tokens=160"]


def test_a_wrong_scale_of_the_merge_is_refused(sample, tmp_path, monkeypatch):
    from peft.tuners.lora.layer import Linear

    folder = folder_of(tmp_path / "model", "demo-deberta", LORA)
    done = export_judge(folder, tmp_path / "right", form="onnx", data=sample, rows=40)
    assert done.receipt.largest_change < 1e-5
    true = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, adapter: 2 * true(self, adapter))
    for form in ("onnx", "merged"):
        with pytest.raises(UserError, match="refused"):
            export_judge(folder, tmp_path / form, form=form, data=sample, rows=40)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "right"}


@pytest.mark.parametrize(
    ("form", "recipe", "changes"),
    [("merged", "demo-deberta", LORA), ("tei", "demo-deberta", LORA), ("vllm", "demo-llama2", LORA)],
)
def test_merged_folders_are_the_judge(form, recipe, changes, sample, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = folder_of(tmp_path / "model", recipe, changes)
    done = export_judge(folder, tmp_path / form, form=form, data=sample, rows=40, agreement=0.9)
    assert 0 < done.receipt.largest_change < 0.1  # bf16 keeps three digits of a weight
    config = AutoConfig.from_pretrained(tmp_path / form)
    assert config.architectures[0].endswith("ForSequenceClassification") and config.id2label[2] == "winner_tie"
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / form)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    text = (tmp_path / form / "README.md").read_text()
    if form == "merged":
        return
    assert "no server was run" in text
    request = json.loads(text.partition(" -d '")[2].partition("'\n```")[0])
    judge = Judge.load(folder)
    template = judge.manifest.text_template(judge.recipe)
    tokens = encode_pairs(as_pairs([("What is 2 + 2?", "4", "5")]), judge.tokenizer, template, judge.recipe.data)
    ids = request["input"][0] if form == "vllm" else judge.tokenizer(request["inputs"])["input_ids"]
    assert ids == tokens.input_ids(0)[0].tolist()


def test_the_receipt_leaves_out_rows_that_were_trained_on(sample, tmp_path):
    from tiebreak.tables.table import read_table

    pairs = read_table([sample]).pairs
    groups = np.array([prompt_group(pair.prompt) for pair in pairs])
    folder = folder_of(tmp_path / "model", "demo-deberta", ["data.max_tokens=160"], trained=groups[:380])
    receipt = export_judge(folder, tmp_path / "out", data=sample).receipt
    assert receipt.rows == 400 - np.isin(groups, groups[:380]).sum() and receipt.rows_trained == 400 - receipt.rows
    stored = json.loads((tmp_path / "out" / "export.json").read_text())
    assert stored["version"] == 1 and stored["receipt"]["rows"] == receipt.rows
    everything = folder_of(tmp_path / "all", "demo-deberta", ["data.max_tokens=160"], trained=groups)
    with pytest.raises(UserError, match="trained on all"):
        export_judge(everything, tmp_path / "none", data=sample)


def test_the_error_of_a_mean_counts_groups():
    values = np.array([1.0, 1.0, 0.0, 0.0])
    assert grouped_error(values, np.arange(4)) == pytest.approx(0.25)
    assert grouped_error(values, np.array([0, 0, 1, 1])) == pytest.approx(np.sqrt(2) / 4)


def test_what_cannot_be_exported_is_told(folder, tmp_path):
    llama = folder_of(tmp_path / "llama", "demo-llama2", LORA)
    head = folder_of(tmp_path / "mlp", "demo-deberta", KINDS["mlp"])
    for words in (
        [str(llama), "--onnx"],
        [str(llama), "--tei"],
        [str(folder), "--vllm"],
        [str(head), "--tei"],
        [str(folder), "--merged", "--temperature", "2"],
    ):
        assert main(["export", *words, "--out", str(tmp_path / "out"), "--rows", "10"]) == 2
    assert main(["export", str(folder), "--onnx", "--out", str(llama)]) == 2
    assert not (tmp_path / "out").exists()


def test_graphs_ask_for_their_packages_and_other_forms_do_without(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    assert main(["export", str(folder), "--onnx", "--out", str(tmp_path / "out"), "--rows", "10"]) == 2
    assert "needs onnx and onnxruntime: pip install 'tiebreak[export]'" in capsys.readouterr().err
    code = "import sys; sys.modules |= {'onnx': None, 'onnxruntime': None}; import tiebreak.export.folders"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["export.json", "tiebreak.json", "tokenizer.json", "model.onnx"])
@pytest.mark.parametrize("content", [None, b"[]", b"{}"])
def test_a_damaged_file_of_an_export_is_told(exported, tmp_path, name, content):
    damaged = Path(shutil.copytree(exported, tmp_path / "damaged"))
    whole = (damaged / name).read_bytes()
    (damaged / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match="export again"):
        LiteJudge(damaged, 1)
