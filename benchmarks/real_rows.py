"""Is a judge worth its electricity? Lines, judges, their blend, teachers and students on all folds of a real table.

    for name in minilm-l6 deberta-v3-xsmall smollm2-135m gemma3-270m; do tiebreak weights $name --accept-licence; done
    python benchmarks/real_rows.py --data arena.csv --out runs/real_rows    # a night on two cores, or two
    python benchmarks/real_rows.py --data arena.csv --out runs/real_rows --short     # lines, one judge, and it taught
    python benchmarks/real_rows.py --data arena.csv --out runs/real_rows --only minilm-l6 students
    python benchmarks/real_rows.py --data arena.csv --out runs/real_rows --table              # trains nothing
    ... --page docs/real_rows.md                                            # and writes the table into the page

Stopped at any time, the same command goes on. Folds are those of `tiebreak baseline`. A judge is trained on all folds
but one and scored on that one, after its last step: no held-out row chooses anything. Students see another cut: for
each outer fold the teachers are trained within the other folds alone (`tiebreak folds` on a table without the outer
fold), so that nothing a student learns from has seen the rows it is scored on. Where a table has no ties, a judge's
share for ties is dealt out to A and B. Standard errors are of paired differences over prompts.
"""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.folds import assign_folds
from tiebreak.data.predictions import read_predictions
from tiebreak.evaluation.baselines import BOOSTED, LENGTH, PRIOR, TFIDF, WITH_NUMBERS
from tiebreak.evaluation.blend import fit_weights
from tiebreak.evaluation.calibration import equal_mass_bins
from tiebreak.evaluation.metrics import grouped_error, log_probabilities, row_losses, softmax
from tiebreak.files import write_atomically, write_json
from tiebreak.labels import TIE
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

LINES, THE_LINE = (PRIOR, LENGTH, TFIDF, WITH_NUMBERS, BOOSTED), WITH_NUMBERS
RECIPE = "demo-deberta-siamese"
COMMON = ["data.features=[length,style,readability,turns]", "model.pooling=mean", "model.head_dropout=0.2"]
COMMON += ["train.lr=1e-4", "train.head_lr=3e-4", "train.weight_decay=0.05", "train.warmup=0.05"]
COMMON += ["train.batch_size=32", "train.eval_every=1000000", "train.precision=fp32"]
KEPT = "train.frozen_cache_gb=30"
TEXTS = ("prompt", "response_a", "response_b")
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")


@dataclass(frozen=True)
class System:
    """A model and its settings: a judge of all folds, or what teachers and students are made of."""

    base: str
    settings: tuple[str, ...]

    def words(self, quick: bool) -> list[str]:
        """Of `tiebreak train`, `folds` or `distill`; `quick` makes two steps of a demo model."""
        changes = [*COMMON, *self.settings]
        if quick:
            changes = [change for change in changes if not change.startswith(("model.layers", "model.freeze"))]
            changes += ["model.freeze=1", "data.max_tokens=96", "train.max_steps=2", "train.batch_size=8"]
        words = ["--recipe", RECIPE, "--model", "demo-deberta" if quick else self.base]
        return words + [word for change in changes for word in ("--set", change)]


def lowest(count: int) -> str:
    return f"model.layers=[{','.join(map(str, range(count)))}]"


