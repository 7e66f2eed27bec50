"""Room for the run: memory on each GPU (or of the host), and disk and inodes for what it writes."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from tiebreak.cluster.machine import gpu_memory, host_memory
from tiebreak.config import Recipe
from tiebreak.errors import UserError
from tiebreak.preflight.findings import FAIL, NOTE, OK, Finding
from tiebreak.preflight.memory import ERROR, GIB, Estimate
from tiebreak.preflight.recompute import Fit, fits
from tiebreak.storage import cache_folder

SMALL_FILES = 20 * 2**20
"""Bytes of tokenizer, log, plots and the like in a run folder."""
OTHER_INODES = 60


def check_memory(
    needs: Estimate | None,
    recipe: Recipe,
    per_node: int,
    given_gib: float | None,
    fit_into: Callable[[float], Fit] | None = None,
) -> Finding:
    """Compare the estimate with what each GPU has free, or each rank's share of the host's memory.

    Args:
        needs: of a rank; None where it is not known.
        recipe: of the training.
        per_node: ranks on each node.
        given_gib: a GPU's memory, where the GPUs are elsewhere.
        fit_into: how the run would lay itself into so many GiB of a GPU (tiebreak.preflight.recompute).
    """
    if needs is None:
        return Finding("memory", f"not estimated: the sizes of {recipe.model.base} are not known here", NOTE)
    if needs.device == "cuda" and not given_gib and not (gpus := gpu_memory()):
        text = f"needs {_parts(needs)}; no GPU here to compare with (--gpu-gib says what one has)"
        return Finding("memory", text, NOTE)
    told = ""
    if needs.device == "cpu":
        share = f" for each of {per_node} ranks" if per_node > 1 else ""
        there, where = host_memory() / GIB / per_node, f"of the host's memory{share}"
    else:
        if given_gib:
            there, where = given_gib, "on a GPU"
        else:
            there, where = min(free for _, free in gpus) / GIB, f"free on a GPU of {gpus[0][0] / GIB:.0f}"
        if fit_into is not None:
            fitted = fit_into(there)
            needs, told = fitted.needs or needs, fitted.told
    text = f"needs {_parts(needs)} ±{ERROR:.0%}; {there:.1f} GiB {where}{told}"
    if needs.gib * (1 - ERROR) > there:
        text += ": too little memory: " + "; ".join(_advice(recipe, needs))
        return Finding("memory", text, FAIL)
    if needs.device == "cuda" and not given_gib and (free := host_memory()) < needs.reading:
        return Finding("memory", f"{text}; this host has {_gib(free)} GiB: too little memory: ask for more", FAIL)
    if needs.host and (host := host_memory() / per_node) < needs.host:
        text += f"; {_gib(needs.host)} GiB a rank go to the host, which has {_gib(host)} for each: too little memory"
        text += ": ask for more, or start fewer ranks on a node"
        return Finding("memory", text, FAIL)
    return Finding("memory", text, OK if fits(needs, there) else NOTE)


def _parts(needs: Estimate) -> str:
    """The estimate and what it is made of."""
    text = f"{needs.gib:.1f} GiB a rank (weights {_gib(needs.weights)}, gradients {_gib(needs.gradients)}, "
    text += f"optimizer {_gib(needs.states)}, buffers {_gib(needs.buffers)}, activations {_gib(needs.activations)}"
    text += f" {'with' if needs.flash else 'without'} flash-attn)" if needs.device == "cuda" else ")"
    if needs.loading > needs.running:
        text += f"; {_gib(needs.loading)} GiB before that, while it is loaded"
    if needs.reading and needs.device == "cuda":
        text += f"; rank 0 first reads {_gib(needs.reading)} GiB into its host's memory"
    return text


def _advice(recipe: Recipe, needs: Estimate) -> list[str]:
    """List what lowers the largest parts."""
    ways = []
    if needs.activations > 0.3 * needs.gib * GIB:
        ways.append(f"lower train.tokens_per_micro_batch ({recipe.train.tokens_per_micro_batch})")
        if recipe.train.gradient_checkpointing is False:
            ways.append("train.gradient_checkpointing=true")
    if recipe.model.method == "full":
        ways.append("model.method=lora or qlora, or cut more (--ds ds_configs/zero3.json, --engine fsdp, more ranks)")
    elif recipe.model.method == "lora":
        ways.append("model.method=qlora")
    return ways or ["a smaller base, or GPUs with more memory"]


def bytes_written(trained: int, recipe: Recipe) -> int:
    """Most bytes of a run folder at any time: `keep` checkpoints, the best and the one being written, and the model.

    A checkpoint holds the trained weights and the optimizer's state; of the model an old and a new folder may stand
    beside each other.
    """
    state = 2 if recipe.train.optimizer.endswith("8bit") else 8
    return trained * (4 + state) * (recipe.train.keep + 2) + 2 * (4 * trained) + SMALL_FILES


def check_disk(out: Path, needs: Estimate | None, recipe: Recipe, world: int) -> Finding:
    """Check bytes and inodes free where the run folder is or will be, beside older checkpoints. Quotas are not seen."""
    place = _nearest(out)
    if fault := _refuses(place):
        return Finding("disk", f"{place}: not writable ({fault}), so {out} cannot be made: choose another --out", FAIL)
    stats = os.statvfs(place)
    free, inodes = stats.f_bavail * stats.f_frsize, stats.f_favail
    free += sum(path.stat().st_size for path in out.glob("*/*/*") if path.is_file())  # older checkpoints make way
    files = (2 * world + 3) * (recipe.train.keep + 2) + OTHER_INODES
    if stats.f_files and inodes < files:
        return Finding("disk", f"{place}: {inodes:,} inodes free, {files:,} needed: too few: remove small files", FAIL)
    need = SMALL_FILES if needs is None else bytes_written(int(needs.trained / 4), recipe)
    text = f"{place}: {free / GIB:,.1f} GiB free, {need / GIB:,.2f} needed"
    text += (
        f" for {recipe.train.keep + 2} checkpoints and the model"
        if needs
        else " beside the model, whose size is not known"
    )
    if free < need:
        return Finding("disk", f"{text}: too little disk: make room, choose another --out, or lower train.keep", FAIL)
    return Finding("disk", text, OK if needs else NOTE)


def check_cache() -> list[Finding]:
    """Write and remove a file where tokens and demo models are kept: on many nodes the home folder is read-only.

    Returns:
        What is wrong with the folder: a failure where it is absent and cannot be made, a note where it is there.
    """
    try:
        cache = cache_folder()
    except UserError as error:
        return [Finding("cache", str(error), FAIL)]
    if not (fault := _refuses(_nearest(cache))):
        return []
    advice = "set TIEBREAK_CACHE to a folder that is, the same on all nodes"
    if cache.is_dir():
        return [
            Finding("cache", f"{cache}: not writable ({fault}): enough if all is prepared there; else {advice}", NOTE)
        ]
    return [Finding("cache", f"{cache}: not writable ({fault}): {advice}", FAIL)]


def _nearest(path: Path) -> Path:
    """The first folder at or above a path that is there."""
    return next(above for above in (path.absolute(), *path.absolute().parents) if above.exists())


def _refuses(folder: Path) -> str | None:
    """Why no file can be written into a folder; None where one can, which is removed again."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
