"""Installed packages against what the project supports.

The supported table is pyproject.toml: its bounds are what pip enforces at installation, so nothing else could
be as true. constraints.txt, the versions that are tested, only adds a note. Both are read from the checkout; an
installed wheel has the bounds in its metadata.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

from tiebreak.preflight.findings import FAIL, NOTE, Finding

ROOT = Path(__file__).parents[3]
NAMED = ("torch", "transformers", "peft", "bitsandbytes", "deepspeed", "datasets")
"""Those whose versions the table shows; all are checked."""
EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def requirements() -> list[str]:
    """Read the project's requirements, those of the extra `gpu` marked as in package metadata."""
    if sys.version_info >= (3, 11) and (ROOT / "pyproject.toml").is_file():
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == "tiebreak":
            gpu = [f"{each}; extra == 'gpu'" for each in project["optional-dependencies"]["gpu"]]
            return [*project["dependencies"], *gpu]
    try:
        return importlib.metadata.requires("tiebreak") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def pinned() -> dict[str, str]:
    """Read the versions of constraints.txt, where it is."""
    if not (path := ROOT / "constraints.txt").is_file():
        return {}
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), re.M))


def check_versions(device: str) -> Finding:
    """Check every requirement; the GPU extra's only where there is a GPU, and then a missing one is a note."""
    from packaging.requirements import Requirement

    if not (required := requirements()):
        return Finding("versions", "neither pyproject.toml nor the package's metadata is here: not checked", NOTE)
    pins, installed, faults, notes = pinned(), [], [], []
    for text in required:
        requirement = Requirement(text)
        extra = EXTRA.search(text)
        if extra and (extra[1] != "gpu" or device != "cuda"):
            continue
        name = requirement.name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if extra:
                notes.append(
                    f"{name} is not installed: attention is FlexAttention then, or packed-sdpa (docs/engines.md)"
                )
            else:
                faults.append(f"{name} is not installed, supported is {requirement.specifier}")
            continue
        base = version.partition("+")[0]  # a local build's mark says nothing about the release
        if not requirement.specifier.contains(base, prereleases=True):
            faults.append(f"{name} {version} is not supported ({requirement.specifier})")
        elif pins.get(name, base) != base and name in NAMED:
            notes.append(f"{name} is tested at {pins[name]}")
        if name in NAMED or extra:
            installed.append(f"{name} {version}")
    if faults:
        return Finding("versions", "; ".join([*faults, "`make install` installs what is tested"]), FAIL)
    return Finding("versions", "; ".join([", ".join(installed), *notes]), NOTE if notes else "ok")