JUDGES = {
    "minilm-l6": System("minilm-l6", ("data.max_tokens=512", "model.freeze=3", "train.epochs=2", KEPT)),
    "deberta-v3-xsmall": System(
        "deberta-v3-xsmall", ("data.max_tokens=512", "model.freeze=6", "train.epochs=2", "train.layer_decay=0.9", KEPT)
    ),
    "smollm2-135m": System(
        "smollm2-135m", ("data.max_tokens=512", lowest(8), "model.freeze=6", "train.epochs=2", KEPT)
    ),
    "gemma3-270m": System("gemma3-270m", ("data.max_tokens=512", lowest(6), "model.freeze=4", "train.epochs=2", KEPT)),
}
TOP = ("data.max_tokens=256", "model.freeze=5", "train.frozen_cache_gb=4")
BEGUN = ("train.max_steps=1", "train.lr=1e-9", "train.head_lr=1e-9")
ONCE, THRICE = "train.epochs=1", "train.epochs=3"
START, LABELS, LONGER = (f"minilm-l6, top layer{how}" for how in (", before its first step", "", ", three epochs"))
BESIDE, ALONE = (f"minilm-l6, top layer, {how}" for how in ("taught", "taught alone"))
SHORT = {
    name: System("minilm-l6", (*TOP, *how)) for name, how in ((START, BEGUN), (LABELS, [ONCE]), (LONGER, [THRICE]))
}
"""From labels. The first is the logistic model of the answers' numbers that a judge begins with."""
TAUGHT = {
    BESIDE: System("minilm-l6", (*TOP, ONCE, "distill.cosine=0")),
    ALONE: System("minilm-l6", (*TOP, THRICE, "distill.cosine=0", "distill.ce=0")),
}
"""By the best line (`distill --teachers baseline`): beside the labels, and without them."""
TEACHERS = {
    "minilm": System("minilm-l6", ("data.max_tokens=512", "train.epochs=1")),
    "gemma3": System(
        "gemma3-270m", ("data.max_tokens=512", lowest(6), "model.freeze=4", "train.epochs=1", "train.seed=1")
    ),
}
STUDENT = System("deberta-v3-xsmall", ("data.max_tokens=256", lowest(6), "model.freeze=3", "train.epochs=2"))
STUDENTS = {"student from labels": False, "student distilled": True}
BY_FOLD = JUDGES | SHORT | TAUGHT
COMPARED = [tuple(STUDENTS), (LABELS, BESIDE), (START, ALONE), (LABELS, ALONE), (LONGER, ALONE)]
"""Names of the same student without teachers, and with them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="F")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], choices=[*BY_FOLD, "students"], metavar="NAME")
    parser.add_argument(
        "--short",
        action="store_true",
        help="the lines, and one judge whose top layer is trained, from labels and with a teacher",
    )
    parser.add_argument("--quick", action="store_true", help="two steps of demo models, students on one fold")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--page", type=Path, metavar="F", help="write the table between the comments of this page")
    options = parser.parse_args()
    wanted = options.only or [*SHORT, *TAUGHT, *([] if options.short else [*JUDGES, "students"])]
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table.read(options.data, options.folds)
    if not options.table:
        for name, words, done in steps(options, wanted, table):
            if code := run_step(options.out, name, words, done):
                return code
    rendered = render(options.out, table, options.data.name)
    print(rendered)
    if options.page:
        before, mark, rest = options.page.read_text(encoding="utf-8").partition("<!-- measured -->\n")
        end = rest.index("<!-- /measured -->")
        write_atomically(options.page, f"{before}{mark}{rendered}\n{rest[end:]}")
    return 0


@dataclass(frozen=True)
class Table:
    """The labelled rows: pairs, labels (n,), prompt groups (n,) and folds (n,)."""

    pairs: list[Pair]
    labels: np.ndarray
    groups: np.ndarray
    folds: np.ndarray

    @classmethod
    def read(cls, path: Path, folds: int) -> "Table":
        """The folds are those of `tiebreak baseline` and of `train --fold K/N`."""
        pairs = read_table([path], need_labels=True).pairs
        labels = np.array([pair.label for pair in pairs])
        groups = np.array([prompt_group(pair.prompt) for pair in pairs])
        return cls(pairs, labels, groups, assign_folds(labels, groups, folds, seed=0))


def steps(options: argparse.Namespace, wanted: list[str], table: Table) -> list[tuple[str, list[str], Path]]:
    """Name, command and last file of every step, in order."""
    out, data, folds = options.out, str(options.data), str(options.folds)
    found = [
        ("lines", ["baseline", data, "--folds", folds, "--out", str(out / "lines")], out / "lines" / "boosted.csv")
    ]
    for name, system in (JUDGES | SHORT).items():
        if name in wanted:
            folder = out / folder_of(name)
            words = ["folds", "--data", data, "--folds", folds, "--out", str(folder), *system.words(options.quick)]
            found.append((name, words, folder / "metrics.json"))
    for name, system in TAUGHT.items():
        for fold in range(options.folds if name in wanted else 0):
            cut = ["--data", data, "--fold", f"{fold}/{options.folds}"]
            run = out / folder_of(name) / f"fold-{fold}"
            words = ["distill", "--teachers", "baseline", *cut, "--out", str(run), "--resume", "auto"]
            found.append((name, [*words, *system.words(options.quick)], run / "metrics.json"))
            words = ["predict", "--model", str(run), *cut, "--out", str(run / "oof")]
            found.append((name, words, run / "oof" / "predictions.csv"))
    outer = 1 if options.quick else options.folds
    for fold in range(outer if "students" in wanted else 0):
        folder = out / f"outer-{fold}"
        train, test = folder / "train.csv", folder / "test.csv"
        for path, mask in ((train, table.folds != fold), (test, table.folds == fold)):
            if not path.is_file():
                write_rows(path, [pair for pair, kept in zip(table.pairs, mask, strict=True) if kept])
        teachers = []
        for name, system in TEACHERS.items():
            words = ["folds", "--data", str(train), "--folds", "2", "--out", str(folder / name)]
            found.append((f"teachers/{fold}", [*words, *system.words(options.quick)], folder / name / "metrics.json"))
            teachers.append(f"{name}=" + ",".join(str(folder / name / f"fold-{k}" / "oof") for k in range(2)))
        for name, distilled in STUDENTS.items():
            run = folder / name.replace(" ", "-")
            words = ["distill", "--teachers", *teachers] if distilled else ["train"]
            words += ["--data", str(train), "--valid", "none", "--out", str(run), "--resume", "auto"]
            found.append((f"{name}/{fold}", [*words, *STUDENT.words(options.quick)], run / "metrics.json"))
            predict = ["predict", "--model", str(run), "--data", str(test), "--out", str(run / "test")]
            found.append((f"{name}/{fold}/test", predict, run / "test" / "predictions.csv"))
    return found


def folder_of(name: str) -> str:
    """A system's folder."""
    return name.replace(", ", "-").replace(" ", "-")


