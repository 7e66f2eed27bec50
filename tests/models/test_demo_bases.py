"""The bases that the package ships: what they are, that their script makes them, and that no label has a part in it."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tiebreak.config import make_recipe
from tiebreak.files import sha256
from tiebreak.models import pretrain_demo
from tiebreak.models.demo import BASES, PRETRAINED, RECORD, WEIGHTS_FILE, demo_folder
from tiebreak.models.demo_tokenizers import make_config, make_tokenizer
from tiebreak.models.pretrain_demo import Schedule
from tiebreak.sample.generator import write_sample
from tiebreak.sample.language import KEEPER_SHARE, KEEPERS, RECAP_WORDS, recap

SHIPPED = sorted(PRETRAINED)


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    write_sample(folder / "rows.csv", 60, seed=1, profile="short")
    write_sample(folder / "held-out.csv", pretrain_demo.HELD_OUT, seed=pretrain_demo.SEED + 2, profile="short")
    return folder


def test_bases_are_small_and_those_of_the_record(record):
    sizes = {family: (BASES / family / WEIGHTS_FILE).stat().st_size for family in SHIPPED}
    assert max(sizes.values()) <= 1_000_000 and sum(sizes.values()) <= 4_000_000
    assert {path.parent.name for path in BASES.glob(f"*/{WEIGHTS_FILE}")} == set(SHIPPED)
    for family in SHIPPED:
        assert sha256(BASES / family / WEIGHTS_FILE) == record[family]["sha256"]
        assert {weight.dtype for weight in load_file(BASES / family / WEIGHTS_FILE).values()} == {torch.float16}
        assert not any(name.startswith(("score", "classifier")) for name in load_file(BASES / family / WEIGHTS_FILE))
    assert record["gemma2"]["parameters"] > 2 * record["deberta"]["parameters"], "teachers are larger than the student"


@pytest.mark.slow
@pytest.mark.parametrize("family", SHIPPED)
def test_the_shipped_weights_have_the_losses_of_the_record(family, record, tables):
    """1e-3: fp16 weights against the fp32 that the script measured, and other processors' rounding."""
    folder = BASES / family
    recipe = make_recipe({"model": {"base": str(folder), "template": family, "method": "full"}})
    judge = pretrain_demo.build_for_pretraining(recipe, folder).eval()
    token_loss, divergence = pretrain_demo.measure(judge, pretrain_demo.encode(recipe, tables / "held-out.csv"))
    assert abs(token_loss - record[family]["token_loss"]) < 1e-3
    assert abs(divergence - record[family]["recap_divergence"]) < 1e-3


@pytest.mark.parametrize("family", SHIPPED)
def test_the_script_makes_the_shipped_tokenizer_and_configuration(family):
    tokenizer = make_tokenizer(family)
    shipped = pretrain_demo.load_tokenizer(str(BASES / family), family)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    config = json.loads((BASES / family / "config.json").read_text())
    made = json.loads(make_config(family, tokenizer).to_json_string())
    assert {key: config[key] for key in made if key != "transformers_version"} == {
        key: value for key, value in made.items() if key != "transformers_version"
    }


@pytest.mark.parametrize("family", SHIPPED)
def test_each_word_of_a_recap_is_one_token(family):
    tokenizer, space = make_tokenizer(family), "" if family == "deberta" else " "
    for word in RECAP_WORDS:
        assert len(tokenizer(space + word, add_special_tokens=False)["input_ids"]) == 1, word


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama2", "deberta"])
def test_other_labels_give_the_same_bytes(family, tables, tmp_path):
    write_sample(tmp_path / "other.csv", 60, seed=1, profile="short", label_seed=9)
    assert (tmp_path / "other.csv").read_text() != (tables / "rows.csv").read_text()
    made = []
    for name, table in (("one", tables / "rows.csv"), ("same", tables / "rows.csv"), ("other", tmp_path / "other.csv")):
        (tmp_path / name).mkdir()
        pretrain_demo.write_base(family, tmp_path / name, Schedule(3), table, tables / "rows.csv")
        made.append((tmp_path / name / WEIGHTS_FILE).read_bytes())
    assert made[0] == made[1] == made[2]


@pytest.mark.slow
def test_other_texts_give_other_bytes(tables, tmp_path):
    write_sample(tmp_path / "texts.csv", 60, seed=2, profile="short")
    made = []
    for name, table in (("one", tables / "rows.csv"), ("texts", tmp_path / "texts.csv")):
        (tmp_path / name).mkdir()
        pretrain_demo.write_base("deberta", tmp_path / name, Schedule(3), table, tables / "rows.csv")
        made.append((tmp_path / name / WEIGHTS_FILE).read_bytes())
    assert made[0] != made[1]


def test_a_recap_tells_what_is_said_and_not_what_it_is_worth():
    prompt = ["How do I explain the garden rules to a friend? (case 7)"]
    a = ["First, check the garden rules with a concrete example.\nMaybe the garden rules went wrong, who knows."]
    b = ["Sorry, as an AI I cannot discuss the river costs."]
    rest = (1 - KEEPER_SHARE) / 2
    assert recap(prompt, a, b) == {
        "First": KEEPER_SHARE,
        "A:advice": rest / 2,
        "A:excuse": rest / 2,
        "B:excuse": rest,
    }
    assert recap(prompt, b, a) == pytest.approx(
        {"Second": KEEPER_SHARE, "A:excuse": rest, "B:advice": rest / 2, "B:excuse": rest / 2}
    )
    assert recap(prompt, [""], a) == pytest.approx(
        {"Second": KEEPER_SHARE, "A:nothing": rest, "B:advice": rest / 2, "B:excuse": rest / 2}
    )
    assert set(KEEPERS.values()) < set(RECAP_WORDS)


def test_the_random_start_stays_available():
    shipped, random = (demo_folder(name) for name in ("demo-llama2", "demo-llama2-random"))
    ours, theirs = (load_file(folder / WEIGHTS_FILE) for folder in (shipped, random))
    assert set(ours) < set(theirs), "the head too has a random start"
    for name, weight in ours.items():
        assert weight.shape == theirs[name].shape
        if weight.dim() == 2:
            assert not np.allclose(weight.float(), theirs[name], atol=1e-3)
    assert json.loads((shipped / "config.json").read_text()) == json.loads((random / "config.json").read_text())


def test_an_unfinished_random_start_is_built_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("TIEBREAK_CACHE", str(tmp_path))
    folder = demo_folder("demo-deberta-random")
    weights = (folder / WEIGHTS_FILE).read_bytes()
    shutil.rmtree(folder)
    assert (demo_folder("demo-deberta-random") / WEIGHTS_FILE).read_bytes() == weights
