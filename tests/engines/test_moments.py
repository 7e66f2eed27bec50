"""Where an engine puts optimizer states that it loads: by a second type of device, and a stand-in for paged memory."""

import pytest
import torch
from torch import nn

from tiebreak.cluster.ranks import Ranks
from tiebreak.config import TrainSettings
from tiebreak.engines.base import Engine
from tiebreak.training.optimizer import build_optimizer


def engine_of(optimizer, device="cpu"):
    torch.manual_seed(0)
    model = nn.Module()
    model.dense = nn.Linear(
        400, 300, bias=False, device=device
    )  # of 100,000 weights and more bitsandbytes pages states
    return Engine(model, build_optimizer(model, TrainSettings(optimizer=optimizer, lr=1e-2)), Ranks(), None)


def step(engine):
    torch.manual_seed(1)
    engine.model.dense(torch.randn(7, 400)).square().mean().backward()
    engine.step(torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize(("optimizer", "step_on"), [("adamw", "cpu"), ("adamw-fused", "meta")])
def test_moments_lie_beside_the_weights_and_fused_counts_too(optimizer, step_on):
    """`meta` stands for the GPU: what is left on the host there, fused AdamW refuses."""
    engine = engine_of(optimizer, "meta")
    parameter = engine.model.dense.weight
    moment = torch.ones(300, 400)
    engine.set_moments(parameter, {"exp_avg": moment, "exp_avg_sq": moment, "step": torch.tensor(3.0)})
    state = engine.optimizer.state[parameter]
    assert state["exp_avg"].device.type == state["exp_avg_sq"].device.type == "meta"
    assert state["step"].device.type == step_on


@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_paged_states_are_paged_again_after_a_resume(monkeypatch):
    first = engine_of("paged-adamw-8bit")
    step(first)
    saved = {key: value.clone() for key, value in first.get_moments(first.model.dense.weight).items()}
    second = engine_of("paged-adamw-8bit")
    real = second.optimizer.get_state_buffer

    def paged(parameter, dtype):
        buffer = real(parameter, dtype)
        buffer.is_paged = True
        return buffer

    monkeypatch.setattr(second.optimizer, "get_state_buffer", paged)
    monkeypatch.setattr(second.optimizer, "prefetch_state", lambda parameter: None)
    second.load_weights({"dense.weight": first.model.dense.weight.detach().clone()})
    second.load_moments(lambda name: saved)
    state = second.optimizer.state[second.model.dense.weight]
    assert state["state1"].is_paged and state["state2"].is_paged
    assert torch.equal(state["state1"], saved["state1"]) and state["state1"].dtype == torch.uint8
    step(first)
    step(second)
    assert torch.equal(second.model.dense.weight, first.model.dense.weight)
