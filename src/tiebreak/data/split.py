"""The rows of a run: what it learns from and what it is judged by."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiebreak.config import Recipe
from tiebreak.data.augment import find_variants
from tiebreak.data.folds import assign_folds
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.data.tokens import Tokens
from tiebreak.errors import UserError
from tiebreak.labels import NO_LABEL, describe_absent
from tiebreak.manifests import Manifest
from tiebreak.sample.generator import sample_file
from tiebreak.tables.table import OnBadRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

HOLD_OUT = (0, 10)
"""The fold that validates a run which names neither a table nor a fold."""


class RowsManifest(Manifest):
    """rows.json of a run folder: the tables and the split that the run was begun with.

    Tables are named by their files, and by the keys of their token caches, which hash content and settings.
    """

    data: list[str]
    tokens: str
    valid: str
    """Key of the validation table's cache, or `none`."""
    fold: str | None = None
    """K/N, unless a table was given to validate on."""
    rows_trained: int
    rows_held_out: int
    extra: list[str] | None = None
    """Tables trained on without labels."""
    extra_tokens: str | None = None
    rows_extra: int | None = None
    paraphrases: str | None = None
    base: str | None = None
    """`hash_base` of the model that the run began with; earlier versions kept none."""
    teachers: list[list[str]] | None = None
    """For each its name and the folders of parts of its predictions."""

    @property
    def record(self) -> dict[str, Any]:
        """The fields that this run set, as environment.json repeats them."""
        return self.model_dump(exclude_unset=True)


@dataclass(frozen=True)
class Split:
    """The rows that a run learns from, and those that it is judged by.

    `train` are rows of `tokens`, `held_out` rows of `valid` (often the same table). Unlabelled extra rows stand
    at the end of both `tokens` and `train`. `manifest` names tables and split: a resumed run must have the same.
    `problems` are the rows left out. `variants` are the rows of `tokens`, behind all others, that are
    paraphrases of a row.
    """

    tokens: Tokens
    train: np.ndarray
    valid: Tokens
    held_out: np.ndarray
    manifest: RowsManifest
    problems: list[dict[str, Any]]
    variants: dict[int, list[int]] = field(default_factory=dict)

    @property
    def longest(self) -> np.ndarray:
        """Most tokens (n,) with which each row of `train` may be seen."""
        longest: np.ndarray = self.tokens.lengths.copy()
        for row, variants in self.variants.items():
            longest[row] = longest[[row, *variants]].max()
        return np.take(longest, self.train)


def _assign(tokens: Tokens, fold: tuple[int, int] | None, folds: int, seed: int) -> np.ndarray:
    """The fold (n,) of each row; where nobody asked for folds, an error says what they are for."""
    try:
        return assign_folds(tokens.labels, tokens.groups, folds, seed)
    except UserError as error:
        if fold:
            raise UserError(f"--fold {fold[0]}/{fold[1]}: {error}; take fewer folds, or give more rows") from None
        raise UserError(
            f"no tenth of the prompts can be held out to validate on: {error}. Train on every row by --valid none "
            '(in Python: valid="none"), or give --valid another table'
        ) from None


