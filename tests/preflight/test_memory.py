"""Published sizes: parameters, adapters and memory at full size, on the meta device."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tiebreak.attention import deberta, packed_sdpa, tiled, tiles
from tiebreak.compatibility import FAMILIES
from tiebreak.config import load_recipe, shipped
from tiebreak.models.adapters import add_adapters, linear_layers
from tiebreak.models.architectures import (
    ARCHITECTURES,
    COUNTED,
    count_weights,
    find_architecture,
    linear_weights,
    lora_weights,
)
from tiebreak.models.heads import HEADS
from tiebreak.preflight import memory
from tiebreak.preflight.activations import TILE, TILED, TILED_DISTANCES, TILES_KEPT, kept_per_token
from tiebreak.preflight.memory import estimate, trained_weights

BACKBONES = {
    # Parameters of the published checkpoints less their language-model heads, where these are not tied.
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-27b-it": 27_227_128_320,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616 - 131_072_000,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320 - 163_840_000,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192 - 262_144_000,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248 - 525_336_576,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512 - 544_997_376,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360 - 622_329_856,
    "answerdotai/ModernBERT-base": 149_014_272,
    "answerdotai/ModernBERT-large": 394_781_696,
    "microsoft/deberta-v3-xsmall": 70_682_112,
    "microsoft/deberta-v3-small": 141_304_320,
    "microsoft/deberta-v3-base": 183_831_552,
    "microsoft/deberta-v3-large": 434_012_160,
}
FULL_SIZE = [name for name in shipped() if "demo" not in name]


def on_meta(base):
    fields = dict(ARCHITECTURES[base])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, num_labels=3)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("base", ARCHITECTURES)
def test_parameters_are_those_of_the_published_models(base):
    model = on_meta(base)
    backbone = getattr(model, model.base_model_prefix)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == BACKBONES[base]
    sizes = count_weights(ARCHITECTURES[base])
    assert sizes.base == BACKBONES[base], "counted from the configuration alone"
    assert sizes.total == sum(parameter.numel() for parameter in model.parameters())
    linear = [(m.in_features, m.out_features) for m in backbone.modules() if isinstance(m, torch.nn.Linear)]
    assert sorted(linear) == sorted(linear_weights(ARCHITECTURES[base]))


def test_adapters_of_gemma_2_9b():
    """54.02 M at rank 16 on all linear layers."""
    assert lora_weights(ARCHITECTURES["google/gemma-2-9b-it"], 16) == pytest.approx(54.02e6, rel=1e-4)


@pytest.mark.parametrize("name", FULL_SIZE)
@pytest.mark.slow
def test_each_recipe_is_built_at_full_size(name):
    """Adapters stand on every linear layer of the backbone, on nothing else, and are the whole that is trained."""
    recipe = load_recipe(name)
    model = on_meta(recipe.model.base)
    whole = sum(parameter.numel() for parameter in model.parameters())
    if recipe.model.method == "full":
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == whole
        return
    linear = len(linear_weights(ARCHITECTURES[recipe.model.base]))
    assert linear_layers(model)
    adapted = add_adapters(model, recipe.model)
    trained = {key: p.numel() for key, p in adapted.named_parameters() if p.requires_grad}
    lora = {key: size for key, size in trained.items() if "lora_" in key}
    assert len(lora) == 2 * linear
    assert sum(lora.values()) == lora_weights(ARCHITECTURES[recipe.model.base], recipe.model.lora.r)
    assert all(any(head in key.split(".") for head in HEADS) for key in trained.keys() - lora.keys())
    assert 0.001 < sum(trained.values()) / whole < 0.05


def test_memory_grows_and_shrinks_with_what_it_depends_on():
    def gib(name, *changes, **cut):
        return estimate(load_recipe(name, changes), **cut).gib

    qlora = gib("gemma2-9b")
    assert 8.32e9 * 0.516 / 2**30 < qlora < 24, "the 4-bit base alone is 4 GiB; recipes promise a 24 GiB GPU"
    assert gib("gemma2-9b", "model.bits=8") > qlora + 3
    assert gib("gemma2-9b", "train.gradient_checkpointing=false") > 4 * qlora
    assert gib("gemma2-9b", "train.tokens_per_micro_batch=4096") < qlora
    full = gib("gemma2-9b", "model.method=full")
    assert full > 9.24e9 * 16 / 2**30, "fp32 weights, gradients and two moments"
    small = {"zero_optimization": {"reduce_bucket_size": 10**6}}
    assert gib("gemma2-9b", "model.method=full", engine="zero2", world=8, ds=small) < full - 80
    assert gib("gemma2-9b", "model.method=full", engine="zero3", world=8, ds=small) < 60
    assert estimate(load_recipe("demo-gemma2")) is None


@pytest.mark.parametrize(("name", "world", "card_gib"), [("gemma2-27b", 64, 80), ("gemma2-9b", 8, 24)])
@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_what_fits_no_card_is_loaded_part_by_part(name, world, card_gib, engine):
    """A part and the embedding on a card, and one copy on the host of rank 0; a 4-bit base is whole on each card."""
    found = estimate(load_recipe(name, ["model.method=full"]), engine, world)
    weights = 4 * count_weights(ARCHITECTURES[f"google/{name.replace('gemma2', 'gemma-2')}-it"]).total
    assert found.reading == weights
    assert found.reading / world < found.loading < 0.5 * card_gib * 2**30
    quantised = estimate(load_recipe(name), engine, world)
    assert quantised.reading == 0 and quantised.loading > world * quantised.weights / 2
    alone = estimate(load_recipe(name, ["model.method=full"]), "ddp", world)
    assert alone.loading == weights and alone.reading == 0, "under other engines every rank reads all"


def test_activations_of_gemma_2_9b_without_checkpointing():
    """8.46 MiB a token was measured with flash-attn (dropout 0)."""
    recipe = load_recipe("gemma2-9b", ["train.gradient_checkpointing=false"])
    architecture = ARCHITECTURES["google/gemma-2-9b-it"]
    kept = kept_per_token(recipe, architecture, 2, "cuda", flash=True)
    assert 42 * kept.layer / 2**20 == pytest.approx(8.46, rel=0.02)


def test_whether_flash_attn_is_here_is_asked_and_counts(monkeypatch):
    """Without it Gemma-2 keeps its soft-capped scores on a GPU too; Llama's fused attention does not."""

    def activations(name, *changes, **more):
        return estimate(load_recipe(name, ["train.gradient_checkpointing=false", *changes]), **more)

    monkeypatch.setattr(memory, "version", lambda name: "2.8.3.post2")
    there = activations("gemma2-9b")
    assert there.flash and there.activations == activations("gemma2-9b", flash=True).activations
    assert not activations("gemma2-9b", "train.precision=fp32").flash, "flash-attn has half precision alone"
    assert not activations("gemma2-9b", "model.dropout=0.1").flash
    assert not activations("deberta-v3-base").flash and not activations("gemma2-9b", device="cpu").flash
    for found in ("2.5.9", "2.8", PackageNotFoundError()):
        monkeypatch.setattr(
            memory, "version", lambda name, found=found: found if isinstance(found, str) else raised(found)
        )
        assert memory.flash_is_here() == (found == "2.8")
    monkeypatch.setattr(memory, "find_spec", lambda name: name == "kernels")
    assert memory.flash_is_here()
    monkeypatch.setattr(memory, "find_spec", lambda name: None)
    absent = activations("gemma2-9b")
    assert not absent.flash and absent.activations > 2 * there.activations
    assert activations("llama2-7b").activations < 1.1 * activations("llama2-7b", flash=True).activations


