"""The models of a prediction: each with its rows' tokens, its folder, and what its parts depend on."""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiebreak.cluster.ranks import Ranks
from tiebreak.compatibility import Setting, check_compatibility
from tiebreak.config import Recipe, make_recipe
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.data.plan import blocks
from tiebreak.data.prepare import prepare
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import Baselines
from tiebreak.files import sha256, write_json
from tiebreak.models.loading import (
    choose_precision,
    find_model_folder,
    find_model_type,
    fingerprint,
    load_saved_tokenizer,
)
from tiebreak.models.switching import LoadedModels
from tiebreak.models.trained import read_prompts
from tiebreak.prediction.compute import SwapPolicy, predict_blocks
from tiebreak.prediction.merge import PLAN
from tiebreak.prediction.parts import IDS_FILE, ROWS_FILE, cut_into_parts, digest_ids, write_ids, write_rows
from tiebreak.prediction.special import find_special, read_special
from tiebreak.prediction.work import Job

Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelPrediction:
    """One model and the prediction that it makes.

    Attributes:
        name: of its folder among several models; empty for one alone. folder: of the model. out: of its prediction.
        cut: rows of each block. trained: prompt groups it was trained on, if known. plan: what prediction.json says.
    """

    name: str
    folder: Path
    out: Path
    recipe: Recipe
    baselines: Baselines
    precision: torch.dtype
    tokens: Tokens
    cut: list[np.ndarray]
    trained: np.ndarray | None
    plan: dict[str, Any]

    @property
    def parts(self) -> Path:
        return self.out / self.plan["parts"]

    def job(self, judges: LoadedModels, swap: SwapPolicy, say: Say) -> Job:
        """Its parts to compute; the model is loaded at the first."""

        def compute(some: Sequence[np.ndarray]):
            judge = judges.get(self.folder, self.recipe, self.precision)
            return predict_blocks(judge, self.tokens, some, swap, say)

        lease_s = self.recipe.predict.lease_s
        return Job(self.parts, self.plan["seal"], self.cut, self.tokens.lengths, compute, lease_s)

    def open(self) -> None:
        """Make the folder of its parts, with what is known of its rows, unless they are there."""
        self.parts.mkdir(parents=True, exist_ok=True)
        ids = self.parts / IDS_FILE
        if not ids.is_file() or sha256(ids) != self.plan["ids"]:
            write_ids(self.parts, self.tokens)
        if not (self.parts / ROWS_FILE).is_file():
            write_rows(self.parts, self.tokens.groups, self.tokens.chars, self.trained)
        write_json(self.out / PLAN, self.plan)


def find_members(
    options: argparse.Namespace, ranks: Ranks, swap: SwapPolicy, data: Callable, say: Say
) -> list[ModelPrediction]:
    """The models of the command line, each with its rows.

    Args:
        data: a model's recipe -> the files to predict.

    Raises:
        UserError: a folder without a judge, or the same model twice.
    """
    out = Path(options.out)
    found = [find_model_folder(Path(folder)) for folder in options.model]
    prints = [fingerprint(folder) for folder, _ in found]
    for k, one in enumerate(prints):
        if (first := prints.index(one)) < k:
            raise UserError(f"--model: {found[first][0]} and {found[k][0]} are the same model; give it once")
    special = None if options.special is None else read_special(options.special)
    names = name_models([folder for folder, _ in found])
    members = []
    for (folder, stored), name, print_ in zip(found, names, prints, strict=True):
        recipe = make_recipe(stored["recipe"], options.set)
        setting = Setting.of(recipe, find_model_type(recipe.model.base), ranks.device.type)
        for warning in check_compatibility(setting):
            say(warning)
        tokens = read_rows(options, data(recipe), load_saved_tokenizer(folder), recipe, say)
        trained = read_prompts(folder)
        called = f"model {name}" if name else "the model"
        if trained is not None and (seen := int(np.isin(tokens.groups, trained).sum())):
            say(f"warning: {called} was trained on the prompts of {seen:,} of these {len(tokens):,} rows")
        precision = choose_precision(recipe.train.precision, ranks.device)
        cut = blocks(tokens.lengths, recipe.predict.tokens_per_block)
        plan = make_plan(tokens, cut, recipe, swap, str(precision), print_)
        plan |= {"fold": options.fold, "model": str(folder), "class_shares": stored["baselines"]["prior"]}
        plan |= {"base": recipe.model.base, "in_sample": stored["in_sample"]}
        plan["special"] = special and {"from": options.special, "rows": find_special(tokens), "outputs": special}
        plan |= {"recipe": stored["recipe"]["name"], "recipe_hash": _hash(stored["recipe"])}
        member = ModelPrediction(
            name, folder, out / name, recipe, stored["baselines"], precision, tokens, cut, trained, plan
        )
        members.append(member)
    if len({member.plan["seal"]["table"] for member in members}) > 1:
        raise UserError("--model: the models would predict different rows, as their folds' seeds differ")
    return members


