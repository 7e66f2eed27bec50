"""`tiebreak leaderboard`: models ranked by people's votes, by a judge's probabilities, or by both."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tiebreak.decisions.battles import Battles, check_controls, read_battles
from tiebreak.decisions.bradley_terry import Design, Fit, fit_both, fit_votes, solve
from tiebreak.decisions.leaderboard_page import write_leaderboard_page
from tiebreak.decisions.standings import Board, Effect, Standing
from tiebreak.errors import UserError
from tiebreak.evaluation.schema import Estimate
from tiebreak.files import as_paths, write_atomically
from tiebreak.manifests import as_json
from tiebreak.plurals import plural
from tiebreak.storage import make_folder
from tiebreak.tables.table import OnBadRow

POINTS, MEAN = 400 / np.log(10), 1_000.0
"""Points of Elo's scale by one of log odds, and the mean rating."""
LEVEL = 0.95


def leaderboard(
    predictions: str | Path | None = None,
    *,
    data: str | Path | Iterable[str | Path],
    labels: str | Path | None = None,
    control: Sequence[str] = (),
    least_rows: int = 1,
    out: str | Path | None = None,
    on_bad_row: OnBadRow = "fail",
) -> Board:
    """Rank models by battles between them.

    Args:
        predictions: a judge's, of the battles: a predictions.csv or a folder with one; None ranks by votes alone.
        data: tables with prompts, answers, `model_a` and `model_b`.
        labels: a table with `id` and winners. With predictions, the judge is corrected by these votes, which must be on
            a random part of the battles; without, they are all that counts, and by default the winners in `data`.
        control: `length`, `style`, `readability`, `position`: ratings are then those at equal length and so on.
        least_rows: models in fewer battles are left out.
        out: a folder for index.html, leaderboard.csv, leaderboard.json and plots.
        on_bad_row: `fail`, or `skip` to leave unreadable rows out.

    Raises:
        UserError: tables that do not fit, or ratings that these battles do not determine.
    """
    check_controls(control)
    files = as_paths(data)
    battles = read_battles(files, predictions, None if labels is None else Path(labels), control, on_bad_row)
    board = rank_models(battles, ", ".join(path.name for path in files), least_rows)
    if out is not None:
        _write(Path(out), board)
    return board


def rank_models(battles: Battles, data: str = "", least_rows: int = 1) -> Board:
    """The board of battles in memory.

    Args:
        battles: whose rows have votes, a judge's word, or both.
        data: what they are called.
        least_rows: models in fewer are left out.
    """
    notes = list(battles.notes)
    battles, dropped = _drop_rare(battles, least_rows)
    if dropped:
        notes.append(f"left out, in fewer than {least_rows:,} battles: {', '.join(dropped)}")
    design = Design(battles.first, battles.second, len(battles.models), battles.features)
    labelled, judge = np.isfinite(battles.votes), np.isfinite(battles.judged).all()
    votes = np.where(labelled, battles.votes, 0.0)
    alone: np.ndarray | None = None
    _check_comparable(battles, battles.judged if judge else votes, data)
    try:
        if not judge:
            fit, source = fit_votes(design, votes, battles.groups), "people"
        elif not labelled.any():
            fit, source = fit_votes(design, battles.judged, battles.groups), "judge"
        else:
            alone, source = solve(design, battles.judged, np.ones(len(votes))), "judge, corrected by people"
            fit = fit_both(design, votes, battles.judged, labelled, battles.groups, start=alone)
    except ArithmeticError:
        raise UserError(
            f"{data}: {plural(len(votes), 'row')} are too few to estimate the effects of --control: control for less, "
            "or give more rows"
        ) from None
    return Board(
        data=data, source=source, rows=len(votes), prompts=len(np.unique(battles.groups)), votes=int(labelled.sum()),
        power=float(judge) if alone is None else fit.power, standings=_standings(battles, fit, alone),
        effects=_effects(battles, fit), notes=notes,
    )  # fmt: skip


