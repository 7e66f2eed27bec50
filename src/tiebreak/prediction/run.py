"""A prediction from the command line to predictions.csv: blocks, parts, merge, scores."""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tiebreak.cluster.ranks import Ranks, find_ranks, settle_process
from tiebreak.compatibility import Setting, check_compatibility
from tiebreak.config import Recipe, make_recipe
from tiebreak.data.folds import assign_folds, parse_fold
from tiebreak.data.labels import read_labels
from tiebreak.data.plan import blocks
from tiebreak.data.predictions import read_predictions
from tiebreak.data.sample import sample_file
from tiebreak.data.tokens import NO_LABEL, Tokens, prepare
from tiebreak.data.trained import read_prompts
from tiebreak.errors import UserError
from tiebreak.files import write_atomically, write_json
from tiebreak.models.judge import Judge
from tiebreak.models.loading import (
    choose_precision,
    find_judge,
    find_model_type,
    fingerprint,
    load_judge,
    load_saved_tokenizer,
)
from tiebreak.prediction.merge import PLAN, merge
from tiebreak.prediction.parts import Part, part_path, write_part, write_rows
from tiebreak.report.baselines import Baselines
from tiebreak.report.table import compare, render

POLL_S = 0.2
SAY_EVERY_S = 10.0


def predict(options: argparse.Namespace) -> int:
    """Predict a table as the command line says; returns the exit code.

    The ranks share nothing but the output folder: each takes every world-th block that has no part
    yet, and rank 0 merges when all parts are there.
    """
    ranks = find_ranks()
    settle_process()
    say = (lambda text: print(text, flush=True)) if ranks.first else (lambda text: None)
    (folder, stored), out = find_judge(Path(options.model)), Path(options.out)
    recipe = make_recipe(stored["recipe"], options.set)
    for warning in check_compatibility(Setting.of(recipe, find_model_type(recipe.model.base), ranks.device.type)):
        say(warning)
    files = [Path(name) for name in options.data] or [sample_file(recipe.data)]
    say(f"data: {', '.join(map(str, files))}" + ("" if options.data else " (the embedded sample; no --data was given)"))
    # Read first, so that a mistake in them is told now and not after hours.
    given = read_labels(Path(options.labels)) if options.labels not in (None, "auto") else None
    tokenizer = load_saved_tokenizer(folder)
    tokens = read_rows(options, files, tokenizer, recipe, say)
    trained = read_prompts(folder)
    if trained is not None and (seen := int(np.isin(tokens.groups, trained).sum())):
        say(f"warning: the model was trained on the prompts of {seen:,} of these {len(tokens):,} rows")
    device = ranks.device
    precision = choose_precision(recipe.train.precision, device)
    cut = blocks(tokens.lengths, recipe.predict.tokens_per_block)
    record = {
        "blocks": len(cut),
        "rows": len(tokens),
        "swap": options.swap,
        "fold": options.fold,
        "unreadable": np.flatnonzero(tokens.unreadable).tolist(),
        "class_shares": stored["baselines"]["prior"],
        "model": str(folder),
        "fingerprint": fingerprint(folder),
        "recipe": stored["recipe"]["name"],
        "recipe_hash": hashlib.sha256(json.dumps(stored["recipe"], sort_keys=True).encode()).hexdigest(),
        "truncation": recipe.data.model_dump(include={"max_tokens", "truncation", "prompt_cap"}),
    }
    parts = open_parts(out, tokens, record, str(precision), trained, ranks)
    mine = [block for block in range(ranks.rank, len(cut), ranks.world) if not part_path(parts, block).is_file()]
    say(f"{len(tokens):,} rows in {len(cut):,} blocks, {len(mine):,} of them to do on this rank")
    if mine:
        judge = load_judge(folder, recipe, device, precision)
        run_blocks(judge, tokens, cut, mine, options.swap, parts, say)
    if ranks.first:
        path, rows = merge_when_done(out, parts, len(cut))
        say(f"{path}: {rows:,} rows")
        if options.fold is None:
            tell_unreadable(tokens, out, say)
        if options.labels:
            score(path, tokens, given, stored["baselines"], out, say)
    return 0


def read_rows(options: argparse.Namespace, files: list[Path], tokenizer, recipe: Recipe, say) -> Tokens:
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


