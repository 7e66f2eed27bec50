"""The whole pipeline: folds of each teacher, a student distilled from them, predictions of a test table, a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from tiebreak.errors import UserError
from tiebreak.files import sha256
from tiebreak.launch_files import find_launch_file
from tiebreak.manifests import Manifest, read_manifest, write_manifest
from tiebreak.outputs import refuse_foreign
from tiebreak.pipeline import stage_record
from tiebreak.pipeline.beside import can_run_beside, run_beside
from tiebreak.pipeline.commands import StageCommands, as_word, predict_tables
from tiebreak.pipeline.cross_validation import fold_stages
from tiebreak.pipeline.recipe import Pipeline, load_pipeline
from tiebreak.pipeline.stages import Stage, check_needs, exec_stage, run_stage, with_records
from tiebreak.pipeline.summary import Summary, conclude
from tiebreak.preflight.early import refuse_absent
from tiebreak.storage import make_folder
from tiebreak.tables.table import has_labels

RECORD, RESULTS = "pipeline.json", "metrics.json"
STUDENT, FROM_LABELS, AVERAGE, CONCLUDE = "student", "from-labels", "average", "conclude"
TEST, EXTRA = "test", "extra"


class PipelineRecord(Manifest):
    """`pipeline.json`: what the pipeline of a folder is made from; tables by name with the hash of their bytes."""

    recipe: Pipeline
    data: dict[str, str]
    extra: dict[str, str] = Field(default_factory=dict)
    test: dict[str, str]
    on_bad_row: str

    def differences(self, other: "PipelineRecord") -> list[str]:
        """Names of the fields that differ. A description is no part of what runs."""
        pairs = ((each.model_dump(exclude={"version": True, "recipe": {"description"}})) for each in (self, other))
        mine, others = pairs
        return [name for name in mine if mine[name] != others[name]]


@dataclass(frozen=True)
class PipelineSettings:
    """What a pipeline is asked to do.

    Attributes:
        name: of its recipe, a shipped one or a YAML file, as the stages' own commands repeat it.
        recipe: what the name stands for.
        out: its folder.
        data: labelled tables to learn from; without them the embedded sample's are made.
        extra: tables without labels, which the student learns from the teachers.
        test: the table to predict.
        on_bad_row: `fail` or `skip`.
        engine: auto, ddp, fsdp or deepspeed.
        ds: DeepSpeed's configuration.
    """

    name: str
    recipe: Pipeline
    out: Path
    data: tuple[Path, ...]
    extra: tuple[Path, ...]
    test: Path | None
    on_bad_row: str
    engine: str
    ds: Path | None


def open_pipeline(
    recipe: str,
    out: Path,
    *,
    data: Sequence[Path] = (),
    extra: Sequence[Path] = (),
    test: Path | None = None,
    on_bad_row: str = "fail",
    engine: str = "auto",
    ds: Path | None = None,
) -> PipelineSettings:
    """Check what a pipeline is asked to do; the arguments are those of `PipelineSettings`. Writes nothing.

    Raises:
        UserError: a faulty recipe, tables that are absent or lack their counterpart, or a folder of another pipeline.
    """
    if bool(data) != (test is not None):
        raise UserError(
            "give both --data (training tables) and --test (table to predict), or neither for the embedded sample"
        )
    if extra and not data:
        raise UserError("--extra goes with --data: the embedded sample's recipe has extra_rows of its own")
    refuse_foreign(out, RECORD)
    refuse_absent([*data, *extra, *([test] if test else []), *([find_launch_file(ds)] if ds else [])])
    settings = PipelineSettings(
        recipe, load_pipeline(recipe), out, tuple(data), tuple(extra), test, on_bad_row, engine, ds
    )
    path = out / RECORD
    try:
        found = read_manifest(path, PipelineRecord) if path.is_file() else None
    except UserError as error:
        raise UserError(f"{error}: use a new --out, or remove that file if the chain is the same") from None
    if found is not None and (changed := found.differences(make_record(settings))):
        raise UserError(f"{out} belongs to another pipeline (changed: {', '.join(changed)}; {path}): use a new --out")
    return settings


def run_pipeline(settings: PipelineSettings, launch: str = "") -> Summary:
    """Run every stage that is not done yet.

    Below `out`: `TEACHER/fold-K/` run folders with their `oof/` predictions, `TEACHER/test/`, `average/`,
    `student/` with its `test/`, `from-labels/` likewise, `report/`, and at the end `submission.csv` and
    `metrics.json`.

    Args:
        settings: of `open_pipeline`.
        launch: launcher of the stages on accelerators, e.g. `torchrun --nproc-per-node 8`.

    Raises:
        StageFailed: a stage did not finish; the same call goes on from there.
    """
    claim_folder(settings)
    *stages, last = plan_stages(settings)
    if not (can_run_beside(settings.recipe.beside, launch) and run_beside(stages, settings.recipe.beside)):
        for stage in stages:
            run_stage(stage, launch)
    return _end(settings, last)


def _end(settings: PipelineSettings, last: Stage) -> Summary:
    """The last stage, in this process."""
    summary = conclude(settings.out, settings.recipe.teachers)
    stage_record.end(last.made_of(), last.done, last.record)
    return summary


def run_one_stage(settings: PipelineSettings, name: str) -> Summary | None:
    """Run one stage alone: this process becomes its command. Returns if the stage is done, or is the last.

    Raises:
        UserError: no such stage, or one that it needs is not done.
    """
    claim_folder(settings)
    stages = plan_stages(settings)
    if name != CONCLUDE:
        exec_stage(stages, name)
        return None
    return _end(settings, check_needs(stages, CONCLUDE))


def claim_folder(settings: PipelineSettings) -> None:
    """Leave the record of what this folder's pipeline is made from."""
    path = settings.out / RECORD
    if not path.is_file():
        make_folder(settings.out)
        write_manifest(path, make_record(settings))


