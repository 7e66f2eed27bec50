"""The models of a prediction: each with its rows' tokens, its folder, and what its parts depend on."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from tiebreak.cluster.ranks import Ranks
from tiebreak.compatibility import Setting, check_compatibility
from tiebreak.config import Recipe
from tiebreak.data.folds import assign_folds
from tiebreak.data.plan import blocks as cut_blocks
from tiebreak.data.prediction_manifest import (
    VERSION,
    DegenerateRows,
    PredictionManifest,
    Provenance,
    write_prediction_manifest,
)
from tiebreak.data.prepare import prepare
from tiebreak.data.table import OnBadRow
from tiebreak.data.templates import Template
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import Baselines
from tiebreak.models.folder import find_model_folder, fingerprint, load_saved_tokenizer, read_prompts
from tiebreak.models.loading import choose_precision, find_model_type
from tiebreak.models.switching import LoadedModels
from tiebreak.prediction.compute import SwapPolicy, predict_blocks
from tiebreak.prediction.degenerate import Degenerate, degenerate_outputs, describe_source, find_degenerate
from tiebreak.prediction.parts import (
    KEYS_FILE,
    Part,
    RowKeys,
    cut_into_parts,
    digest_ids,
    ids_are_whole,
    write_ids,
    write_row_keys,
)
from tiebreak.prediction.queue import PartQueue
from tiebreak.sample.generator import sample_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionRequest:
    """The arguments of `predict`, of which `models`, `data` and `out` are whole lists and paths."""

    models: Sequence[Path]
    data: Sequence[Path]
    out: Path
    fold: tuple[int, int] | None
    swap: SwapPolicy
    degenerate: Degenerate | None
    changes: Sequence[str]
    on_bad_row: OnBadRow


@dataclass(frozen=True)
class ModelPrediction:
    """One model and the prediction that it makes.

    Attributes:
        name: of the folder of its prediction, among several models; empty for one alone.
        folder: of the model. out: of its prediction.
        recipe: of its training, with the changes asked for.
        baselines: of its training rows.
        precision: of its forward passes.
        tokens: the rows. blocks: rows of each forward pass.
        trained: prompt hashes that it was trained on; None where there is no record.
        manifest: of its prediction.
    """

    name: str
    folder: Path
    out: Path
    recipe: Recipe
    baselines: Baselines
    precision: torch.dtype
    tokens: Tokens
    blocks: list[np.ndarray]
    trained: np.ndarray | None
    manifest: PredictionManifest

    @property
    def parts(self) -> Path:
        """The folder of parts."""
        return self.out / self.manifest.parts

    def queue(self, loaded: LoadedModels, swap: SwapPolicy) -> PartQueue:
        """Return its parts to compute; the model is loaded at the first."""

        def compute(some: Sequence[np.ndarray]) -> Part:
            model = loaded.get(self.folder, self.recipe, self.precision)
            return predict_blocks(model, self.tokens, some, swap)

        lease_s = self.recipe.predict.lease_s
        return PartQueue(self.parts, self.manifest.provenance, self.blocks, self.tokens.lengths, compute, lease_s)

    def open(self) -> None:
        """Make the folder of parts with the rows' ids and keys, unless they are there, and write the manifest."""
        self.parts.mkdir(parents=True, exist_ok=True)
        if not ids_are_whole(self.parts, self.manifest.ids):
            write_ids(self.parts, self.tokens)
        if not (self.parts / KEYS_FILE).is_file():
            write_row_keys(self.parts, RowKeys(self.tokens.groups, self.tokens.chars, self.trained))
        write_prediction_manifest(self.out, self.manifest)