def write_rows(path: Path, pairs: list[Pair]) -> None:
    """A labelled table of these rows in Kaggle's encoding, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *TEXTS, *WINNERS])
        for pair in pairs:
            cells = [encode_json_cell(getattr(pair, name)) for name in TEXTS]
            writer.writerow([pair.id, *cells, *(int(pair.label == k) for k in range(3))])
    temporary.rename(path)


def tiebreak(words: list[str]) -> int:
    """A command in a process of its own, so that each begins with all memory free; its exit code."""
    with subprocess.Popen([sys.executable, "-m", "tiebreak", *words], start_new_session=True) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # it stops as it does by itself, with what it has begun: the same command goes on
                process.send_signal(signal.SIGINT)


def run_step(out: Path, name: str, words: list[str], done: Path) -> int:
    """Run a command unless its last file is there, and add its seconds to what the system has taken."""
    if done.is_file():
        return 0
    print(f"--- {name}: tiebreak {words[0]}, for {done}", flush=True)
    started, kept = time.monotonic(), out / "seconds.json"
    try:
        return tiebreak(words)
    finally:
        seconds = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        system = name.partition("/")[0]
        seconds[system] = seconds.get(system, 0.0) + time.monotonic() - started
        write_json(kept, seconds)


def render(out: Path, table: Table, data: str) -> str:
    """The table of what is there, each system on the rows that it has predicted, beside the line on the same rows."""
    seconds = json.loads((out / "seconds.json").read_text(encoding="utf-8")) if (out / "seconds.json").is_file() else {}
    found = collect(out, table)
    whole = {name: p for name, p in found.items() if not np.isnan(p).any() and name not in (PRIOR, TFIDF)}
    lines = [whole[name] for name in LINES if name in whole]
    if len(lines) > 1:
        found["blend of the lines"] = blend(np.stack(lines), table)
    if len(whole) > len(lines):
        found["blend of lines and judges"] = blend(np.stack(list(whole.values())), table)
    classes = 3 if (table.labels == TIE).any() else 2
    told = f"{data}: {len(table.pairs):,} rows, {classes} classes, {table.folds.max() + 1} folds"
    shown = [f"{told}. The line is {THE_LINE}.", ""]
    shown += ["| | rows | log loss | accuracy | ECE | below the line by | minutes |", "|---|---|---|---|---|---|---|"]
    losses = {name: row_losses(probabilities, table.labels) for name, probabilities in found.items()}
    for name, probabilities in found.items():
        known = ~np.isnan(probabilities).any(1)
        p, labels = probabilities[known], table.labels[known]
        gain = "" if name == THE_LINE else paired(losses[THE_LINE], losses[name], table.groups)
        minutes = f"{seconds[name] / 60:.0f}" if name in seconds else ""
        figures = f"{losses[name][known].mean():.4f} | {(p.argmax(1) == labels).mean():.3f} | {ece(p, labels):.3f}"
        shown.append(f"| {name} | {known.sum():,} | {figures} | {gain} | {minutes} |")
    there = [(one, taught) for one, taught in COMPARED if one in losses and taught in losses]
    if there:
        shown += ["", "| student | held against | below it by |", "|---|---|---|"]
    shown += [f"| {taught} | {one} | {paired(losses[one], losses[taught], table.groups)} |" for one, taught in there]
    more = {name: f"{name} {value / 60:.1f}" for name, value in seconds.items() if name in ("lines", "teachers")}
    return "\n".join([*shown, *(["", f"Minutes beside these: {', '.join(more.values())}."] if more else [])])


def paired(before: np.ndarray, after: np.ndarray, groups: np.ndarray) -> str:
    """By how much the second's mean loss is lower on the rows of both, and the standard error over prompts."""
    both = ~np.isnan(before) & ~np.isnan(after)
    difference = (before - after)[both]
    return f"{difference.mean():+.4f} ± {grouped_error(difference, groups[both]):.4f}"