def make_record(settings: PipelineSettings) -> PipelineRecord:
    """What the folder's record has to say for these settings."""
    test = [settings.test] if settings.test else []
    tables = (settings.data, settings.extra, test)
    data, extra, tests = ({str(path): sha256(path) for path in paths} for paths in tables)
    return PipelineRecord(recipe=settings.recipe, data=data, extra=extra, test=tests, on_bad_row=settings.on_bad_row)


def plan_stages(settings: PipelineSettings) -> list[Stage]:
    """All stages, in an order that they can run in."""
    recipe, out = settings.recipe, settings.out
    stages, tables = table_stages(settings)
    ready = (stages[-1].name,)
    commands = StageCommands(tables.data, settings.on_bad_row, settings.engine, settings.ds)

    def predict(name: str, models: Sequence[Stage], what: str, files: Sequence[Path]) -> Stage:
        folder = out / name / what
        words = predict_tables([model.done.parent for model in models], files, folder, recipe.swap)
        needs = tuple(model.name for model in models)
        return Stage(f"{name}/{what}", words, folder / "predictions.csv", needs, gpu=True)

    teachers: dict[str, list[Stage]] = {}
    for name, teacher in recipe.teachers.items():
        folds = fold_stages(commands, teacher, out / name, recipe.folds, recipe.swap, f"{name}/", ready)
        teachers[name] = [fold.predict for fold in folds]
        stages += [stage for fold in folds for stage in (fold.train, fold.predict)]
        trained = [fold.train for fold in folds]
        if tables.extra:
            teachers[name].append(predict(name, trained, EXTRA, tables.extra))
            stages.append(teachers[name][-1])
        stages.append(predict(name, trained, TEST, [tables.test]))

    students = {STUDENT: tuple(stage.name for taught in teachers.values() for stage in taught)}
    sources = {STUDENT: [f"{n}={','.join(str(stage.done.parent) for stage in of)}" for n, of in teachers.items()]}
    if recipe.from_labels:
        students[FROM_LABELS], sources[FROM_LABELS] = ready, []
    for name, needs in students.items():
        extra = tables.extra if sources[name] else ()
        words = commands.train(recipe.student, out / name, teachers=sources[name], extra=extra)
        stages.append(Stage(name, words, out / name / "metrics.json", needs, gpu=True))
        stages.append(predict(name, stages[-1:], TEST, [tables.test]))
    return with_records([*stages, *final_stages(settings, tables.test, list(students))], out)


class Tables(NamedTuple):
    """What to learn from with labels, what without, and what to predict."""

    data: tuple[Path, ...]
    extra: tuple[Path, ...]
    test: Path


def table_stages(settings: PipelineSettings) -> tuple[list[Stage], Tables]:
    """The stages that check the tables and, if none are given, write the sample's; and the tables."""
    stages, out = [], settings.out / "tables"
    if settings.test is None:
        sample = settings.recipe.sample
        sizes = {"train": sample.rows, "test": sample.test_rows, "extra": sample.extra_rows}
        files = {name: out / f"{name}.csv" for name, rows in sizes.items() if rows}
        for index, (name, file) in enumerate(files.items()):
            words = ["sample", "--rows", str(sizes[name]), "--seed", str(sample.seed + index)]
            words += ["--profile", sample.profile, "--out", as_word(file)]
            stages.append(Stage(f"tables/{name}", words, file))
        tables = Tables((files["train"],), (files["extra"],) if sample.extra_rows else (), files["test"])
    else:
        tables = Tables(settings.data, settings.extra, settings.test)
    done = out / "check.txt"
    words = ["check", *map(as_word, tables.data), "--test", as_word(tables.test), "--on-bad-row", settings.on_bad_row]
    words += ["--out", as_word(done)]
    return [*stages, Stage("tables/check", words, done, tuple(stage.name for stage in stages))], tables


def final_stages(settings: PipelineSettings, test: Path, students: list[str]) -> list[Stage]:
    """The stages after all predictions: the teachers' average, the report, and the table at the end."""
    out, teachers = settings.out, list(settings.recipe.teachers)
    stages, predicted = [], {name: out / name / TEST for name in (*teachers, *students)}
    names = tuple(f"{name}/{TEST}" for name in predicted)
    if len(teachers) > 1:
        file = out / AVERAGE / "predictions.csv"
        words = ["ensemble", *(as_word(predicted[name]) for name in teachers), "--out", as_word(file)]
        stages.append(Stage(AVERAGE, words, file, names[: len(teachers)]))
        predicted[AVERAGE], names = file, (*names, AVERAGE)
    if settings.test is None or has_labels(settings.test):
        judges = [f"{name}={path}" for name, path in predicted.items()]
        words = ["report", *judges, "--labels", as_word(test), "--out", as_word(out / "report")]
        words += ["--on-bad-row", settings.on_bad_row, "--runs", *(as_word(out / name) for name in students)]
        stages.append(Stage("report", words, out / "report" / "index.html", names, also=(out / "report" / RESULTS,)))
        names = ("report",)
    given = ["--data", *map(as_word, settings.data), "--test", as_word(settings.test)] if settings.test else []
    given += ["--extra", *map(as_word, settings.extra)] if settings.extra else []
    words = ["pipeline", "--recipe", settings.name, *given, "--on-bad-row", settings.on_bad_row, "--out", as_word(out)]
    return [*stages, Stage(CONCLUDE, [*words, "--stage", CONCLUDE], out / RESULTS, names)]