def _drop_rare(battles: Battles, least: int) -> tuple[Battles, list[str]]:
    """Leave out models in fewer battles, until none is; their names are given."""
    names = set(battles.models)
    while True:
        counts = np.bincount(np.concatenate([battles.first, battles.second]), minlength=len(battles.models))
        rare = counts < least
        if not rare.any():
            break
        battles = battles.only(~rare[battles.first] & ~rare[battles.second])
        if not len(battles.first):
            raise UserError(f"--least-rows {least}: no battle is left: lower it")
    return battles, sorted(names - set(battles.models))


def _check_comparable(battles: Battles, wins: np.ndarray, data: str) -> None:
    """Refuse battles that do not compare every model with the others both ways.

    Ratings have a bound just if from each model a chain of wins leads to each other one (Ford 1957, American
    Mathematical Monthly 64); a tie is a win both ways, and so is a probability.
    """
    from scipy.sparse.csgraph import connected_components

    size = len(battles.models)
    beat, lost = battles.first.astype(np.int64) * size + battles.second, battles.second.astype(np.int64) * size
    graph = np.bincount(beat, wins, size**2) + np.bincount(lost + battles.first, 1 - wins, size**2)
    count, part = connected_components(graph.reshape(size, size), directed=True, connection="strong")
    if count > 1:
        others = part != np.bincount(part).argmax()
        names = [name for name, other in zip(battles.models, others, strict=True) if other]
        raise UserError(
            f"{data}: {', '.join(names[:5])}{', ...' * (len(names) > 5)} never lost to, never beat or never met the "
            "other models, so there is no telling by how much they differ; leave out models with few battles "
            "(--least-rows), or give more"
        )


def _estimate(value: float, variance: float, freedom: int, centre: float = 0.0) -> Estimate:
    """Points with the interval of Student's t."""
    from scipy import stats

    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(max(0.0, variance)))
    low, middle, high = (centre + POINTS * end for end in (value - half, value, value + half))
    return Estimate(value=float(middle), low=float(low), high=float(high))


def _standings(battles: Battles, fit: Fit, alone: np.ndarray | None) -> list[Standing]:
    counts = np.bincount(np.concatenate([battles.first, battles.second]), minlength=len(battles.models))
    variances = np.diag(fit.covariance)
    ratings = [_estimate(fit.theta[i], variances[i], fit.freedom, MEAN) for i in range(len(battles.models))]
    found = [
        Standing(
            model=name,
            rank=1 + sum(other.low > ratings[i].high for other in ratings),
            rating=ratings[i],
            win_rate=float(1 / (1 + np.exp(-fit.theta[i]))),
            rows=int(counts[i]),
            by_judge=None if alone is None else float(MEAN + POINTS * alone[i]),
        )
        for i, name in enumerate(battles.models)
    ]
    return sorted(found, key=lambda standing: (-standing.rating.value, standing.model))


def _effects(battles: Battles, fit: Fit) -> list[Effect]:
    variances, start = np.diag(fit.covariance), len(battles.models)
    return [
        Effect(
            name=name,
            points=_estimate(fit.theta[start + i], variances[start + i], fit.freedom),
            deviation=float(battles.spreads[i]),
        )
        for i, name in enumerate(battles.names)
    ]


def no_formula(name: str) -> str:
    """A name as a spreadsheet shows it: what it would compute gets an apostrophe before it."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


def _write(out: Path, board: Board) -> None:
    """Write the folder."""
    make_folder(out / "plots")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "model", "rating", "low", "high", "win_rate", "rows", "by_judge"])
    for s in board.standings:
        ends = (f"{value:.3f}" for value in (s.rating.value, s.rating.low, s.rating.high))
        by_judge = "" if s.by_judge is None else f"{s.by_judge:.3f}"
        writer.writerow([s.rank, no_formula(s.model), *ends, f"{s.win_rate:.6f}", s.rows, by_judge])
    write_atomically(out / "leaderboard.csv", text.getvalue())
    write_atomically(out / "leaderboard.json", as_json(board))
    write_leaderboard_page(out, board)
