"""A judge on public suites: read from local files, scored as their authors score, and looked for in its training."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiebreak.choosing import load_judge
from tiebreak.data.predictions import ORDERS, read_predictions
from tiebreak.decisions.calibration_rows import say_unrecorded, trained_prompts
from tiebreak.errors import UserError
from tiebreak.evaluation.inputs import split_name
from tiebreak.files import as_paths, write_atomically
from tiebreak.manifests import as_json
from tiebreak.outputs import refuse_over
from tiebreak.plurals import plural
from tiebreak.storage import make_folder
from tiebreak.suites.bench_record import BenchRecord, Contamination, Copy, SuiteResult
from tiebreak.suites.contamination import LEAST, Copies, find_copies, read_trained
from tiebreak.suites.forms import Suite, as_pairs_of, read_suites
from tiebreak.suites.scoring import score_pairs, score_suite
from tiebreak.tables.cells import normalise_prompt
from tiebreak.tables.convert import write_pairs
from tiebreak.tables.table import OnBadRow

if TYPE_CHECKING:
    from tiebreak.api import Judge

EXAMPLES = 3
Paths = str | Path | Iterable[str | Path]


def bench(
    files: Paths,
    *,
    model: "str | Path | Judge | None" = None,
    predictions: str | Path | None = None,
    trained: Paths = (),
    alike: float = LEAST,
    out: str | Path | None = None,
    on_bad_row: OnBadRow = "fail",
) -> BenchRecord:
    """Score a judge on public suites, and count the prompts of theirs that it was trained on.

    Args:
        files: of RewardBench 1 or 2, JudgeBench, LLMBar, MT-bench, Auto-J or PandaLM, known by their columns.
        model: a judge, or the folder of one; it looks at both answer orders.
        predictions: or a judge's finished predictions of the table that `bench_pairs` wrote.
        trained: tables that the judge was trained on, to look for near-duplicates of the suites' prompts. Without a
            judge that is all that is done.
        alike: Jaccard similarity of word pairs from which on two prompts are near-duplicates, 0.4 to 1.
        out: a folder for bench.json and items.csv.
        on_bad_row: `fail`, or `skip` to leave unreadable rows of the suites out.

    Raises:
        UserError: files of no known suite, or predictions that lack comparisons.

    Example:
        >>> bench("reward_bench.jsonl", model=judge).suites[0].score["mean of sections"]  # doctest: +SKIP
    """
    texts = list(as_paths(trained)) if trained else []
    if (model is not None) + (predictions is not None) != 1 and not (model is predictions is None and texts):
        raise UserError("bench: give a judge as --model or its --predictions, or --trained alone to look for copies")
    if not 0.4 <= alike <= 1:
        raise UserError(f"--alike {alike:g}: give a similarity from 0.4, below which too few are found, to 1")
    suites = read_suites(as_paths(files), on_bad_row)
    known = read_trained(texts)
    orders, groups, looks, notes = None, None, 2, []
    if predictions is not None:
        orders, looks = _read_orders(suites, predictions)
        path = split_name(str(predictions))[1]
        groups, unrecorded = trained_prompts(path)
        if unrecorded and not known:
            notes.append(f"{say_unrecorded(unrecorded)}: --trained TABLES looks for them")
        if looks == 1:
            notes.append(f"{path} has one answer order only (predict with --swap): every verdict counts as consistent")
    elif model is not None:
        orders, groups = _predict(suites, model)
        if groups is None and not known:
            notes.append("no record of the prompts that the judge was trained on: --trained TABLES looks for them")
    copies = find_copies([item.prompt for suite in suites for item in suite.items], known, groups, alike)
    checked = groups is not None or bool(known)
    results, rows, item_at, game_at = [], [], 0, 0
    for suite in suites:
        seen = _part(copies, item_at, item_at + len(suite.items))
        games = sum(len(item.answers) * (len(item.answers) - 1) // 2 for item in suite.items)
        p = None if orders is None else orders[:, game_at : game_at + games]
        results.append(_result(suite, p, seen if checked else None, known))
        rows += _rows(suite, seen)
        item_at, game_at = item_at + len(suite.items), game_at + games
    name = (
        str(predictions) if predictions is not None else None if model is None else str(getattr(model, "folder", model))
    )
    record = BenchRecord(
        judge=name, orders=looks, trained_record=None if groups is None else len(groups),
        trained_texts=len(set(map(normalise_prompt, known))) if known else None, suites=results, notes=notes,
    )  # fmt: skip
    if out is not None:
        _write(Path(out), record, rows)
    return record


def bench_pairs(files: Paths, out: str | Path, *, on_bad_row: OnBadRow = "fail") -> int:
    """Write the comparisons of suites as one table for `tiebreak predict`; return their number.

    Args:
        files: as for `bench`; give it the same ones, in the same order, with the predictions.
        out: the .csv file.
        on_bad_row: as for `bench`.

    Raises:
        UserError: files of no known suite.
    """
    refuse_over(out, as_paths(files))
    pairs = list(as_pairs_of(read_suites(as_paths(files), on_bad_row)))
    make_folder(Path(out).parent)
    write_pairs(Path(out), pairs)
    return len(pairs)


def _predict(suites: Sequence[Suite], model: "str | Path | Judge") -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities (2, n, 3) of every comparison in both orders, and hashes of the trained prompts."""
    from tiebreak.models.folder import read_prompts

    judge = load_judge(model)
    pairs = list(as_pairs_of(suites))
    number: dict[tuple[tuple[str, ...], ...], int] = {}
    keys = [tuple(tuple(turns) for turns in (pair.prompt, pair.response_a, pair.response_b)) for pair in pairs]
    places = np.array([number.setdefault(key, len(number)) for key in keys])  # votes on one comparison: one look
    ab = judge.predict([(list(p), list(a), list(b)) for p, a, b in number])
    ba = judge.predict([(list(p), list(b), list(a)) for p, a, b in number])
    return np.stack([ab, ba[:, [1, 0, 2]]])[:, places], read_prompts(judge.folder)


