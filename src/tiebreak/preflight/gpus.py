"""The nodes' GPUs, as the driver names them, and whether the torch that is installed has code for them."""

from collections import Counter
from collections.abc import Mapping

from tiebreak.cluster.machine import AMPERE, gpu_kinds, is_built_for, refuse_unusable_gpus, without_code
from tiebreak.errors import UserError
from tiebreak.preflight.findings import FAIL, NOTE, OK, Finding


def check_gpus() -> list[Finding]:
    """One row of this node's GPUs; none where there is no GPU that the process may use.

    Raises:
        UserError: torch cannot use them, or has no code for one of them.
    """
    if not (kinds := gpu_kinds()):
        return []
    import torch

    if not torch.cuda.is_available():
        refuse_unusable_gpus()
    architectures, notes = torch.cuda.get_arch_list(), []
    for name, shown, _ in sorted(set(kinds)):
        capability = _numbers(shown)
        if capability is None:
            continue
        if not is_built_for(capability, architectures):
            raise UserError(without_code(name, capability, architectures))
        if capability < AMPERE:
            notes.append(f"{name} has no bf16: it trains in fp32 and predicts in fp16")
    counted = Counter(kinds)
    listed = [f"{count} x {name} ({capability})" for (name, capability, _), count in counted.items()]
    if len(counted) > 1:
        notes.append("they differ, so the fastest wait for the slowest")
    text = f"{', '.join(listed)}, driver {kinds[0][2]}, torch {torch.__version__}"
    return [Finding("GPUs", "; ".join([text, *notes]), NOTE if notes else OK)]


def compare_gpus(rows: Mapping[str, str | None]) -> list[Finding]:
    """Compare the rows of `check_gpus` of all nodes, by the nodes' names; none for a node without a GPU.

    Ranks without a GPU would form another process group than the others, and different ones wait for the slowest.
    """
    if len(set(rows.values())) < 2:
        return []
    without = sorted(name for name, text in rows.items() if text is None)
    if without:
        there = next(f"{name} has {text}" for name, text in sorted(rows.items()) if text is not None)
        told = f"no GPU that a process may use on {', '.join(without[:8])}, while {there}"
        return [Finding("GPUs", f"{told}: leave those nodes out, or ask for GPUs on each", FAIL)]
    of: dict[str | None, list[str]] = {}
    for name, text in sorted(rows.items()):
        of.setdefault(text, []).append(name)
    listed = "; ".join(f"on {', '.join(names[:8])}: {text}" for text, names in of.items())
    return [Finding("GPUs", f"nodes differ, so the fastest wait for the slowest: {listed}", NOTE)]


def _numbers(capability: str) -> tuple[int, int] | None:
    """(9, 0) of `9.0`; None where an old driver does not say it."""
    major, _, minor = capability.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
