"""Checkpoints that name everything by parameter: they load at any world size and under any engine.

A checkpoint is a folder `step-00000123` with the trained weights and the optimizer's state in safetensors,
the loop's cursor, and a manifest of hashes written last. It appears by a rename, so it is whole or absent.
An engine whose ranks hold a part each gathers one parameter at a time, and each rank writes its share of them:
the state is never in one place, and still every file holds full tensors by name.
Dropout's random numbers need no state: they are seeded anew from (seed, step, rank) at every step.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tiebreak.engines.base import Engine, Moments
from tiebreak.errors import UserError
from tiebreak.files import TEMPORARY, flush, sha256, sweep, write_json
from tiebreak.storage import make_folder
from tiebreak.training.claim import Claim

WEIGHTS, OPTIMIZER = "weights", "optimizer"
CURSOR, MANIFEST = "cursor.json", "manifest.json"
POLL_S = 0.05


@dataclass
class Cursor:
    """Where a run stands: steps done, the best evaluation, and evaluations since it."""

    step: int = 0
    best_step: int | None = None
    best_loss: float = float("inf")
    without_gain: int = 0
    evaluated: dict[str, dict[str, float]] = field(default_factory=dict)


class Saver:
    """Writes checkpoints in a thread of its own while training goes on; one at a time.

    Args:
        keep: newest checkpoints kept, beside the best.
        claim: this run's on the folder, checked before anything becomes visible.
        timeout_s: after which a rank that has not written its share is given up on.
    """

    def __init__(self, folder: Path, engine: Engine, keep: int, claim: Claim, timeout_s: float) -> None:
        self.folder, self.engine, self.keep = folder, engine, keep
        self._claim, self._timeout_s = claim, timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, cursor: Cursor) -> None:
        """Copy what is saved to the host's memory and hand it to the thread; every rank must call this."""
        self.wait()
        final = folder_of(self.folder, cursor.step)
        if self.engine.gather(final.exists())[0]:
            return
        ranks = self.engine.ranks
        writers = ranks.world if self.engine.sharded else 1
        weights: dict[str, torch.Tensor] = {}
        moments: dict[str, torch.Tensor] = {}
        for i, (name, parameter) in enumerate(self.engine.trainable().items()):
            weight, state = self.engine.get_weight(parameter), self.engine.get_moments(parameter)
            if i % writers == ranks.rank:
                weights[name] = _copied(weight)
                moments |= {f"{name}|{key}": _copied(value) for key, value in state.items()}
        if ranks.rank < writers:
            arguments = (final, asdict(cursor), ranks.rank, writers, {WEIGHTS: weights, OPTIMIZER: moments})
            self._pending = self._thread.submit(self._write, *arguments)

    def wait(self) -> None:
        """Wait until the checkpoint under way is on disk.

        Raises:
            UserError: it could not be written, or another run has taken the folder over.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, SafetensorError) as error:
            self._claim.check()  # a later run sweeps what this one has begun to write
            sweep(self.folder)
            raise UserError(
                f"{self.folder}: the checkpoint could not be written ({error}); "
                "make room or make the folder writable, and run the same command again"
            ) from error

    def _write(
        self, final: Path, cursor: dict[str, Any], rank: int, writers: int, parts: dict[str, dict[str, torch.Tensor]]
    ) -> None:
        temporary = final.with_name(f"{TEMPORARY}{final.name}-{self._claim.token}")
        make_folder(temporary)
        hashes = {}
        for kind, tensors in parts.items():
            path = temporary / f"{kind}-{rank:05d}-of-{writers:05d}.safetensors"
            save_file(tensors, path)
            flush(path)
            hashes[path.name] = sha256(path)
        write_json(temporary / f"hashes-{rank:05d}.json", hashes)
        if rank > 0:
            return
        write_json(temporary / CURSOR, cursor)
        manifest = {CURSOR: sha256(temporary / CURSOR)}
        deadline = time.monotonic() + self._timeout_s
        for other in range(writers):
            part = temporary / f"hashes-{other:05d}.json"
            while not part.is_file():
                if time.monotonic() > deadline:
                    raise OSError(f"rank {other} has not written its share: is the folder shared by all nodes?")
                time.sleep(POLL_S)
            manifest |= json.loads(part.read_text(encoding="utf-8"))
            part.unlink()
        write_json(temporary / MANIFEST, manifest)
        try:
            self._claim.check()
        except UserError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        temporary.rename(final)
        self._drop_old(cursor["best_step"])

    def _drop_old(self, best: int | None) -> None:
        kept = {folder_of(self.folder, best)} if best is not None else set()
        kept |= set(sorted(self.folder.glob("step-*"))[-self.keep :])
        for path in self.folder.glob("step-*"):
            if path not in kept:
                shutil.rmtree(path.rename(path.with_name(f"{TEMPORARY}{path.name}")))  # never one with half its files


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return checkpoints / f"step-{step:08d}"


def find_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint whose best one is whole too, and a sentence for each newer one passed over.

    Where no best one is left, that of the newest whole checkpoint is forgotten: the best of what follows is taken.
    """
    passed: list[str] = []
    without_best: Path | None = None
    for path in sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True):
        fault = _fault(path)
        best = None if fault else load_cursor(path).best_step
        if fault is None and (best is None or (other := folder_of(folder, best)) == path or _fault(other) is None):
            return path, passed
        if fault is None:
            without_best = without_best or path
            fault = f"its best checkpoint, step {best}, is damaged or gone"
        passed.append(f"{path.name} was passed over: {fault}")
    if without_best is None:
        return None, passed
    return without_best, [f"{without_best.name}: the best checkpoint before it is damaged or gone, and forgotten"]


