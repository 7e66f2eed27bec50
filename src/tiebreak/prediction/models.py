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
    hash_ids,
    hash_rows,
    write_prediction_manifest,
)
from tiebreak.data.prepare import cache_key, prepare
from tiebreak.data.templates import Template
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import Baselines
from tiebreak.models.bases import record_base
from tiebreak.models.folder import read_prompts
from tiebreak.models.loading import choose_precision, find_model_type
from tiebreak.models.switching import LoadedModels
from tiebreak.models.tokenizer import check_judge_template, load_saved_tokenizer
from tiebreak.plurals import plural
from tiebreak.prediction.compute import onnx_forward, predict_blocks, run_blocks
from tiebreak.prediction.degenerate import describe_source, find_degenerate
from tiebreak.prediction.parts import (
    Part,
    RowKeys,
    cut_into_parts,
    ids_are_whole,
    row_keys_are_whole,
    write_ids,
    write_row_keys,
)
from tiebreak.prediction.queue import PartQueue
from tiebreak.prediction.request import OpenedModel, PredictionRequest, Runtime, finished_in, refuse, truncation_of
from tiebreak.prediction.swap import SwapPolicy
from tiebreak.sample.generator import sample_file
from tiebreak.storage import make_folder
from tiebreak.tables.rows import Problem
from tiebreak.tables.table import OnBadRow, refuse_unreadable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FEW_SEEN = 0.01
"""Of the rows: where fewer have a prompt that was trained on, no score moves by much, and it is a note."""


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
        runtime: that computes its logits.
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
    runtime: Runtime = "torch"

    @property
    def parts(self) -> Path:
        """The folder of parts."""
        return self.out / self.manifest.parts

    def queue(self, loaded: LoadedModels, swap: SwapPolicy) -> PartQueue:
        """Return its parts to compute; the model is loaded at the first."""

        def compute(some: Sequence[np.ndarray]) -> Part:
            if self.runtime == "onnx":
                return run_blocks(onnx_forward(self.folder, self.tokens), self.tokens.lengths, some, swap)
            model = loaded.get(self.folder, self.recipe, self.precision)
            return predict_blocks(model, self.tokens, some, swap)

        lease_s = self.recipe.predict.lease_s
        return PartQueue(self.parts, self.manifest.provenance, self.blocks, self.tokens.lengths, compute, lease_s)

    def open(self) -> None:
        """Make the folder of parts with the rows' ids and keys, unless they are there, and write the manifest."""
        make_folder(self.parts)
        if not ids_are_whole(self.parts, self.manifest.ids):
            write_ids(self.parts, self.tokens)
        keys = RowKeys(self.tokens.groups, self.tokens.chars, self.trained)
        if not row_keys_are_whole(self.parts, keys):
            write_row_keys(self.parts, keys)
        write_prediction_manifest(self.out, self.manifest)


