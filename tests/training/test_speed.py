"""The arithmetic of a step against known figures of Gemma-2-9B, built at full size without memory."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForSequenceClassification

from tiebreak.attention.backends import Attention
from tiebreak.config import ModelSettings
from tiebreak.models.adapters import add_adapters
from tiebreak.models.last_layer import return_pooled_tokens_only
from tiebreak.models.preference import PreferenceModel
from tiebreak.training.speed import StepFlops, padded_tokens, peak_flops

GEMMA2_9B = Gemma2Config(
    hidden_size=3584,
    intermediate_size=14336,
    num_hidden_layers=42,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=256,
    num_labels=3,
)


@pytest.fixture(scope="module")
def judge():
    with torch.device("meta"):
        network = Gemma2ForSequenceClassification(GEMMA2_9B)
        network = add_adapters(network, ModelSettings(base="gemma2-9b", method="lora"))
    return PreferenceModel(network, Attention("eager", ""))


def test_gemma_2_9b_with_lora(judge):
    """16.65 GFLOP a token forward, 33.3 with the backward pass, 49.9 with checkpointing (r = 16 adds under 1 %)."""
    plain, repeated = StepFlops(judge, checkpointing=False), StepFlops(judge, checkpointing=True)
    assert plain.forward_per_token == pytest.approx(16.65e9, rel=0.01)
    assert plain.per_token == pytest.approx(33.3e9, rel=0.01)
    assert repeated.per_token == pytest.approx(49.9e9, rel=0.01)


def test_the_last_layers_mlp_is_counted_for_each_text_alone():
    """Its three matrices are 1.9 % of the model's."""
    with torch.device("meta"):
        network = Gemma2ForSequenceClassification(GEMMA2_9B)
    whole = StepFlops(PreferenceModel(network, Attention("eager", "")), checkpointing=False)
    judge = PreferenceModel(network, Attention("flash", ""))
    judge.early = return_pooled_tokens_only(judge.layers, judge.is_decoder)
    early = StepFlops(judge, checkpointing=False)
    mlp = 3 * 2 * 3 * 3584 * 14336
    assert whole.of([1000, 500]) - early.of([1000, 500]) == pytest.approx(mlp * (1500 - 2))
    assert early.per_token / whole.per_token == pytest.approx(1 - 0.0187, abs=1e-3)


def test_attention_grows_with_the_square_of_a_row(judge):
    """Causal: 2 x width x layers a token and place going forward, twice that going back."""
    flops = StepFlops(judge, checkpointing=False)
    two, one = flops.of([1000, 1000]), flops.of([2000])
    assert one - two == pytest.approx(3 * 2 * 16 * 256 * 42 * (2000**2 - 2 * 1000**2))


def test_a_padded_batch_computes_every_place():
    assert padded_tokens(False, [3, 5, 1]) == 15
    assert padded_tokens(True, [3, 5, 1]) == 9


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        *(("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 NVL", 835e12)),
        *(("NVIDIA H200", 989e12), ("NVIDIA GH200 144G HBM3e", 989e12), ("NVIDIA B200", 2250e12)),
        *(("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA A100 80GB PCIe", 312e12), ("A100-PCIE-40GB", 312e12)),
        *(("NVIDIA A10", 125e12), ("NVIDIA A10G", 70e12), ("NVIDIA RTX A6000", 155e12)),
        *(("NVIDIA L4", 121e12), ("NVIDIA L40", 181e12), ("NVIDIA L40S", 362e12)),
        *(("NVIDIA RTX 6000 Ada Generation", 364e12), ("NVIDIA GeForce RTX 5090", 210e12)),
        *(("Tesla T4", 65e12), ("Tesla V100-SXM2-32GB", 125e12), ("Tesla V100-PCIE-16GB", 112e12)),
        ("NVIDIA GeForce RTX 4090", 165e12),
        # Less than the card of that name, by how much no table says.
        *(("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None)),
        ("NVIDIA GeForce MX150", None),
    ],
)
def test_a_peak_is_that_of_the_whole_name(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cpu")) is None
