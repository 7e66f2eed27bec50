"""What this node has: GPUs and their memory, the host's memory, without torch."""

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.plurals import plural

AMPERE = (8, 0)
"""Compute capability from which a GPU has bf16 and runs fused attention kernels."""
NVIDIA_S = 20
NO_DEVICES = ("", "-1")
"""Values of CUDA_VISIBLE_DEVICES that hide all GPUs."""
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def gpu_memory() -> list[tuple[int, int]]:
    """(all, free) bytes of each GPU of this node that the process may use; empty without one."""
    try:
        return [(int(a) << 20, int(b) << 20) for a, b in _ask_driver("memory.total,memory.free")]
    except ValueError:
        return []


def gpu_kinds() -> list[tuple[str, str, str]]:
    """(name, compute capability, driver) of each GPU of this node that the process may use; empty without one."""
    return [(each[0], each[1], each[2]) for each in _ask_driver("name,compute_cap,driver_version") if len(each) == 3]


def _ask_driver(fields: str) -> list[list[str]]:
    """What nvidia-smi says of each GPU that the process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in NO_DEVICES:
        return []
    return _query(fields, *(() if visible is None else ("-i", visible)))  # others may be another job's


def _query(fields: str, *options: str) -> list[list[str]]:
    """What nvidia-smi says of each GPU; nothing where it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", *options]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(", ") for line in shown.stdout.splitlines()]


@cache
def refuse_unusable_gpus() -> None:
    """Refuse to compute on the CPU of a node whose GPUs torch cannot use; an empty CUDA_VISIBLE_DEVICES asks for that.

    Raises:
        UserError: the driver shows GPUs; to be called where `torch.cuda.is_available()` is false.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in NO_DEVICES:
        return
    if shown := _query("name,driver_version"):
        import torch

        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        name, driver = shown[0]
        raise UserError(
            f"this node has {plural(len(shown), 'GPU')} ({name}, driver {driver}) that torch cannot use: torch "
            f"{torch.__version__} {built}. Install a torch for this driver, or a newer driver (docs/engines.md); to "
            'compute on the CPU all the same: CUDA_VISIBLE_DEVICES=""'
        )


def is_built_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a torch has code that a GPU runs: of its own major version and no newer minor one, or older PTX.

    Args:
        capability: compute capability of the GPU, such as (8, 6).
        architectures: `torch.cuda.get_arch_list()`, such as sm_80 and compute_120 (PTX); one in `a` is for that alone.
    """
    for kind, _, digits in (each.partition("_") for each in architectures):
        number = int("".join(filter(str.isdigit, digits)) or 0)
        built = divmod(number, 10)
        if digits.endswith("a"):
            fits = built == capability
        else:
            fits = built <= capability and (kind == "compute" or built[0] == capability[0])
        if fits:
            return True
    return not any(each.startswith("sm_") for each in architectures)  # a torch without CUDA, or for other makers' GPUs


@cache
def refuse_unbuilt_gpu(index: int) -> None:
    """Refuse a GPU for which torch has no code: it would be told by the first kernel, after everything is loaded.

    Raises:
        UserError: as with a V100 under a torch for CUDA 13.
    """
    import torch

    if not (architectures := torch.cuda.get_arch_list()):
        return
    capability = torch.cuda.get_device_capability(index)
    if not is_built_for(capability, architectures):
        raise UserError(without_code(torch.cuda.get_device_name(index), capability, architectures))


def without_code(name: str, capability: tuple[int, int], architectures: Sequence[str]) -> str:
    """Say that torch has no code for a GPU, and what to install."""
    import torch

    return (
        f"torch {torch.__version__} has no code for a {name}, of compute capability {capability[0]}.{capability[1]}: "
        f"it has {' '.join(architectures)}. Install the same torch for another CUDA version; 12.6 has 5.0 to 9.0 "
        "(docs/gpu.md)"
    )


def own_gpu(local_rank: int, visible: int) -> int:
    """Which of the GPUs that a process sees is its own.

    Args:
        local_rank: of the process on its node.
        visible: how many GPUs it sees; one means that the launcher or Slurm has bound one to each process.

    Raises:
        UserError: several, but not one for each process.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise UserError(
            f"there are {plural(visible, 'GPU')} here for more processes than that: this one has local rank "
            f"{local_rank}. Start as many on each node as it has GPUs (--nproc-per-node, --ntasks-per-node)"
        )
    return local_rank


def host_memory() -> int:
    """Bytes that a job may still take on this node: what is free, within Slurm's and the cgroup's limit."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    limits = [int(lines["MemAvailable"].split()[0]) << 10]
    if slurm := os.environ.get("SLURM_MEM_PER_NODE"):
        limits.append(int(slurm) << 20)
    for path in map(Path, CGROUPS):
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)