def raised(error):
    raise error


def test_tiles_of_long_rows_keep_no_scores_on_a_cpu():
    """Up to 1,024 tokens they are kept, of a decoder half a table of tanh and half a one of weights."""
    of = {
        "gemma2-9b": ARCHITECTURES["google/gemma-2-9b-it"],
        "deberta-v3-base": ARCHITECTURES["microsoft/deberta-v3-base"],
    }
    layers = {
        (name, length): kept_per_token(
            load_recipe(name, [f"data.max_tokens={length}"]), architecture, 4, "cpu", flash=False
        ).layer
        for name, architecture in of.items()
        for length in (512, 1024, 1025, 2048)
    }
    for name, scores in (("gemma2-9b", 16 * 4 * (1024 + 128)), ("deberta-v3-base", 12 * 4 * 1024)):
        assert layers[name, 1025] == layers[name, 2048]
        assert layers[name, 1024] - layers[name, 1025] == pytest.approx(scores)
        assert layers[name, 1024] > layers[name, 512] > layers[name, 2048]
    assert (TILED, TILED_DISTANCES) == (packed_sdpa.TILED_FROM, deberta.TILED_FROM)
    assert (tiled.KEPT_UP_TO, tiles.QUERIES[True]) == (TILES_KEPT, TILE)


SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 99}


@pytest.mark.parametrize("kind", COUNTED)
def test_weights_of_a_local_folder(kind, tmp_path):
    """Counted from its config.json, with what a family leaves out, against the model that transformers makes of it."""
    more = {"num_key_value_heads": 2} if FAMILIES[kind].decoder else {}
    more |= {"head_dim": 8} if kind == "ministral" else {}  # its own default is none at all
    AutoConfig.for_model(kind, **SMALL, **more, pad_token_id=0, num_labels=3).save_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(tmp_path))
    found = find_architecture(str(tmp_path))
    assert count_weights(found).total == sum(parameter.numel() for parameter in model.parameters())
    named = getattr(model, model.base_model_prefix).named_modules()
    linear = [m for name, m in named if isinstance(m, torch.nn.Linear) and "pooler" not in name]
    assert sorted((m.in_features, m.out_features) for m in linear) == sorted(linear_weights(found))
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert find_architecture(str(tmp_path)) is None


def test_what_is_frozen_is_not_trained():
    recipe = load_recipe("deberta-v3-base")
    found = find_architecture(recipe.model.base)
    sizes = count_weights(found)
    trained = {
        freeze: trained_weights(load_recipe("deberta-v3-base", [f"model.freeze={freeze}"]), sizes, found)
        for freeze in ("none", "embeddings", 6, 12, "backbone")
    }
    assert trained["none"] == sizes.total and trained["backbone"] == sizes.head == trained[12]
    assert trained["embeddings"] == sizes.total - sizes.embeddings
    assert trained[6] == pytest.approx((trained["embeddings"] + sizes.head) / 2, rel=1e-3)
