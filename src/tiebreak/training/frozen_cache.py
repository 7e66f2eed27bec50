"""The frozen bottom's states of every row, computed once and kept beside the token cache for all epochs and recipes.

An entry is named by a hash of all that its states depend on: the frozen weights, the configuration, the attention, the
precision and the tokens. Rows are computed in blocks that follow from the table alone, so that an entry does not depend
on who made it. Every rank writes a file of its own, and reads all.
"""

import hashlib
import json
import logging
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from tiebreak.cluster.transfer import to_device
from tiebreak.config import Recipe
from tiebreak.data.plan import blocks
from tiebreak.data.split import Split
from tiebreak.data.tokens import Tokens
from tiebreak.engines.base import Engine
from tiebreak.errors import UserError
from tiebreak.files import TEMPORARY
from tiebreak.manifests import Manifest, read_manifest, write_manifest
from tiebreak.models.frozen import frozen_states, open_gate
from tiebreak.models.preference import PreferenceModel
from tiebreak.plurals import plural
from tiebreak.storage import cache_folder, make_folder

log = logging.getLogger(__name__)

MANIFEST = "frozen.json"
FORMAT = 1
BLOCK_TOKENS = 8_192
"""Most tokens of a block: fixed, as states of one row differ in the last digit between blocks."""
LITTER_S = 2 * 86_400
"""Age of what a killed run left half-written."""
HALF = {"bfloat16": torch.bfloat16}
"""Types that numpy does not have, kept as whole numbers of as many bits."""


class FrozenManifest(Manifest):
    """What an entry holds."""

    parts: int
    """Files that the blocks are dealt to in turn."""
    width: int
    dtype: str
    """Of the states, in torch's words."""
    orders: int
    """2 where rows are kept in both orders."""
    bytes: int


class FrozenStates:
    """States of all rows of a table, in mapped files.

    Args:
        folder: of the entry.
        tokens: the table.
        units: states of each row (n,): its tokens, or its texts under a frozen backbone.
    """

    def __init__(self, folder: Path, tokens: Tokens, units: np.ndarray) -> None:
        self.manifest = read_manifest(folder / MANIFEST, FrozenManifest)
        self.sides, self.units = tokens.sides, units
        self.dtype = HALF.get(self.manifest.dtype)
        stored = np.int16 if self.dtype else np.dtype(self.manifest.dtype)
        shape = (-1, self.manifest.width)
        files = [folder / f"{part}.bin" for part in range(self.manifest.parts)]
        self.maps = [  # of more ranks than blocks some wrote nothing, which cannot be mapped
            (np.memmap(file, stored, "r") if file.stat().st_size else np.empty(0, stored)).reshape(shape)
            for file in files
        ]
        self.part, self.start = lay_out(tokens.lengths, units, self.manifest.orders, self.manifest.parts)

    def of(self, rows: np.ndarray, swapped: np.ndarray, lengths: list[int]) -> torch.Tensor:
        """States of rows (n,) in the given orders (n,), one after another, as `frozen.frozen_states` gives them.

        Args:
            rows: of the table.
            swapped: whether each is seen as B, A.
            lengths: of their texts, as they are seen.
        """
        texts = 2 if self.sides else 1
        found = []
        for place, (row, swap) in enumerate(zip(rows.tolist(), swapped.tolist(), strict=True)):
            order = int(swap) if self.manifest.orders == 2 else 0
            start = self.start[order, row]
            states = self.maps[self.part[order, row]][start : start + self.units[row]]
            if swap and self.sides:  # the same two texts in the other order
                second = 1 if self.units[row] == texts else lengths[texts * place + 1]
                states = np.concatenate([states[second:], states[:second]])
            found.append(states)
        states = torch.from_numpy(np.concatenate(found))
        return states.view(self.dtype) if self.dtype else states