def prepare_models(request: PredictionRequest, ranks: Ranks) -> list[ModelPrediction]:
    """Find the models and tokenise their rows.

    Raises:
        UserError: a folder without a judge, the same model twice, or models that would predict different rows.
    """
    opened = [find_model_folder(folder) for folder in request.models]
    prints = [fingerprint(folder) for folder, _ in opened]
    for i, one in enumerate(prints):
        if (first := prints.index(one)) < i:
            raise UserError(f"--model: {opened[first][0]} and {opened[i][0]} are the same model; give it once")
    outputs = None if request.degenerate is None else degenerate_outputs(request.degenerate)
    names = name_models([folder for folder, _ in opened])
    files: dict[str, list[Path]] = {}
    models = []
    for (folder, stored), name, model_print in zip(opened, names, prints, strict=True):
        recipe = stored.make_recipe(request.changes)
        for warning in check_compatibility(Setting.of(recipe, find_model_type(recipe.model.base), ranks.device.type)):
            log.info(warning)
        paths, template = _files(request.data, recipe, files), stored.text_template(recipe)
        tokens = read_tokens(request, paths, load_saved_tokenizer(folder), template, recipe)
        trained = read_prompts(folder)
        if trained is not None and (seen := int(np.isin(tokens.groups, trained).sum())):
            which = f"model {name}" if name else "the model"
            log.info(f"warning: {which} was trained on the prompts of {seen:,} of these {len(tokens):,} rows")
        precision = choose_precision(recipe.train.precision, ranks.device)
        blocks = cut_blocks(tokens.lengths, recipe.predict.tokens_per_block)
        manifest = make_manifest(tokens, blocks, recipe, request.swap, str(precision), model_print)
        manifest = manifest.model_copy(
            update={
                "fold": None if request.fold is None else "{}/{}".format(*request.fold),
                "model": str(folder),
                "class_shares": stored.baselines["prior"],
                "in_sample": list(stored.in_sample),
                "recipe": stored.recipe["name"],
                "recipe_hash": _hash(stored.recipe),
            }
        )
        if request.degenerate is not None and outputs is not None:
            source = describe_source(request.degenerate)
            manifest.degenerate = DegenerateRows(source=source, rows=find_degenerate(tokens), outputs=outputs)
        out, baselines = request.out / name, cast(Baselines, stored.baselines)
        models.append(
            ModelPrediction(name, folder, out, recipe, baselines, precision, tokens, blocks, trained, manifest)
        )
    if len({model.manifest.table for model in models}) > 1:
        raise UserError("--model: the models would predict different rows, as their folds' seeds differ")
    return models


def _files(data: Sequence[Path], recipe: Recipe, logged: dict[str, list[Path]]) -> list[Path]:
    """Return the tables to predict; log each set of them once."""
    files = list(data) or [sample_file(recipe.data)]
    line = f"data: {', '.join(map(str, files))}{'' if data else ' (the embedded sample; no --data was given)'}"
    if line not in logged:
        log.info(line)
    return logged.setdefault(line, files)


def name_models(folders: Sequence[Path]) -> list[str]:
    """Return distinct short names: of the run folders, with folders above where needed; empty for one alone."""
    if len(folders) == 1:
        return [""]
    runs = [folder.parent if folder.name == "model" else folder for folder in (f.resolve() for f in folders)]
    for depth in range(1, max(len(run.parts) for run in runs)):
        names = ["-".join(part for part in run.parts[-depth:] if part != "/") for run in runs]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"--model: {', '.join(map(str, folders))} are not different folders")


def read_tokens(
    request: PredictionRequest,
    files: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    recipe: Recipe,
) -> Tokens:
    """Tokenise the rows to predict: all of the tables, or those of a fold, the tables read as training reads them."""
    common = (files, tokenizer, template, recipe.data)
    if request.fold is None:
        return prepare(*common, on_bad_row="keep", keep_ids=True)
    fold, folds = request.fold
    tokens = prepare(*common, on_bad_row=request.on_bad_row, need_labels=True)
    if left_out := len(tokens.problems):
        log.info(f"{left_out} bad rows are in no fold and were left out")
    assigned = assign_folds(tokens.labels, tokens.groups, folds, recipe.data.folds_seed)
    return tokens.select(np.flatnonzero(assigned == fold))


def make_manifest(
    tokens: Tokens, blocks: list[np.ndarray], recipe: Recipe, swap: SwapPolicy, precision: str, fingerprint: str
) -> PredictionManifest:
    """Describe rows and parts, whose folder is named by all that they depend on; what is of the model is added."""
    ids = digest_ids(tokens)
    table = hashlib.sha256(ids.encode())
    for column in (tokens.groups, tokens.chars):
        table.update(np.ascontiguousarray(column).data)
    depends = [tokens.key, recipe.predict.tokens_per_block, len(blocks), swap.enabled, swap.margin, precision]
    provenance = Provenance(model=fingerprint, table=table.hexdigest(), settings=_hash(depends))
    unreadable = np.flatnonzero(tokens.unreadable).tolist()
    return PredictionManifest(
        version=VERSION,
        parts=f"parts-{_hash(provenance.model_dump())[:12]}",
        part_count=len(cut_into_parts(len(blocks))),
        blocks=len(blocks),
        rows=len(tokens),
        swap=swap.enabled,
        adaptive=swap.margin,
        provenance=provenance,
        ids=ids,
        fingerprint=fingerprint,
        unreadable=unreadable,
        reasons=unreadable_reasons(tokens, unreadable),
        truncation=recipe.data.model_dump(include={"max_tokens", "truncation", "prompt_cap"}),
        model="",
        class_shares=[1 / 3, 1 / 3, 1 / 3],
        base=recipe.model.base,
        recipe=recipe.name,
        recipe_hash="",
    )


def unreadable_reasons(tokens: Tokens, unreadable: list[int]) -> dict[int, str]:
    """Return why rows could not be read, by row."""
    if not unreadable:
        return {}
    reasons = {p["id"]: f"{p['file']}, row {p['row']}: {p['reason']}" for p in tokens.problems}
    ids = tokens.ids
    return {row: reasons[ids[row]] for row in unreadable}


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
