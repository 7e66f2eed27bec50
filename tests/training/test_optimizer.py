"""The groups of AdamW and the schedule of the learning rate."""

import itertools

import pytest
import torch
from torch import nn

from tiebreak.config import TrainSettings
from tiebreak.training.optimizer import build_optimizer, lr_factor


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
        self.score = nn.Linear(3, 3)


def test_norms_and_biases_do_not_decay_and_the_head_has_its_own_rate():
    model = Small()
    optimizer = build_optimizer(model, TrainSettings(lr=1e-3, head_lr=1e-2, weight_decay=0.1))
    settings = {id(p): (g["peak"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert settings == {
        id(model.dense.weight): (1e-3, 0.1),
        id(model.dense.bias): (1e-3, 0.0),
        id(model.norm.weight): (1e-3, 0.0),
        id(model.norm.bias): (1e-3, 0.0),
        id(model.score.weight): (1e-2, 0.1),
        id(model.score.bias): (1e-2, 0.0),
    }


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedule_climbs_to_the_peak_and_falls_to_zero(schedule):
    factors = [lr_factor(step, 100, 0.1, schedule) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[55] == pytest.approx(0.5)


def test_without_warmup_the_first_step_is_at_the_peak():
    assert lr_factor(0, 10, 0.0, "linear") == 1.0


def test_each_layers_rate_is_a_share_of_that_above():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Linear(2, 2, bias=False)
            self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(3))
            self.score = nn.Linear(2, 2, bias=False)

    model = nn.Module()
    model.backbone = Deep()
    optimizer = build_optimizer(model, TrainSettings(lr=1.0, head_lr=5.0, layer_decay=0.5))
    peaks = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    deep = model.backbone
    assert [peaks[id(layer.weight)] for layer in deep.layers] == [0.25, 0.5, 1.0]
    assert peaks[id(deep.embedding.weight)] == 0.125
    assert peaks[id(deep.score.weight)] == 5.0


def test_a_constant_schedule_stays_at_the_peak_after_the_warmup():
    assert [lr_factor(step, 10, 0.2, "constant") for step in range(10)] == [0.5] + [1.0] * 9


@pytest.mark.parametrize("name", ["adamw-fused", "adamw-8bit", "paged-adamw-8bit"])
def test_other_optimizers_follow_adamw(name):
    """Ten steps; 8-bit states are exact to a percent of a step, of which there are ten of 1e-2 each."""
    torch.manual_seed(0)
    ends = []
    for kind in ("adamw", name):
        weight = nn.Parameter(torch.linspace(-1, 1, 128 * 64).reshape(128, 64))  # below 4,096 states stay 32-bit
        model = nn.Module()
        model.dense = weight
        optimizer = build_optimizer(model, TrainSettings(lr=1e-2, weight_decay=0.0, optimizer=kind))
        for _ in range(10):
            (weight - 0.3).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(weight.detach().clone())
    difference = float((ends[0] - ends[1]).abs().max())
    assert difference < (1e-6 if name == "adamw-fused" else 5e-3)
    assert float((ends[1] - torch.linspace(-1, 1, 128 * 64).reshape(128, 64)).abs().max()) > 0.05
