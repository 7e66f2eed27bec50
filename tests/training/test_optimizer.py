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
