"""The whole chain: folds of each teacher, a student distilled from them, predictions of a test table, a report."""

import argparse
import json
from pathlib import Path

from tiebreak.data.table import has_labels
from tiebreak.errors import UserError
from tiebreak.files import sha256, write_json
from tiebreak.pipeline.cross_validation import fold_stages
from tiebreak.pipeline.recipe import Pipeline, load_pipeline
from tiebreak.pipeline.stages import Stage, check_needs, exec_stage, list_stages, run_stage
from tiebreak.pipeline.summary import conclude, render

RECORD, RESULTS = "pipeline.json", "metrics.json"
STUDENT, FROM_LABELS, AVERAGE, TEST, CONCLUDE = "student", "from-labels", "average", "test", "conclude"


def pipeline(options: argparse.Namespace) -> int:
    """Run, list (`--stages`) or run one of (`--stage`) the chain's stages; returns the exit code.

    Below `--out`: `TEACHER/fold-K/` run folders with their `oof/` predictions, `TEACHER/test/`, `average/`,
    `student/` with its `test/`, `from-labels/` likewise, `report/`, and at the end `submission.csv` and
    `metrics.json`. What is done is not done again.
    """
    if bool(options.data) != bool(options.test):
        raise UserError("--data and --test come together: what is learnt from, and what is predicted")
    recipe, out = load_pipeline(options.recipe), Path(options.out)
    claim_folder(out, recipe, options, write=not options.stages)
    stages = make_plan(recipe, out, options)
    if options.stages:
        print(list_stages(stages))
        return 0
    if options.stage not in (None, CONCLUDE):
        exec_stage(stages, options.stage)
        return 0
    if options.stage == CONCLUDE:
        check_needs(stages, CONCLUDE)
        conclude(out, recipe.teachers)
    else:
        for stage in stages:
            run_stage(stage, options.launch)
    print(render(json.loads((out / RESULTS).read_text(encoding="utf-8"))))
    return 0


def claim_folder(out: Path, recipe: Pipeline, options: argparse.Namespace, write: bool) -> None:
    """Leave a record of what this folder's chain is made from; refuse to mix it with another's.

    Raises:
        UserError: the folder is of another recipe or other tables.
    """
    tables = [*options.data, *([options.test] if options.test else [])]
    if absent := [name for name in tables if not Path(name).is_file()]:
        raise UserError(f"{', '.join(absent)}: no such file")
    now = {
        "recipe": recipe.model_dump(),
        "data": {name: sha256(Path(name)) for name in options.data},
        "test": {name: sha256(Path(name)) for name in tables[len(options.data) :]},
        "on_bad_row": options.on_bad_row,
    }
    path = out / RECORD
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name in now if before.get(name) != now[name]]:
            raise UserError(f"{out} is of another chain: its {', '.join(changed)} differ ({path}); take a new --out")
    elif write:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, now)


def table_stages(recipe: Pipeline, out: Path, options: argparse.Namespace) -> tuple[list[Stage], list[str], str]:
    """The stages that check the tables and, if none are given, write the sample's; what to learn from; the test."""
    stages, data, test = [], list(options.data), options.test
    if not data:
        settings, files = recipe.sample, [out / "tables" / "train.csv", out / "tables" / "test.csv"]
        for k, (file, rows) in enumerate(zip(files, (settings.rows, settings.test_rows), strict=True)):
            words = ["sample", "--rows", str(rows), "--seed", str(settings.seed + k), "--profile", settings.profile]
            stages.append(Stage(f"tables/{file.stem}", [*words, "--out", str(file)], file))
        data, test = [str(files[0])], str(files[1])
    done = out / "tables" / "check.txt"
    words = ["check", *data, "--test", test, "--on-bad-row", options.on_bad_row, "--out", str(done)]
    return [*stages, Stage("tables/check", words, done, tuple(stage.name for stage in stages))], data, test


def make_plan(recipe: Pipeline, out: Path, options: argparse.Namespace) -> list[Stage]:
    """All stages, in an order that they can run in."""
    stages, data, test = table_stages(recipe, out, options)
    ready = (stages[-1].name,)
    rows = ["--data", *data, "--on-bad-row", options.on_bad_row]
    engine = ["--ds", str(options.ds)] if options.ds else ["--engine", options.engine]
    swap = ["--swap"] if recipe.swap else []

    def predict_test(name: str, models: list[Path], needs: list[str]) -> Stage:
        folder = out / name / TEST
        words = ["predict", "--model", *map(str, models), "--data", test, *swap, "--out", str(folder)]
        return Stage(f"{name}/{TEST}", words, folder / "predictions.csv", tuple(needs), gpu=True)

    out_of_fold: dict[str, list[Stage]] = {}
    for name, teacher in recipe.teachers.items():
        folds = fold_stages(f"{name}/", out / name, recipe.folds, [*teacher.words, *engine], rows, swap, ready)
        trainings, out_of_fold[name] = folds[::2], folds[1::2]
        models = [stage.done.parent for stage in trainings]
        stages += [*folds, predict_test(name, models, [stage.name for stage in trainings])]

    folders = {name: ",".join(str(stage.done.parent) for stage in found) for name, found in out_of_fold.items()}
    sources = {STUDENT: ["distill", "--teachers", *(f"{name}={words}" for name, words in folders.items())]}
    needs = {STUDENT: tuple(stage.name for found in out_of_fold.values() for stage in found)}
    if recipe.from_labels:
        sources[FROM_LABELS], needs[FROM_LABELS] = ["train"], ready
    for name, source in sources.items():
        words = [*source, *recipe.student.words, *rows, *engine, "--out", str(out / name), "--resume", "auto"]
        stages.append(Stage(name, words, out / name / "metrics.json", needs[name], gpu=True))
        stages.append(predict_test(name, [out / name], [name]))

    tested = {name: out / name / TEST for name in (*recipe.teachers, *sources)}
    names = tuple(f"{name}/{TEST}" for name in tested)
    if len(recipe.teachers) > 1:
        file = out / AVERAGE / "predictions.csv"
        words = ["ensemble", *(str(tested[name]) for name in recipe.teachers), "--out", str(file)]
        stages.append(Stage(AVERAGE, words, file, names[: len(recipe.teachers)]))
        tested[AVERAGE], names = file, (*names, AVERAGE)
    if not options.test or has_labels(Path(options.test)):
        judges = [f"{name}={path}" for name, path in tested.items()]
        words = ["report", *judges, "--labels", test, "--out", str(out / "report"), "--on-bad-row", options.on_bad_row]
        words += ["--runs", *(str(out / name) for name in sources)]
        stages.append(Stage("report", words, out / "report" / "index.html", names))
        names = ("report",)
    given = ["--data", *options.data, "--test", options.test] if options.data else []
    words = ["pipeline", "--recipe", options.recipe, *given, "--on-bad-row", options.on_bad_row, "--out", str(out)]
    return [*stages, Stage(CONCLUDE, [*words, "--stage", CONCLUDE], out / RESULTS, names)]