def set_aside(folder: Path, chosen: Path | None) -> None:
    """Move checkpoints newer than the chosen one out of the way of their replacements, as `damaged-...`."""
    for path in folder.glob("step-*"):
        if chosen is None or path.name > chosen.name:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load_cursor(path: Path) -> Cursor:
    """Read where the run stood at a checkpoint.

    Raises:
        ValueError: it cannot be read, or is of another step.
    """
    cursor = TypeAdapter(Cursor).validate_python(json.loads((path / CURSOR).read_text(encoding="utf-8")))
    if folder_of(path.parent, cursor.step) != path:
        raise ValueError(f"{CURSOR} is of step {cursor.step}")
    return cursor


def load_weights(path: Path, engine: Engine) -> None:
    """Set the engine's trained weights; every rank must call this.

    Raises:
        UserError: a checkpoint of another model.
    """
    with _opened(path, WEIGHTS) as weights:
        names = engine.trainable().keys()
        if names != set(weights):
            odd = sorted(names ^ set(weights))[:3]
            raise UserError(f"{path} is a checkpoint of another model (it differs in {', '.join(odd)}): move it away")
        engine.load_weights(weights)


def load_optimizer(path: Path, engine: Engine) -> None:
    """Set the engine's optimizer state; every rank must call this."""
    with _opened(path, OPTIMIZER) as stored:
        keys: dict[str, list[str]] = {}
        for key in stored:
            keys.setdefault(key.rpartition("|")[0], []).append(key)

        def moments(name: str) -> Moments:
            return {key.rpartition("|")[2]: stored[key] for key in keys.get(name, [])}

        engine.load_moments(moments)


class _Stored(Mapping[str, torch.Tensor]):
    """Tensors of several safetensors files, read one by one."""

    def __init__(self, files: list[safe_open]) -> None:
        self._of = {key: file for file in files for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor: torch.Tensor = self._of[key].get_tensor(key)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[_Stored]:
    with ExitStack() as stack:
        files = sorted(path.glob(f"{kind}-*.safetensors"))
        yield _Stored([stack.enter_context(safe_open(file, framework="pt")) for file in files])


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """Copy to the host, apart from what training goes on to change."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _fault(path: Path) -> str | None:
    """Say why a checkpoint cannot be used; None if it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not {CURSOR, WEIGHTS, OPTIMIZER} <= {
            name if name == CURSOR else name.partition("-")[0] for name in manifest
        }:
            return f"{MANIFEST} does not name its files"
        wrong = [name for name, digest in manifest.items() if sha256(path / name) != digest]
        if not wrong:
            load_cursor(path)
    except (OSError, ValueError, RecursionError) as error:
        return f"unreadable ({' '.join(str(error).split())[:200]})"
    return f"{', '.join(wrong)} differs from its manifest" if wrong else None
