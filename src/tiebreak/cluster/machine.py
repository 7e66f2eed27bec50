"""What this node has: GPUs and their memory, the host's memory, without torch."""

import os
import subprocess
from pathlib import Path

NVIDIA_S = 20
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def gpu_memory() -> list[tuple[int, int]]:
    """(all, free) bytes of each GPU of this node that the process may use; empty without one."""
    command = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):  # others may be another job's
        command += ["-i", visible]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_S, check=True)
        return [(int(a) << 20, int(b) << 20) for a, b in (line.split(",") for line in shown.stdout.splitlines())]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


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