def read_split(
    recipe: Recipe,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    data: Sequence[Path] = (),
    valid_from: Path | Literal["none"] | None = None,
    fold: tuple[int, int] | None = None,
    extra_from: Sequence[Path] = (),
    on_bad_row: OnBadRow = "fail",
) -> Split:
    """Prepare the tables and split them into training and held-out rows.

    Args:
        recipe: its `data` and `model.template` are used.
        tokenizer: of the model, with the template's added tokens.
        data: labelled tables; none means the embedded sample.
        valid_from: a table to validate on; `none` trains on every row.
        fold: (k, n) validates on fold k of n. Without it and `valid_from` a tenth of the prompts is held out.
        extra_from: tables to train on without labels; their rows with the prompt of a held-out row are left out.
        on_bad_row: `fail` or `skip`.

    Raises:
        UserError: both a table and a fold to validate on, or tables that cannot be read.
    """
    if valid_from and fold:
        raise UserError("--valid and --fold both say what to validate on: give one of them")
    held_out_fold, folds = fold or HOLD_OUT

    def prepared(files: list[Path], need_labels: bool = True) -> Tokens:
        template = TEMPLATES[recipe.model.template]
        return prepare(files, tokenizer, template, recipe.data, on_bad_row=on_bad_row, need_labels=need_labels)

    files = list(data) or [sample_file(recipe.data)]
    if data:
        log.info(f"data: {', '.join(map(str, files))}")
    else:
        log.info(f"data: the embedded sample, as no --data was given ({recipe.data.sample_rows:,} rows)")
    tokens = valid = prepared(files)
    everything = np.arange(len(tokens))
    train, held_out = everything, everything[:0]
    if valid_from and valid_from != "none":
        valid = prepared([valid_from])
        held_out = np.arange(len(valid))
        if shared := int(np.isin(valid.groups, tokens.groups).sum()):
            log.info(
                f"warning: {shared:,} rows of {valid_from} have a prompt that is also trained on, so the validation "
                "score is too good: leave them out of one of the tables"
            )
    elif not valid_from:
        assigned = _assign(tokens, fold, folds, recipe.data.folds_seed)
        train, held_out = everything[assigned != held_out_fold], everything[assigned == held_out_fold]
        if not fold:
            log.info("validation: a tenth of the prompts is held out (--valid TABLE or none, or --fold, to change it)")
    if recipe.data.share < 1:
        kept = max(1, round(recipe.data.share * len(train)))
        train = np.sort(np.random.default_rng(recipe.data.folds_seed).permutation(train)[:kept])
    if absent := describe_absent(np.unique(tokens.labels[train]).tolist()):
        log.info(f"warning: {absent}")
    manifest = RowsManifest(
        data=[str(path) for path in files],
        tokens=tokens.key,
        valid="none" if valid_from == "none" else valid.key,
        fold=None if valid_from else f"{held_out_fold}/{folds}",
        rows_trained=len(train),
        rows_held_out=len(held_out),
    )
    split = Split(tokens, train, valid, held_out, manifest, tokens.problems)
    if extra_from:
        split = _add_extra(split, list(extra_from), prepared)
    return _add_paraphrases(split, recipe, prepared) if recipe.data.paraphrases else split


def _add_extra(split: Split, files: list[Path], prepared: Callable[[list[Path], bool], Tokens]) -> Split:
    """Append unlabelled rows to the training rows, but for those with the prompt of a held-out row."""
    extra = prepared(files, False)
    extra.labels = np.full(len(extra), NO_LABEL, dtype=split.tokens.labels.dtype)
    free = np.flatnonzero(~np.isin(extra.groups, split.valid.groups[split.held_out]))
    names, left_out = [str(path) for path in files], len(extra) - len(free)
    and_not = f"; {left_out:,} more are left out, as they have the prompt of a held-out row" if left_out else ""
    log.info(f"extra: {', '.join(names)}: {len(free):,} rows, trained on without labels{and_not}")
    return replace(
        split,
        tokens=split.tokens.join(extra),
        train=np.concatenate([split.train, len(split.tokens) + free]),
        manifest=split.manifest.model_copy(update={"extra": names, "extra_tokens": extra.key, "rows_extra": len(free)}),
        problems=split.problems + extra.problems,
    )


def _add_paraphrases(split: Split, recipe: Recipe, prepared: Callable[[list[Path], bool], Tokens]) -> Split:
    """Join the paraphrases of training rows to the table; those with a held-out prompt are not used."""
    files, count = [Path(name) for name in recipe.data.paraphrases], len(split.tokens)
    others = prepared(files, False)
    trained = set(split.train.tolist())
    every = {row: rephrased for row, rephrased in find_variants(split.tokens, others).items() if row in trained}
    foreign = ~np.isin(others.groups, split.valid.groups[split.held_out])
    variants = {row: [other for other in rephrased if foreign[other - count]] for row, rephrased in every.items()}
    used, dropped = (sum(map(len, some.values())) for some in (variants, every))
    log.info(f"paraphrases: {', '.join(map(str, files))}: {used:,}, of {len(variants):,} training rows")
    if dropped > used:
        log.info(f"{dropped - used:,} paraphrases have a held-out prompt and are not used")
    return replace(
        split,
        tokens=split.tokens.join(others),
        manifest=split.manifest.model_copy(update={"paraphrases": others.key}),
        problems=split.problems + others.problems,
        variants=variants,
    )