def name_models(folders: Sequence[Path]) -> list[str]:
    """Short names that tell model folders apart: of the run, with folders above where needed; empty for one alone."""
    if len(folders) == 1:
        return [""]
    runs = [folder.parent if folder.name == "model" else folder for folder in (f.resolve() for f in folders)]
    for depth in range(1, max(len(run.parts) for run in runs)):
        names = ["-".join(part for part in run.parts[-depth:] if part != "/") for run in runs]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"--model: {', '.join(map(str, folders))} are not different folders")


def read_rows(options: argparse.Namespace, files: list[Path], tokenizer, recipe: Recipe, say: Say) -> Tokens:
    """The rows to predict: every one of the tables, or those of a fold, the tables read as training reads them."""
    common = (files, tokenizer, recipe.model.template, recipe.data)
    if options.fold is None:
        return prepare(*common, "keep", keep_ids=True, say=say)
    fold, folds = parse_fold(options.fold)
    tokens = prepare(*common, options.on_bad_row, need_labels=True, say=say)
    if left_out := len(tokens.problems):
        say(f"{left_out} bad rows are in no fold and were left out")
    return tokens.select(
        np.flatnonzero(assign_folds(tokens.labels, tokens.groups, folds, recipe.data.folds_seed) == fold)
    )


def make_plan(
    tokens: Tokens, cut: list[np.ndarray], recipe: Recipe, swap: SwapPolicy, precision: str, fingerprint: str
) -> dict[str, Any]:
    """What prediction.json says of rows and parts, whose folder is named by all that they depend on."""
    ids = digest_ids(tokens)
    table = hashlib.sha256(ids.encode())
    for column in (tokens.groups, tokens.chars):
        table.update(np.ascontiguousarray(column).data)
    depends = [tokens.folder.name, recipe.predict.tokens_per_block, len(cut), swap.asked, swap.margin, precision]
    seal = {"model": fingerprint, "table": table.hexdigest(), "settings": _hash(depends)}
    unreadable = np.flatnonzero(tokens.unreadable).tolist()
    return {
        "parts": f"parts-{_hash(seal)[:12]}",
        "part_count": len(cut_into_parts(len(cut))),
        "blocks": len(cut),
        "rows": len(tokens),
        "swap": swap.asked,
        "adaptive": swap.margin,
        "seal": seal,
        "ids": ids,
        "fingerprint": fingerprint,
        "unreadable": unreadable,
        "reasons": reasons(tokens, unreadable),
        "truncation": recipe.data.model_dump(include={"max_tokens", "truncation", "prompt_cap"}),
    }


def reasons(tokens: Tokens, unreadable: list[int]) -> dict[str, str]:
    """Why rows could not be read, by their place."""
    if not unreadable:
        return {}
    told = {p["id"]: f"{p['file']}, row {p['row']}: {p['reason']}" for p in tokens.problems}
    names = tokens.ids
    return {str(row): told[names[row]] for row in unreadable}


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
