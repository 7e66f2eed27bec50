"""GPUs of a node, by a stand-in for the driver's tool and for torch's answers."""

from pathlib import Path

import pytest
import torch

from tiebreak.cluster import machine
from tiebreak.cluster.ranks import Ranks
from tiebreak.errors import UserError


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An nvidia-smi that prints these lines; torch sees no GPU."""
    machine.refuse_unusable_gpus.cache_clear()

    def driver(*lines: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield driver
    machine.refuse_unusable_gpus.cache_clear()


def test_gpus_that_torch_cannot_use_are_not_passed_over(driver):
    driver("NVIDIA H100 80GB HBM3, 535.104.05", "NVIDIA H100 80GB HBM3, 535.104.05")
    with pytest.raises(UserError) as refused:
        _ = Ranks(1, 2, 1).device
    for fact in ("2 GPUs", "H100", "535.104.05", torch.__version__, 'CUDA_VISIBLE_DEVICES=""'):
        assert fact in str(refused.value)


def test_the_cpu_is_taken_where_it_is_asked_for_or_all_there_is(driver, monkeypatch):
    driver()  # a tool without a card
    assert Ranks().device.type == "cpu"
    machine.refuse_unusable_gpus.cache_clear()
    driver("NVIDIA H100 80GB HBM3, 535.104.05")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Ranks().device.type == "cpu"
    assert machine.gpu_memory() == []


@pytest.mark.parametrize(("visible", "local_rank", "own"), [(8, 3, 3), (1, 3, 0), (1, 0, 0)])
def test_a_process_takes_its_own_gpu_or_the_only_one_it_sees(visible, local_rank, own, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert Ranks(local_rank, 8, local_rank).device == torch.device("cuda", own)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"2 GPUs here.*local rank 2"):
        _ = Ranks(2, 4, 2).device
