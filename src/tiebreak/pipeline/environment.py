"""`tiebreak env`: versions and hardware, for bug reports. Imports none of the packages that it lists."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from tiebreak.cluster.machine import host_memory
from tiebreak.config import cache_folder
from tiebreak.process import is_secret

PACKAGES = (
    *("tiebreak", "torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes", "flash-attn", "datasets"),
    *("numpy", "scikit-learn"),
)
SMI = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
TIMEOUT_S = 20


def describe_environment() -> str:
    """One fact a line; what cannot be found out is said to be unknown, and nothing raises."""
    facts = {"python": f"{platform.python_version()}, {platform.platform()}"}
    facts |= {name: _version(name) for name in PACKAGES}
    facts["cpu"] = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {_memory()}"
    facts["gpu"] = "; ".join(_gpus()) or "none seen by nvidia-smi"
    facts["slurm"] = _slurm()
    facts["cache"] = str(cache_folder())
    variables = sorted(name for name in os.environ if name.startswith(("TIEBREAK_", "HF_HUB_OFFLINE", "CUDA_VISIBLE")))
    facts["variables"] = ", ".join(f"{name}={_shown(name)}" for name in variables) or "none"
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:{width}}{fact}" for name, fact in facts.items())


def _shown(name: str) -> str:
    """A variable's value; not that of one whose name tells a secret."""
    return "(set)" if is_secret(name) else os.environ[name]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> str:
    try:
        return f"{host_memory() / 2**30:.1f} GiB of memory free"
    except (OSError, KeyError, ValueError):
        return "memory unknown"


def _gpus() -> list[str]:
    try:
        shown = subprocess.run(SMI, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in shown.splitlines() if line.strip()]


def _slurm() -> str:
    if job := os.environ.get("SLURM_JOB_ID"):
        return f"job {job} on {os.environ.get('SLURM_JOB_NODELIST', 'unknown nodes')}"
    folders = map(Path, os.environ.get("PATH", "").split(os.pathsep))
    return "installed, outside a job" if any((folder / "sbatch").is_file() for folder in folders) else "not installed"