def collect(out: Path, table: Table) -> dict[str, np.ndarray]:
    """Probabilities (n, 3) of every system that has predicted some rows; NaN where it has not."""
    files = {name: [out / "lines" / f"{name}.csv"] for name in LINES}
    for name in BY_FOLD:
        files[name] = [*(out / folder_of(name)).glob("fold-*/oof/predictions.csv")]
    for name in STUDENTS:
        files[name] = [*out.glob(f"outer-*/{name.replace(' ', '-')}/test/predictions.csv")]
    place = {pair.id: k for k, pair in enumerate(table.pairs)}
    found = {}
    for name, paths in files.items():
        probabilities = np.full((len(place), 3), np.nan)
        for path in filter(Path.is_file, paths):
            ids, values = read_predictions(path)
            probabilities[[place[row_id] for row_id in ids]] = values
        if not (table.labels == TIE).any():
            probabilities[:, TIE] = 0.0 * probabilities[:, 0]
            probabilities /= probabilities.sum(1, keepdims=True)
        if not np.isnan(probabilities).all():
            found[name] = probabilities
    return found


def blend(judges: np.ndarray, table: Table) -> np.ndarray:
    """Probabilities (n, 3) of a mean of logits of the judges (k, n, 3), weighed on the other folds' rows."""
    mixed = np.empty(judges.shape[1:])
    for fold in np.unique(table.folds):
        out = table.folds == fold
        weights = fit_weights(judges[:, ~out], table.labels[~out], "logits")
        mixed[out] = softmax(np.tensordot(weights, log_probabilities(judges[:, out]), 1))
    return mixed


def ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error of the verdict, 15 bins of equal mass, as the report has it."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = equal_mass_bins(confidence)
    return float(np.abs(np.bincount(bins, right - confidence)).sum() / len(labels))


if __name__ == "__main__":
    sys.exit(main())
