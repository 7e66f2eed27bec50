"""No rank holds a whole model while FSDP2 or ZeRO-3 is handed one, but rank 0's host."""

import gc
import os

import pytest
import torch
import torch.distributed as dist
from steps import ds_file, storages
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForSequenceClassification

from tiebreak.attention.backends import Attention
from tiebreak.cluster.ranks import Ranks
from tiebreak.config import FsdpSettings, TrainSettings, load_recipe
from tiebreak.engines import hand_out
from tiebreak.engines.ds_config import read_ds_config
from tiebreak.engines.fsdp import FSDPEngine, shard
from tiebreak.engines.zero import cut, start
from tiebreak.errors import UserError
from tiebreak.models.meta import empty_classifier
from tiebreak.models.preference import PreferenceModel

WORLD = 4
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 2}


@pytest.fixture
def rank(request, monkeypatch):
    """One of four ranks without the others: collectives do nothing."""
    for name, value in (("RANK", request.param), ("LOCAL_RANK", request.param), ("WORLD_SIZE", WORLD)):
        monkeypatch.setenv(name, str(value))
    dist.init_process_group("fake", rank=request.param, world_size=WORLD, store=FakeStore())
    gc.collect()
    gc.freeze()  # what is there already is not looked at again: a search takes a millisecond
    yield Ranks(request.param, WORLD, request.param)
    gc.unfreeze()
    dist.destroy_process_group()


def made(first: bool) -> PreferenceModel:
    config = AutoConfig.for_model("llama", **SIZES, vocab_size=500, num_labels=3, pad_token_id=0)
    if first:
        network = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    else:
        network = empty_classifier("a base", config, "eager")
    return PreferenceModel(network, Attention("eager", "a test"))


def held() -> int:
    """Bytes of the tensors made since the test began."""
    gc.collect()
    return sum(storage.nbytes() for storage in storages().values())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1], indirect=True)
@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_a_rank_holds_its_parts_and_one_whole_group(rank, kind, monkeypatch):
    model = made(rank.first)
    whole = sum(4 * parameter.numel() for parameter in model.parameters())
    groups = hand_out.groups_of(model)
    largest = max(sum(4 * p.numel() for p in group.parameters()) for group in groups[:-1])
    peaks, handed = [], hand_out.fill

    def fill(module: nn.Module, ranks: Ranks) -> None:
        handed(module, ranks)
        peaks.append(held())

    monkeypatch.setattr(hand_out, "fill", fill)
    if kind == "fsdp":
        shard(model, rank, load_recipe("demo-llama2").fsdp, handed_out=True)
    else:
        start(rank)
        cut(model, rank, read_ds_config(ds_file("zero3"), TrainSettings(batch_size=4), WORLD))
    small = 0.02 * whole  # norms, buffers, padding
    assert len(peaks) == sum(1 for group in groups[-1:] for _ in group.modules())
    if rank.first:  # its host's memory and its device are one here
        assert max(peaks) < 1.2 * whole
    else:
        assert max(peaks) < whole / WORLD + largest + small < whole / 2
    assert held() == pytest.approx(whole / WORLD, rel=0.05)
    assert os.environ["LOCAL_RANK"] == str(rank.rank)


@pytest.mark.parametrize("rank", [1], indirect=True)
def test_a_base_that_rank_0_cannot_read_ends_every_rank_with_its_message(rank, monkeypatch):
    """Else the others would wait for it."""
    monkeypatch.setattr(hand_out, "build_model", lambda *args: made(first=False))
    monkeypatch.setattr(hand_out, "agree", lambda value: "model x: damaged")
    with pytest.raises(UserError, match="model x: damaged"):
        hand_out.build_for_engine(load_recipe("demo-llama2"), None, rank, torch.float32, handed_out=True)


def test_weights_that_are_loaded_are_those_of_the_next_forward_pass():
    """Also where a forward pass without a backward pass has left the gathered ones."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        model = made(first=True).eval()
        shard(model, Ranks(), FsdpSettings(reshard_after_forward=False), handed_out=True)
        engine = FSDPEngine(model, torch.optim.AdamW(model.parameters()), Ranks(), None)
        tokens = torch.arange(1, 9)
        with torch.no_grad():
            assert model(tokens, [8]).any()
            engine.load_weights({name: torch.zeros(p.shape) for name, p in engine.trainable().items()})
            assert not model(tokens, [8]).any()
    finally:
        dist.destroy_process_group()