def prepare_models(
    request: PredictionRequest, opened: Sequence[OpenedModel], outputs: dict[str, list[float]] | None, ranks: Ranks
) -> list[ModelPrediction]:
    """Tokenise the models' rows.

    Args:
        request: what is to be predicted.
        opened: its models.
        outputs: probabilities of degenerate rows by kind, if they are to have their own.
        ranks: this process among the job's.

    Raises:
        UserError: models that would predict different rows, or a folder that holds another finished prediction.
    """
    files: dict[str, list[Path]] = {}
    models = []
    for one in opened:
        recipe, stored, name = one.recipe, one.stored, one.name
        model_type = find_model_type(str(one.folder) if recipe.model.method == "full" else recipe.model.base)
        for warning in check_compatibility(Setting.of(recipe, model_type, ranks.device.type, predicting=True)):
            log.info(warning)
        paths, template = _files(request.data, recipe, files), stored.text_template(recipe)
        precision = choose_precision(recipe.train.precision, ranks.device, predicting=True)
        tokenizer = load_saved_tokenizer(one.folder)
        own = template == stored.text_template(stored.make_recipe())
        check_judge_template(tokenizer, template, recipe.model.template, own)
        base = _unknown_base(one)
        _refuse_other_contents(
            request, one, cache_key(paths, tokenizer, template, recipe.data, *_rules(request)), precision, base
        )
        tokens = read_tokens(request, paths, tokenizer, template, recipe)
        trained = read_prompts(one.folder)
        if trained is not None and (seen := int(np.isin(tokens.groups, trained).sum())):
            which = f"model {name}" if name else "the model"
            word = "warning" if seen > FEW_SEEN * len(tokens) else "note"
            log.info(f"{word}: {which} was trained on the prompts of {seen:,} of these {plural(len(tokens), 'row')}")
        blocks = cut_blocks(tokens.lengths, recipe.predict.tokens_per_block)
        manifest = make_manifest(tokens, blocks, recipe, request.swap, str(precision), one.fingerprint, base)
        manifest = manifest.model_copy(
            update={
                "tables": [path.name for path in paths],
                "fold": request.fold_text,
                "model": str(one.folder),
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
            ModelPrediction(
                name, one.folder, out, recipe, baselines, precision, tokens, blocks, trained, manifest, request.runtime
            )
        )
    if len({model.manifest.table for model in models}) > 1:
        raise UserError(
            "--model: the models would predict different rows: give --data, and with --fold models of one "
            "data.folds_seed"
        )
    return models


def _unknown_base(model: OpenedModel) -> str | None:
    """The hash of a base put in the place of a judge's own that keeps none: its parts are of their own then."""
    stored, base = model.stored, model.recipe.model.base
    if model.recipe.model.method == "full" or stored.base is not None or base == stored.recipe["model"]["base"]:
        return None
    found = record_base(base)
    return None if found is None else found.sha256


def _refuse_other_contents(
    request: PredictionRequest, model: OpenedModel, key: str, precision: torch.dtype, base: str | None
) -> None:
    """Refuse the folder of a finished prediction of other tokens, before there are any."""
    found = finished_in(request.out / model.name)
    if isinstance(found, PredictionManifest) and found.blocks:  # early predictions did not count them
        asked = _settings(key, model.recipe, found.blocks, request.swap, str(precision), base)
        if asked != found.provenance.settings:
            refuse(request.out / model.name, found, "a table with other contents, or other settings or precision")


def _files(data: Sequence[Path], recipe: Recipe, logged: dict[str, list[Path]]) -> list[Path]:
    """Return the tables to predict; log each set of them once."""
    files = list(data) or [sample_file(recipe.data)]
    line = f"data: {', '.join(map(str, files))}{'' if data else ' (the embedded sample; no --data was given)'}"
    if line not in logged:
        log.info(line)
    return logged.setdefault(line, files)


def read_tokens(
    request: PredictionRequest,
    files: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase",
    template: Template,
    recipe: Recipe,
) -> Tokens:
    """Tokenise the rows to predict: all of the tables, or those of a fold, the tables read as training reads them."""
    on_bad_row, need_labels, keep_ids = _rules(request)
    tokens = prepare(
        files,
        tokenizer,
        template,
        recipe.data,
        on_bad_row=on_bad_row,
        need_labels=need_labels,
        keep_ids=keep_ids,
    )
    if request.fold is None:
        if request.on_bad_row != "keep":
            refuse_unreadable([Problem(**row) for row in tokens.problems], len(tokens))
        return tokens
    fold, folds = request.fold
    if left_out := len(tokens.problems):
        log.info(f"{plural(left_out, 'bad row')} left out, in no fold")
    assigned = assign_folds(tokens.labels, tokens.groups, folds, recipe.data.folds_seed)
    return tokens.select(np.flatnonzero(assigned == fold))


def _rules(request: PredictionRequest) -> tuple[OnBadRow, bool, bool]:
    """How tables are read: `on_bad_row`, `need_labels` and `keep_ids`; of a fold, as training reads them."""
    return ("keep", False, True) if request.fold is None else (request.on_bad_row, True, False)


def make_manifest(
    tokens: Tokens,
    blocks: list[np.ndarray],
    recipe: Recipe,
    swap: SwapPolicy,
    precision: str,
    fingerprint: str,
    base: str | None = None,
) -> PredictionManifest:
    """Describe rows and parts, whose folder is named by all that they depend on; what is of the model is added."""
    ids = hash_ids(tokens.iter_ids())
    table = hash_rows(ids, tokens.groups, tokens.chars)
    settings = _settings(tokens.key, recipe, len(blocks), swap, precision, base)
    provenance = Provenance(model=fingerprint, table=table, settings=settings)
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
        truncation=truncation_of(recipe.data),
        model="",
        class_shares=[1 / 3, 1 / 3, 1 / 3],
        base=recipe.model.base,
        recipe=recipe.name,
        recipe_hash="",
    )


def _settings(key: str, recipe: Recipe, blocks: int, swap: SwapPolicy, precision: str, base: str | None) -> str:
    settings = [key, recipe.predict.tokens_per_block, blocks, swap.enabled, swap.margin, precision]
    settings += ["merged"] if recipe.predict.merge_adapters and recipe.model.method != "full" else []
    return _hash(settings if base is None else [*settings, base])


def unreadable_reasons(tokens: Tokens, unreadable: list[int]) -> dict[int, str]:
    """Return why rows could not be read, by row."""
    if not unreadable:
        return {}
    reasons = {p["id"]: f"{p['file']}, row {p['row']}: {p['reason']}" for p in tokens.problems}
    ids = tokens.ids
    return {row: reasons[ids[row]] for row in unreadable}


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
