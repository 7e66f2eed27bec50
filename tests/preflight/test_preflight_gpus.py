"""The preflight's row of a node's GPUs, by stand-ins for the driver and for torch's answers."""

import pytest
import torch

from tiebreak.cluster import machine
from tiebreak.errors import UserError
from tiebreak.preflight import gpus

CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
H100, A100, T4, V100 = (
    ("NVIDIA H100 80GB HBM3", "9.0", "580.65.06"),
    ("NVIDIA A100-SXM4-80GB", "8.0", "580.65.06"),
    ("Tesla T4", "7.5", "580.65.06"),
    ("Tesla V100-SXM2-16GB", "7.0", "580.65.06"),
)


def check(monkeypatch, *kinds, usable=True):
    monkeypatch.setattr(gpus, "gpu_kinds", lambda: list(kinds))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CU130)
    return gpus.check_gpus()


def test_gpus_that_torch_can_use(monkeypatch):
    (found,) = check(monkeypatch, *[H100] * 8)
    assert found.verdict == "ok" and "8 x NVIDIA H100 80GB HBM3 (9.0), driver 580.65.06" in found.text


def test_without_a_gpu_there_is_no_row(monkeypatch):
    assert check(monkeypatch) == []


def test_a_v100_under_cuda_13_is_refused_with_the_build_to_take(monkeypatch):
    with pytest.raises(UserError, match=r"V100-SXM2-16GB.*7\.0.*12\.6"):
        check(monkeypatch, V100)


def test_a_t4_and_a_mixture_are_notes(monkeypatch):
    (found,) = check(monkeypatch, T4, T4)
    assert found.verdict == "note" and "no bf16" in found.text
    (found,) = check(monkeypatch, H100, A100)
    assert found.verdict == "note" and "differ" in found.text


def test_an_old_driver_is_a_failure(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 535.104.05'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.refuse_unusable_gpus.cache_clear()
    with pytest.raises(UserError, match=r"535\.104\.05"):
        check(monkeypatch, H100, usable=False)
    machine.refuse_unusable_gpus.cache_clear()


def test_a_driver_that_does_not_say_the_capability_is_not_judged(monkeypatch):
    (found,) = check(monkeypatch, ("NVIDIA H100", "[N/A]", "470.1"))
    assert found.verdict == "ok"


def test_nodes_are_compared():
    h100, a100 = "8 x NVIDIA H100 80GB HBM3 (9.0)", "8 x NVIDIA A100-SXM4-80GB (8.0)"
    assert gpus.compare_gpus({"n1": h100, "n2": h100}) == gpus.compare_gpus({"n1": None, "n2": None}) == []
    (found,) = gpus.compare_gpus({"n1": h100, "n2": None, "n3": None})
    assert found.failed and "no GPU that a process may use on n2, n3, while n1 has 8 x NVIDIA H100" in found.text
    (found,) = gpus.compare_gpus({"n1": h100, "n2": a100, "n3": h100})
    assert found.verdict == "note" and f"on n1, n3: {h100}; on n2: {a100}" in found.text