def lay_out(lengths: np.ndarray, units: np.ndarray, orders: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the states of each row lie: in which part, and from which state on, (orders, n) each.

    Args:
        lengths: tokens of each row (n,).
        units: states of each row (n,).
        orders: 1 or 2.
        parts: files.
    """
    part, start = np.zeros((orders, len(lengths)), np.int32), np.zeros((orders, len(lengths)), np.int64)
    filled = [0] * parts
    for number, (order, rows) in enumerate(work(lengths, orders)):
        mine = number % parts
        ends = np.cumsum(units[rows])
        part[order, rows], start[order, rows] = mine, filled[mine] + ends - units[rows]
        filled[mine] += int(ends[-1])
    return part, start


def work(lengths: np.ndarray, orders: int) -> list[tuple[int, np.ndarray]]:
    """The blocks: whether their rows are swapped, and which rows they are."""
    return [(order, rows) for rows in blocks(lengths, BLOCK_TOKENS) for order in range(orders)]


def keep_frozen(engine: Engine, recipe: Recipe, split: Split) -> tuple[FrozenStates | None, FrozenStates | None]:
    """States of a run's training table and of its validation table, computed where they are not kept yet.

    Every rank must call this. None of both where the recipe asks for no cache; the same where it is one table.

    Raises:
        UserError: more bytes than `train.frozen_cache_gb`, no room on the disk, or a base that cannot do it.
    """
    if not recipe.train.frozen_cache_gb:
        return None, None
    open_gate(engine.model, recipe.model.freeze)
    # Both sides of a siamese row are texts of their own, which the swap leaves as they are.
    orders = 2 if recipe.data.swap != "never" and not split.tokens.sides else 1
    trained = _keep(engine, split.tokens, orders, recipe.train.frozen_cache_gb)
    if split.valid is split.tokens or not len(split.held_out):
        return trained, trained
    return trained, _keep(engine, split.valid, 1, recipe.train.frozen_cache_gb)


def _keep(engine: Engine, tokens: Tokens, orders: int, limit_gb: float) -> FrozenStates:
    """The states of one table, found or made."""
    judge, ranks = engine.model, engine.ranks
    assert judge.frozen is not None
    depth = judge.frozen.depth
    units = tokens.lengths.astype(np.int64) if depth else np.full(len(tokens), 2 if tokens.sides else 1)
    folder = cache_folder() / "frozen" / entry_name(judge, tokens, orders)
    bottom = f"the lowest {plural(depth, 'layer')}" if depth else "the backbone"
    what = f"frozen: {bottom}, {plural(len(tokens), 'row')}{' in both orders' if orders == 2 else ''}"
    if not engine.gather((folder / MANIFEST).is_file())[0]:
        one = _states(judge, tokens, 0, np.array([int(tokens.lengths.argmin())]), ranks.device)
        size = int(units.sum()) * orders * one.shape[1] * one.element_size()
        _refuse_larger(size, limit_gb, folder)
        started = time.monotonic()
        _make(engine, folder, tokens, orders, size)
        log.info(f"{what}: {size / 1e9:.2f} GB in {folder}, made in {time.monotonic() - started:.0f} s")
    else:
        log.info(f"{what}: kept in {folder}")
    return FrozenStates(folder, tokens, units)


def _refuse_larger(size: int, limit_gb: float, folder: Path) -> None:
    if size > limit_gb * 1e9:
        raise UserError(
            f"train.frozen_cache_gb is {limit_gb:g}, and the states of the frozen layers take {size / 1e9:.2f} GB: "
            "raise it, lower data.max_tokens, or set it to 0"
        )
    make_folder(folder.parent)
    if (free := shutil.disk_usage(folder.parent).free) < size:
        raise UserError(
            f"{folder.parent}: {free / 1e9:.2f} GB are free, and the states of the frozen layers take {size / 1e9:.2f} "
            "GB: make room, set TIEBREAK_CACHE to another disk, or set train.frozen_cache_gb=0"
        )


def _make(engine: Engine, folder: Path, tokens: Tokens, orders: int, size: int) -> None:
    """Compute an entry by all ranks together; it appears whole."""
    judge, ranks = engine.model, engine.ranks
    for litter in folder.parent.glob(f"{TEMPORARY}*") if ranks.first else ():  # of a run that was killed
        if time.time() - litter.stat().st_mtime > LITTER_S:
            shutil.rmtree(litter, ignore_errors=True)
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{engine.gather(f'{time.time_ns():x}')[0]}")
    make_folder(temporary)
    was_training, kind = judge.training, ""
    judge.eval()
    try:
        with open(temporary / f"{ranks.rank}.bin", "wb") as file:
            for number, (order, rows) in enumerate(work(tokens.lengths, orders)):
                if number % ranks.world == ranks.rank:
                    states = _states(judge, tokens, order, rows, ranks.device)
                    kind = str(states.dtype).removeprefix("torch.")
                    width = states.shape[1]
                    file.write((states.view(torch.int16) if kind in HALF else states).cpu().numpy().tobytes())
        told = engine.gather((kind, width) if kind else None)
        if ranks.first:
            files = [temporary / f"{rank}.bin" for rank in range(ranks.world)]
            if sum(file.stat().st_size for file in files if file.is_file()) != size:
                raise UserError(
                    f"{folder.parent}: not every rank's file is here: TIEBREAK_CACHE must be a shared folder"
                )
            kind, width = next(found for found in told if found)
            manifest = FrozenManifest(parts=ranks.world, width=width, dtype=kind, orders=orders, bytes=size)
            write_manifest(temporary / MANIFEST, manifest)
            if not (folder / MANIFEST).is_file():
                temporary.rename(folder)
    finally:
        judge.train(was_training)
        if ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
    engine.gather(None)  # a barrier: the others read it next


def _states(judge: PreferenceModel, tokens: Tokens, order: int, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    texts = [text for row in rows.tolist() for text in tokens.input_ids(row, bool(order))]
    ids = to_device(np.concatenate(texts).astype(np.int64), device)
    return frozen_states(judge, ids, [len(text) for text in texts])


def entry_name(judge: PreferenceModel, tokens: Tokens, orders: int) -> str:
    """A hash of all that the states of a table depend on."""
    assert judge.frozen is not None
    config = {name: value for name, value in judge.classifier.config.to_dict().items() if "dropout" not in name}
    config = {name: value for name, value in config.items() if name not in ("_name_or_path", "architectures", "dtype")}
    depth, pooling = judge.frozen.depth, None if judge.frozen.depth else judge.pooling
    rules: list[object] = [FORMAT, BLOCK_TOKENS, depth, pooling, judge.attention.backend, str(judge.autocast), orders]
    rules += [tokens.sides, torch.__version__, transformers.__version__, config]
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode())
    for name, parameter in judge.network.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(str(next(judge.parameters()).device.type).encode())
    digest.update(tokens.lengths.tobytes())
    for row in range(len(tokens)):
        for text in tokens.input_ids(row):
            digest.update(text.tobytes())
    return digest.hexdigest()[:24]