def open_parts(
    out: Path, tokens: Tokens, record: dict[str, Any], precision: str, trained: np.ndarray | None, ranks: Ranks
) -> Path:
    """The folder of this prediction's parts, named by all that they depend on, with what is known of its rows.

    Args:
        record: what prediction.json says beside the folder's name.
        trained: the prompt groups that the model was trained on, if there is a record of them.
    """
    rows = hashlib.sha256("\n".join(tokens.ids).encode()).hexdigest()
    dependencies = [record["fingerprint"], tokens.folder.name, rows, record["blocks"], record["swap"], precision]
    parts = out / f"parts-{hashlib.sha256(json.dumps(dependencies).encode()).hexdigest()[:12]}"
    parts.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        write_atomically(parts / "ids.txt", "".join(json.dumps(name) + "\n" for name in tokens.ids))
        write_rows(parts, tokens.groups, tokens.chars, trained)
        write_json(out / PLAN, {"parts": parts.name} | record)
    return parts


def run_blocks(judge: Judge, tokens: Tokens, cut: list[np.ndarray], mine: list[int], swap: bool, parts: Path, say):
    """Compute and write this rank's blocks, longest rows first: what runs out of memory does so at once."""
    started = said = time.monotonic()
    for done, block in enumerate(sorted(mine, reverse=True), 1):
        rows = cut[block]
        views = [block_logits(judge, tokens, rows, swapped) for swapped in ((False, True) if swap else (False,))]
        write_part(parts, block, Part(rows, views[0], views[1] if swap else views[0][:0]))
        now = time.monotonic()
        if now - said >= SAY_EVERY_S or done == len(mine):
            said = now
            left = (now - started) / done * (len(mine) - done)
            say(f"block {done}/{len(mine)}  {now - started:.0f} s, about {left:.0f} s left")


def block_logits(judge: Judge, tokens: Tokens, rows: np.ndarray, swapped: bool) -> np.ndarray:
    """Logits (n, 3) float32 of the rows (n,) in one order, one forward pass."""
    texts = [text for row in rows for text in tokens.texts(int(row), swapped)]
    device = next(judge.parameters()).device
    flat = torch.from_numpy(np.concatenate(texts)).to(device, torch.int64)
    with torch.inference_mode():
        return judge(flat, [len(text) for text in texts]).float().cpu().numpy()


def merge_when_done(out: Path, parts: Path, count: int) -> tuple[Path, int]:
    """Wait for the other ranks' parts, then merge. A rank that fails ends the whole job by its launcher."""
    while sum(1 for _ in parts.glob("block-*.npz")) < count:
        time.sleep(POLL_S)
    return merge(out)


def tell_unreadable(tokens: Tokens, out: Path, say) -> None:
    """Name the rows that got the class prior."""
    if problems := tokens.problems:
        write_atomically(out / "failed.jsonl", "".join(json.dumps(problem) + "\n" for problem in problems))
        say(f"{len(problems)} rows could not be read and got the class prior ({out / 'failed.jsonl'}):")
        for line in _lines(problems):
            say(f"  {line}")


def _lines(problems: list[dict], most: int = 10) -> Iterator[str]:
    for problem in problems[:most]:
        yield f"{problem['file']}, row {problem['row']} (id {problem['id']}): {problem['reason']}"
    if len(problems) > most:
        yield f"... and {len(problems) - most} more"


def score(path: Path, tokens: Tokens, given: dict[str, int] | None, fitted: Baselines, out: Path, say) -> None:
    """Write metrics.json from the predictions and the given labels by id, or those of the data itself."""
    if given is not None:
        known = given
    else:
        known = {name: int(label) for name, label in zip(tokens.ids, tokens.labels, strict=True) if label != NO_LABEL}
    ids, probabilities = read_predictions(path)
    chosen = [k for k, name in enumerate(ids) if name in known]
    if not chosen and given is None:
        say("no labels in the data: nothing to score")
        return
    if not chosen:
        raise UserError("--labels: none of its ids is in the predictions")
    truth = np.array([known[ids[k]] for k in chosen])
    bayes = None if tokens.bayes is None else tokens.bayes[chosen]
    rows = compare(probabilities[chosen], truth, tokens.chars[chosen], fitted, bayes)
    write_json(out / "metrics.json", rows)
    say(f"{len(chosen):,} labelled rows:\n{render(rows)}")
