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


CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "built"),
    [
        ((7, 0), CU130, False),  # V100
        *(((7, 5), CU130, True), ((8, 9), CU130, True), ((9, 0), CU130, True), ((12, 0), CU130, True)),
        ((7, 0), ["sm_50", "sm_60", "sm_70", "sm_90"], True),
        ((8, 0), ["sm_86"], False),  # newer minor version
        ((13, 0), CU130, False),
        ((13, 0), [*CU130, "compute_120"], True),  # PTX is compiled for what comes later
        ((9, 0), ["sm_90a"], True),
        ((12, 0), ["sm_100a"], False),
        ((9, 0), [], True),
        ((9, 0), ["gfx90a"], True),
    ],
)
def test_whether_torch_has_code_for_a_gpu(capability, architectures, built):
    assert machine.is_built_for(capability, architectures) is built


def test_a_gpu_for_which_torch_has_no_code_is_told_before_anything_is_loaded(monkeypatch):
    machine.refuse_unbuilt_gpu.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CU130)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100-SXM2-16GB")
    with pytest.raises(UserError, match=r"no code for a Tesla V100-SXM2-16GB, of compute capability 7\.0.* 12\.6 has"):
        _ = Ranks().device
    machine.refuse_unbuilt_gpu.cache_clear()


ASKS = """#!/bin/sh
case "$*" in *" -i "*) test "${*##* -i }" = "$WANTED" || exit 6 ;; esac
case "$*" in
  *compute_cap*) echo "Tesla T4, 7.5, 580.65.06" ;;
  *memory*) echo "15360, 15000" ;;
esac
"""


@pytest.mark.parametrize("visible", ["0", "GPU-3f2a1b", "MIG-77aa", "1,3"])
def test_the_driver_is_asked_for_the_gpus_that_the_process_may_use(visible, tmp_path, monkeypatch):
    """By number, by UUID, or a part of one; others may be another job's."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(ASKS)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("WANTED", visible)
    assert machine.gpu_kinds() == [("Tesla T4", "7.5", "580.65.06")]
    assert machine.gpu_memory() == [(15360 << 20, 15000 << 20)]
    monkeypatch.setenv("WANTED", "another")
    assert machine.gpu_kinds() == machine.gpu_memory() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpu_kinds() == machine.gpu_memory() == []
