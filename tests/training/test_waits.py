"""What a GPU would wait for in a training step: operations whose result the host must see, counted on the CPU."""

from collections import Counter

import fake_flash
import fake_flex
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from training_runs import set_

from tiebreak.attention import backends, deberta, flash, flex
from tiebreak.cli import main
from tiebreak.training import loop

pytestmark = pytest.mark.slow

WAITING = (
    *("nonzero", "_local_scalar_dense", "is_nonzero", "equal", "masked_select", "unique", "repeat_interleave.Tensor"),
)
COPIED = ("lift_fresh",)
"""What makes a tensor of a number of the host: a copy that is waited for."""


def uncounted(function):
    """What is on the host on a GPU too."""

    def run(*args, **kwargs):
        with _disable_current_modes():
            return function(*args, **kwargs)

    return run


class Waits(TorchDispatchMode):
    """Count what would make the host wait, by name. On a CPU `tolist` and `numpy` read memory, unseen here."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        masked = name.startswith(("index.", "index_put", "_index_put")) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or name.startswith(WAITING) or name.startswith(COPIED):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def test_the_count_sees_what_waits():
    with Waits() as waits:
        values = torch.arange(6.0)
        values[values > 2] = 1.0
        assert values[values > 0].sum().item() and float(values[0]) == 0 and torch.tensor(3.0).numel()
    assert waits.seen == {
        **{"index_put_.default": 1, "index.Tensor": 1, "_local_scalar_dense.default": 2, "lift_fresh.default": 2}
    }


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *(("demo-gemma2", "packed-sdpa"), ("demo-llama2", "packed-sdpa"), ("demo-deberta", "packed-deberta")),
        *(("demo-gemma2", "flash"), ("demo-llama2", "flash"), ("demo-gemma2", "flex")),
    ],
)
def test_a_step_waits_once(name, backend, sample, tmp_path, monkeypatch, capsys):
    """Whatever its layers and micro-batches: when totals and gradient norm are looked at together, after the last."""
    monkeypatch.setattr(flash, "find_flash", lambda: (fake_flash.varlen, "the stand-in"))
    monkeypatch.setattr(flex, "compiled", lambda: uncounted(fake_flex.flex_attention))
    if backend in ("flash", "flex"):
        monkeypatch.setattr(backends, "why_neither", lambda *about: None)
        monkeypatch.setattr(backends, "why_no_flash", lambda *about: "absent" if backend == "flex" else None)
        monkeypatch.setattr(backends, "why_no_flex", lambda *about: None)
    counted, looked = [], []
    train_step, tolist = loop.train_step, torch.Tensor.tolist

    def counting(job, step, index):
        assert job.engine.model.attention.backend == backend
        assert len(step.micro_batches[0]) >= 2
        with monkeypatch.context() as patch, Waits() as waits:
            patch.setattr(torch.Tensor, "tolist", lambda tensor: looked.append(tensor.shape) or tolist(tensor))
            patch.setattr(torch, "from_numpy", uncounted(torch.from_numpy))
            patch.setattr(deberta, "distance_slots", uncounted(deberta.distance_slots))
            patch.setattr(job.engine.optimizer, "step", uncounted(job.engine.optimizer.step))  # its counts of steps
            stop = train_step(job, step, index)
        counted.append(dict(waits.seen))
        return stop

    monkeypatch.setattr(loop, "train_step", counting)
    changes = ["train.max_steps=1", "train.tokens_per_micro_batch=600", "data.max_tokens=128", "train.batch_size=16"]
    arguments = [*set_(*changes, "train.precision=bf16"), "--valid", "none", "--out", str(tmp_path / "run")]
    assert main(["train", "--recipe", name, "--data", str(sample), *arguments]) == 0
    assert counted == [{}]
    assert looked == [(len(loop.StepTotals._fields) + 1,)]
