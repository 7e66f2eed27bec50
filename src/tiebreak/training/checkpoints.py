"""Checkpoints that name everything by parameter: they load at any world size and under any engine.

A checkpoint is a folder `step-00000123` with the trained weights, the optimizer's state, the loop's
cursor, and a manifest of hashes written last. It appears by a rename, so it is whole or absent.
Dropout's random numbers need no state: they are seeded anew from (seed, step, rank) at every step.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tiebreak.engines.base import Engine
from tiebreak.files import sha256, write_json

WEIGHTS, OPTIMIZER, CURSOR, MANIFEST = "weights.safetensors", "optimizer.safetensors", "cursor.json", "manifest.json"


@dataclass
class Cursor:
    """Where a run stands: steps done, the best evaluation, and evaluations since it."""

    step: int = 0
    best_step: int | None = None
    best_loss: float = float("inf")
    without_gain: int = 0
    evaluated: dict[str, dict] = field(default_factory=dict)


def save_checkpoint(folder: Path, engine: Engine, cursor: Cursor, keep: int) -> None:
    """Write `folder/step-N` for the cursor's step, then drop all but the newest `keep` and the best.

    Every rank must call this; rank 0 writes.
    """
    weights, optimizer = engine.weights(), engine.optimizer_state()
    final = folder / f"step-{cursor.step:08d}"
    if not engine.ranks.first or final.exists():
        return
    temporary = folder / f".tmp-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, temporary / WEIGHTS)
    flat = {f"{name}|{key}": tensor.cpu() for name, state in optimizer.items() for key, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in flat.items()}, temporary / OPTIMIZER)
    write_json(temporary / CURSOR, asdict(cursor))
    write_json(temporary / MANIFEST, {name: sha256(temporary / name) for name in (WEIGHTS, OPTIMIZER, CURSOR)})
    temporary.rename(final)
    kept = {f"step-{cursor.best_step:08d}"} if cursor.best_step is not None else set()
    kept |= {path.name for path in sorted(folder.glob("step-*"))[-keep:]}
    for path in folder.glob("step-*"):
        if path.name not in kept:
            shutil.rmtree(path.rename(folder / f".tmp-{path.name}"))  # never a checkpoint with half its files


def find_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a sentence for each newer one that was passed over."""
    passed: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        fault = _fault(path)
        if fault is None:
            return path, passed
        passed.append(f"{path.name} was passed over: {fault}")
    return None, passed


def load_cursor(path: Path) -> Cursor:
    return Cursor(**json.loads((path / CURSOR).read_text(encoding="utf-8")))


def load_weights(path: Path, engine: Engine) -> None:
    engine.load_weights(load_file(path / WEIGHTS, device=str(engine.ranks.device)))


def load_optimizer(path: Path, engine: Engine) -> None:
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(path / OPTIMIZER).items():
        name, _, moment = key.rpartition("|")
        state.setdefault(name, {})[moment] = tensor
    engine.load_optimizer_state(state)


def _fault(path: Path) -> str | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, digest in manifest.items() if sha256(path / name) != digest]
    except (OSError, ValueError) as error:
        return f"unreadable ({error})"
    return f"{', '.join(wrong)} differs from its manifest" if wrong else None
