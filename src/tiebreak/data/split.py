"""The rows of a run: what it learns from and what it is judged by."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiebreak.config import Recipe
from tiebreak.data.augment import find_variants
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.data.prepare import prepare
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.labels import NO_LABEL
from tiebreak.sample.generator import sample_file

HOLD_OUT = "0/10"


@dataclass(frozen=True)
class Rows:
    """What a run learns from and is judged by.

    `train` are rows of `tokens`, `held_out` rows of `valid` (often the same table). Unlabelled extra rows stand
    at the end of both `tokens` and `train`. `description` names tables and split: a resumed run must have the
    same. `problems` are the rows left out. `variants` are the rows of `tokens`, behind all others, that are
    paraphrases of a row.
    """

    tokens: Tokens
    train: np.ndarray
    valid: Tokens
    held_out: np.ndarray
    description: dict[str, Any]
    problems: list[dict]
    variants: dict[int, list[int]] = field(default_factory=dict)

    @property
    def longest(self) -> np.ndarray:
        """Most tokens with which each row of `train` may be seen."""
        longest = self.tokens.lengths.copy()
        for row, variants in self.variants.items():
            longest[row] = longest[[row, *variants]].max()
        return longest[self.train]


def read_rows(options: argparse.Namespace, recipe: Recipe, tokenizer, say: Callable[[str], None]) -> Rows:
    """Prepare the tables and part what is trained on from what is held out."""
    if options.valid and options.fold:
        raise UserError("--valid and --fold both say what to validate on: give one of them")
    fold, folds = parse_fold(options.fold or HOLD_OUT)

    def prepared(files: list[Path], need_labels: bool = True) -> Tokens:
        settings = (recipe.model.template, recipe.data, options.on_bad_row)
        return prepare(files, tokenizer, *settings, need_labels=need_labels, say=say)

    files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
    if options.data:
        say(f"data: {', '.join(map(str, files))}")
    else:
        say(f"data: the embedded sample, as no --data was given ({recipe.data.sample_rows:,} rows)")
    tokens = valid = prepared(files)
    everything = np.arange(len(tokens))
    train, held_out = everything, everything[:0]
    if options.valid and options.valid != "none":
        valid = prepared([Path(options.valid)])
        held_out = np.arange(len(valid))
        if shared := int(np.isin(valid.groups, tokens.groups).sum()):
            say(f"warning: {shared:,} rows of {options.valid} have a prompt that is also trained on")
    elif not options.valid:
        assigned = assign_folds(tokens.labels, tokens.groups, folds, recipe.data.folds_seed)
        train, held_out = everything[assigned != fold], everything[assigned == fold]
        if not options.fold:
            say("validation: a tenth of the prompts is held out (--valid, --fold or --valid none to say otherwise)")
    if recipe.data.share < 1:
        kept = max(1, round(recipe.data.share * len(train)))
        train = np.sort(np.random.default_rng(recipe.data.folds_seed).permutation(train)[:kept])
    description = {
        "data": [str(path) for path in files],
        "tokens": tokens.folder.name,
        "valid": options.valid if options.valid == "none" else valid.folder.name,
        "fold": None if options.valid else f"{fold}/{folds}",
        "rows_trained": len(train),
        "rows_held_out": len(held_out),
    }
    problems = tokens.problems
    if options.extra:
        extra = prepared([Path(name) for name in options.extra], need_labels=False)
        extra.labels = np.full(len(extra), NO_LABEL, dtype=tokens.labels.dtype)
        say(f"extra: {', '.join(options.extra)}: {len(extra):,} rows whose labels, if any, are not looked at")
        description |= {"extra": options.extra, "extra_tokens": extra.folder.name, "rows_extra": len(extra)}
        train = np.concatenate([train, len(tokens) + np.arange(len(extra))])
        tokens, problems = tokens.join(extra), problems + extra.problems
    variants: dict[int, list[int]] = {}
    if recipe.data.paraphrases:
        files = [Path(name) for name in recipe.data.paraphrases]
        others = prepared(files, need_labels=False)
        trained = set(train.tolist())
        found = {row: rows for row, rows in find_variants(tokens, others).items() if row in trained}
        foreign = ~np.isin(others.groups, valid.groups[held_out])
        variants = {row: [k for k in rows if foreign[k - len(tokens)]] for row, rows in found.items()}
        used, dropped = (sum(map(len, some.values())) for some in (variants, found))
        say(f"paraphrases: {', '.join(map(str, files))}: {used:,}, of {len(variants):,} training rows")
        if dropped > used:
            say(f"{dropped - used:,} paraphrases have a held-out prompt and are not used")
        description |= {"paraphrases": others.folder.name}
        tokens, problems = tokens.join(others), problems + others.problems
    return Rows(tokens, train, valid, held_out, description, problems, variants)
