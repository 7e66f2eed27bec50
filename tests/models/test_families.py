"""Every supported family, tiny and random: packed rows are rows alone, and what is packed wrongly runs padded."""

import logging
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from tiebreak.attention import packed_sdpa
from tiebreak.compatibility import FAMILIES
from tiebreak.config import load_recipe
from tiebreak.models.demo import demo_folder
from tiebreak.models.loading import build_model, load_tokenizer
from tiebreak.models.packing_proof import TOLERANCE, packed_difference

pytestmark = pytest.mark.slow  # models are loaded in each

CPU = torch.device("cpu")
WINDOW = 8
OWN = {
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    **{name: {"sliding_window": WINDOW} for name in ("mistral", "ministral", "olmo3")},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "modernbert": {"local_attention": 2 * WINDOW, "global_attn_every_n_layers": 2},
    "deberta-v2": {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
}
DECODERS = [name for name, family in FAMILIES.items() if family.decoder]
ENCODERS = [name for name, family in FAMILIES.items() if not family.decoder]


def config_of(name, vocabulary=300, **special):
    common = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    common |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 300}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pooler_dropout": 0.0}
    more = {"share_att_key": True, "norm_rel_ebd": "layer_norm"} if name == "deberta-v2" else {}
    config = AutoConfig.for_model(name, **common, **still, **more, **OWN.get(name, {}), **special, num_labels=3)
    if name == "deberta-v2":
        config.position_biased_input = False
    return config


def write_base(name, folder):
    """A folder with a random base, its vectors away from their start, and a demo tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(demo_folder("demo-llama2" if FAMILIES[name].decoder else "demo-deberta"))
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos", "cls", "sep")}
    torch.manual_seed(3)
    config = config_of(name, len(tokenizer), **ids)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.15 + (parameter.ndim == 1))
    getattr(model, model.base_model_prefix).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(name, folder, *changes):
    recipe = load_recipe("demo-llama2" if FAMILIES[name].decoder else "demo-deberta", list(changes), str(folder))
    judge = build_model(recipe, load_tokenizer(str(folder), recipe.model.template), CPU, torch.float32)
    with torch.no_grad():
        judge.head.weight.mul_(10)  # a fresh head is small: logits of order 1 show more
    return judge


def draw_rows(lengths=(13, 5, 9, 17, 6)):
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(300, 900, (n,), generator=draw) for n in lengths]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}

    def base(name):
        if name not in made:
            made[name] = write_base(name, tmp_path_factory.mktemp(name))
        return made[name]

    return base


def test_the_families_are_those_promised():
    assert len(DECODERS) >= 12 and len(ENCODERS) >= 5


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_rows_are_rows_alone_forward_and_backward(name, bases):
    """1e-5 of logits of order 1, and of gradients relative to the largest: fp32 rounding of four layers."""
    judge = build(name, bases(name), "model.method=full", "model.dropout=0").eval()
    assert judge.attention.packed
    rows, weights = draw_rows(), torch.linspace(-1, 1, 15).reshape(5, 3)
    together = judge(torch.cat(rows), [len(row) for row in rows])
    (together * weights).sum().backward()
    packed = {key: p.grad.clone() for key, p in judge.named_parameters() if p.grad is not None}
    judge.zero_grad()
    if name != "deberta-v2":  # ours stands in the place of transformers' attention: alone is a batch of one
        judge.attention, judge.early = type(judge.attention)("eager", "test"), False
        judge.classifier.set_attn_implementation("eager")
    alone = torch.cat([judge(row, [len(row)]) for row in rows])
    (alone * weights).sum().backward()
    assert alone.std() > 1e-2
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    largest = max(gradient.abs().max() for gradient in packed.values())
    for key, parameter in judge.named_parameters():
        if parameter.grad is not None:
            assert (parameter.grad - packed[key]).abs().max() <= 1e-5 * max(1.0, float(largest)), key


@pytest.mark.parametrize("name", FAMILIES)
def test_plain_transformers_gives_the_same_logits(name, bases, tmp_path):
    judge = build(name, bases(name), "model.method=full").eval()
    rows = draw_rows()
    with torch.no_grad():
        ours = judge(torch.cat(rows), [len(row) for row in rows])
        judge.classifier.save_pretrained(tmp_path)
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation="eager").eval()
        theirs = torch.cat([plain(row[None], attention_mask=torch.ones_like(row)[None]).logits for row in rows])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("mixtral", "gpt_oss")])
def test_adapters_stand_on_the_backbone_and_the_head_is_trained_whole(name, bases):
    judge = build(name, bases(name), "model.method=lora", "model.lora.r=2")
    trained = {key for key, parameter in judge.named_parameters() if parameter.requires_grad}
    heads = [part for part in judge.heads if any(f".{part}.modules_to_save." in key for key in trained)]
    assert set(heads) == set(judge.heads)
    assert any("lora_A" in key for key in trained)


@pytest.mark.parametrize("name", ["llama", "roberta"])
def test_an_attention_that_leaks_is_caught_and_runs_padded(name, bases, monkeypatch, caplog):
    """A planted fault: every packed row sees all others."""

    def leak(lengths, device, pooled=None):
        return honest([sum(lengths)], device, pooled)

    honest = packed_sdpa.Packing.of
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(packed_sdpa.Packing, "of", leak)
    judge = build(name, bases(name), "model.method=full").eval()
    assert judge.attention.backend == "eager" and "rows alone" in judge.attention.reason
    assert "runs padded" in caplog.text
    rows = draw_rows()
    with torch.no_grad():
        together = judge(torch.cat(rows), [len(row) for row in rows])
        alone = torch.cat([judge(row, [len(row)]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_wrong_positions_are_caught(bases, monkeypatch):
    judge = build("roberta", bases("roberta"), "model.method=full").eval()
    assert packed_difference(judge, torch.device("cpu")) < TOLERANCE[torch.float32] / 10
    monkeypatch.setitem(FAMILIES, "roberta", replace(FAMILIES["roberta"], first_position=0))
    assert packed_difference(judge, torch.device("cpu")) > 10 * TOLERANCE[torch.float32]