def _read_orders(suites: Sequence[Suite], predictions: str | Path) -> tuple[np.ndarray, int]:
    """Probabilities (2, n, 3) of every comparison, and how many orders they are of."""
    path = split_name(str(predictions))[1]
    both = [path.parent / name for name in ORDERS]
    files = both if path.name == "predictions.csv" and all(file.is_file() for file in both) else [path]
    wanted = [pair.id for pair in as_pairs_of(suites)]
    found = []
    for file in files:
        ids, probabilities = read_predictions(file)
        place = {row_id: i for i, row_id in enumerate(ids)}
        lacking = [row_id for row_id in wanted if row_id not in place]
        if lacking:
            raise UserError(
                f"{file}: lacks {plural(len(lacking), 'comparison')} of these suites ({lacking[0]} is one); write "
                "them with tiebreak bench FILES --pairs pairs.csv, predict pairs.csv, and give the same FILES in the "
                "same order"
            )
        found.append(probabilities[[place[row_id] for row_id in wanted]])
    return np.stack([found[0], found[-1]]), len(files)


def _part(copies: Copies, start: int, end: int) -> Copies:
    return Copies(copies.similarity[start:end], copies.place[start:end])


def _result(suite: Suite, orders: np.ndarray | None, copies: Copies | None, known: list[list[str]]) -> SuiteResult:
    clean = None
    if orders is not None and copies is not None and 0 < (copies.similarity > 0).sum() < len(suite.items):
        clean = score_suite(suite, orders, copies.similarity == 0)
    return SuiteResult(
        suite=suite.form.name, files=suite.files, items=len(suite.items), bad=suite.bad,
        score=None if orders is None else score_suite(suite, orders),
        pairwise=None if orders is None else score_pairs(suite, orders),
        contamination=None if copies is None else _contamination(suite, copies, known), clean_score=clean,
    )  # fmt: skip


def _contamination(suite: Suite, copies: Copies, known: list[list[str]]) -> Contamination:
    first: dict[tuple[str, ...], int] = {}
    for i, item in enumerate(suite.items):
        first.setdefault(tuple(item.prompt), i)
    places = np.array(list(first.values()))
    near = places[copies.near[places]]
    examples = [
        Copy(
            prompt="\n".join(suite.items[i].prompt),
            trained="\n".join(known[copies.place[i]]),
            similarity=float(copies.similarity[i]),
        )
        for i in near[np.argsort(copies.similarity[near], kind="stable")][:EXAMPLES].tolist()
    ]
    return Contamination(
        prompts=len(first), exact=int(copies.exact[places].sum()), near=len(near) if known else None,
        rows=int((copies.similarity > 0).sum()), examples=examples,
    )  # fmt: skip


def _rows(suite: Suite, copies: Copies) -> list[tuple[str, str, str, str]]:
    return [
        (suite.form.name, item.place, item.subset, f"{similarity:.3f}")
        for item, similarity in zip(suite.items, copies.similarity.tolist(), strict=True)
    ]


def _write(out: Path, record: BenchRecord, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["suite", "place", "subset", "trained_similarity"], *rows])
    make_folder(out)
    write_atomically(out / "items.csv", text.getvalue())
    write_atomically(out / "bench.json", as_json(record))
