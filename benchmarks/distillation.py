"""Does a student learn more from teachers than from labels? On the embedded sample, whose law is known.

python benchmarks/distillation.py                       # five seeds, the table of docs/distillation.md
python benchmarks/distillation.py --seeds 10 --out runs/distillation   # kept there, and gone on with if stopped

For each seed a new table: two teachers, each fine-tuned on one half of the prompts and predicting the other; then one
student three times, with the same start, rows, order and steps: from the labels, from the teachers' out-of-fold
predictions with the first-place loss, and from the law's own probabilities in place of the teachers, which is the
ceiling. As large teachers have seen more of the world than their student, these start from judges of a large table
that no student sees (--knowing 0: from a random start, so that they know less than the student). No checkpoint is
chosen: the last step is scored, on one test table that nobody has seen. The exit code is 1 if the distilled student is
not better than the one from labels by two standard errors.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tiebreak.cli import main as tiebreak
from tiebreak.data.encode import prompt_group
from tiebreak.tables.table import read_table

FOLDS = 2
TEST_SEED, KNOWING_SEED, FIRST_SEED = 999, 998, 100
COMMON = ["data.max_tokens=96", "train.eval_every=1000000", "train.keep=1"]
TEACHERS = {"gemma": "demo-gemma2", "llama": "demo-llama2"}
TEACHER = ["model.method=full", "model.head=siamese", "model.template=siamese", "model.pooling=mean"]
TEACHER += ["train.batch_size=32", "train.lr=2e-3"]
STUDENT = {
    "cross": ["train.epochs=4", "train.batch_size=32", "train.lr=4e-3", "data.swap=both"],
    "siamese": ["train.epochs=4", "train.batch_size=32", *TEACHER[1:4]],
}
"""Kinds of student: one that reads both answers at once, as those that are shipped, and one built like the teachers."""
STUDENTS = ("labels", "teachers", "law")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000, help="of each seed's table")
    parser.add_argument("--test-rows", type=int, default=1_500)
    parser.add_argument("--knowing", type=int, default=4_000, help="rows that the teachers have seen before")
    parser.add_argument("--student", choices=list(STUDENT), default="cross")
    parser.add_argument("--out", type=Path, help="keep everything here")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: a standard error needs at least two")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        home = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        test = sample(home / "test.csv", options.test_rows, TEST_SEED)
        for seed in range(options.seeds):
            sample(home / f"seed{seed}" / "train.csv", options.rows, FIRST_SEED + seed)
        tables = [test, *home.glob("seed*/train.csv")]
        bases = know(home, options.knowing, tables) if options.knowing else {}
        found = []
        for seed in range(options.seeds):
            found.append(one_seed(home / f"seed{seed}", seed, test, options.student, bases))
            shown = "  ".join(f"{name} {value:.4f}" for name, value in found[-1].items())
            print(f"seed {seed}: {shown}  ({time.monotonic() - started:.0f} s)", flush=True)
    return tell(found)


def know(home: Path, rows: int, tables: list[Path]) -> dict[str, Path]:
    """What each teacher starts from: a judge of another table, without the prompts of these."""
    seen = {prompt_group(pair.prompt) for pair in read_table(tables).pairs}
    drawn, table = sample(home / "drawn.csv", rows, KNOWING_SEED), home / "known.csv"
    kept = {pair.id for pair in read_table([drawn]).pairs if prompt_group(pair.prompt) not in seen}
    with open(drawn, encoding="utf-8", newline="") as source, open(table, "w", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(source)
        writer = csv.DictWriter(file, reader.fieldnames or ())
        writer.writeheader()
        writer.writerows(row for row in reader if row["id"] in kept)
    bases = {}
    for name, recipe in TEACHERS.items():
        run = home / f"known-{name}"
        words = ["train", "--recipe", recipe, "--data", table, "--valid", "none"]
        train(run, *words, changes=[*COMMON, *TEACHER, "train.epochs=3"])
        bases[name] = run / "model"
    return bases


def one_seed(home: Path, seed: int, test: Path, student: str, bases: dict[str, Path]) -> dict[str, float]:
    """Log losses on the test table; a teacher's is that of its out-of-fold predictions."""
    table = home / "train.csv"
    common = [*COMMON, f"train.seed={seed}"]
    losses: dict[str, float] = {}
    out_of_fold = {}
    for name, recipe in TEACHERS.items():
        folders = []
        for k in range(FOLDS):
            run, fold = home / name / f"fold{k}", ["--data", table, "--fold", f"{k}/{FOLDS}"]
            start = ["--model", bases[name]] if bases else []
            epochs = "train.epochs=1" if bases else "train.epochs=4"
            train(run, "train", "--recipe", recipe, *start, *fold, changes=[*common, *TEACHER, epochs])
            folders.append(str(home / name / f"oof{k}"))
            done(Path(folders[-1]) / "predictions.csv", "predict", "--model", run, *fold, "--out", folders[-1])
        out_of_fold[name] = f"{name}={','.join(folders)}"
    sources = {
        "labels": ["train"],
        "teachers": ["distill", "--teachers", *out_of_fold.values()],
        "law": ["distill", "--teachers", "bayes"],
    }
    for name in STUDENTS:
        run = home / f"{student}-{name}"
        command = [*sources[name], "--recipe", "distill-demo", "--data", table, "--valid", "none"]
        train(run, *command, changes=[*common, *STUDENT[student]])
        scores = score(run, test)
        losses[name] = scores["model"]["log_loss"]
        if name == "teachers":
            told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["teachers"]
            losses |= {entry["name"]: entry["log_loss"] for entry in told}
    return {"prior": scores["prior"]["log_loss"]} | losses | {"Bayes": scores["bayes"]["log_loss"]}


def sample(path: Path, rows: int, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    done(path, "sample", "--rows", rows, "--seed", seed, "--profile", "short", "--out", path)
    return path


def train(run: Path, *words: object, changes: list[str]) -> None:
    settings = [part for change in changes for part in ("--set", change)]
    done(run / "metrics.json", *words, "--out", run, "--resume", "auto", *settings)


def score(run: Path, test: Path) -> dict:
    """Scores of a run's model on the test table."""
    found = run / "test" / "metrics.json"
    done(found, "predict", "--model", run, "--data", test, "--labels", "auto", "--out", run / "test")
    return json.loads(found.read_text(encoding="utf-8"))


def done(result: Path, *words: object) -> None:
    """Run a command of ours unless its result is there."""
    if result.exists():
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = tiebreak([str(word) for word in words])
    if code:
        sys.exit(f"{said.getvalue()}\n{words[0]} ended with {code}")


def tell(found: list[dict[str, float]]) -> int:
    """Print the table; 0 if the teachers pay."""
    print(f"\n| on the test table, {len(found)} seeds | log loss | less than from labels | standard error |")
    print("|---|---|---|---|")
    pays = True
    for name in found[0]:
        losses = [entry[name] for entry in found]
        line = f"| {name} | {statistics.mean(losses):.4f} |"
        if name in STUDENTS[1:]:
            gains = [entry["labels"] - entry[name] for entry in found]
            mean, error = statistics.mean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
            line += f" {mean:.4f} | {error:.4f} |"
            pays &= mean > 2 * error
        else:
            line += " | |"
        print(line)
    return 0 if pays else 1


if __name__ == "__main__":
    sys.exit(main())
