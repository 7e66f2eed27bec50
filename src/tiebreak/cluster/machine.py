"""What this node has: GPUs and their memory, the host's memory, without torch."""

import os
import subprocess
from functools import cache
from pathlib import Path

from tiebreak.errors import UserError
from tiebreak.plurals import plural

NVIDIA_S = 20
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def gpu_memory() -> list[tuple[int, int]]:
    """(all, free) bytes of each GPU of this node that the process may use; empty without one."""
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    if visible is not None:  # others may be another job's
        command += ["-i", visible]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_S, check=True)
        return [(int(a) << 20, int(b) << 20) for a, b in (line.split(",") for line in shown.stdout.splitlines())]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


@cache
def refuse_unusable_gpus() -> None:
    """Refuse to compute on the CPU of a node whose GPUs torch cannot use; an empty CUDA_VISIBLE_DEVICES asks for that.

    Raises:
        UserError: the driver shows GPUs; to be called where `torch.cuda.is_available()` is false.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return
    if shown := done.stdout.strip().splitlines():
        import torch

        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        name, _, driver = shown[0].partition(", ")
        raise UserError(
            f"this node has {plural(len(shown), 'GPU')} ({name}, driver {driver}) that torch cannot use: torch "
            f"{torch.__version__} {built}. Install a torch for this driver, or a newer driver (docs/engines.md); to "
            'compute on the CPU all the same: CUDA_VISIBLE_DEVICES=""'
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
