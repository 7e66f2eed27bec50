"""The command: every number recomputed, what it writes, what it lacks, and the user's mistakes."""

import csv
import json
import re
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel
from recompute import check_report

from tiebreak.cli import main
from tiebreak.data.encode import prompt_group
from tiebreak.data.folds import assign_folds
from tiebreak.data.predictions import ORDERS, write_predictions
from tiebreak.evaluation.baselines import FOLDS
from tiebreak.evaluation.inputs import Predictions, read_labelled
from tiebreak.evaluation.measure import predict_baselines, say_what_is_void
from tiebreak.evaluation.schema import Estimate, Report
from tiebreak.sample.generator import write_sample
from tiebreak.sample.law import bayes_probabilities
from tiebreak.tables.table import read_table

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "report.md"
HEADER = "id,winner_model_a,winner_model_b,winner_tie\n"


@pytest.fixture(scope="module")
def made(judged, tmp_path_factory):
    """A report of real predictions with everything in it."""
    out = tmp_path_factory.mktemp("report")
    files = ["report", str(judged.swapped), f"one={judged.plain}", "--labels", str(judged.table), "--out", str(out)]
    files += ["--attacked", str(judged.attacked), str(judged.attacked), "--runs", str(judged.run)]
    assert main([*files, "--resamples", "100", "--family", "sample-elm", "--seed", "3"]) == 0
    return out


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "labels.csv"
    write_sample(path, 300, seed=21, profile="short")
    return path


def bayes_file(table: Path, path: Path, power: float = 1.0) -> Path:
    pairs = read_table([table]).pairs
    law = bayes_probabilities(*zip(*((p.prompt, p.response_a, p.response_b) for p in pairs), strict=True)) ** power
    path.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(path, [p.id for p in pairs], law / law.sum(1, keepdims=True))
    return path


def test_every_number_of_the_report_is_recomputed_by_another_route(made, judged):
    predictions = [judged.swapped, judged.plain]
    assert check_report(made, judged.table, predictions, [judged.attacked] * 2, [judged.run]) > 1_000


def test_what_is_written(made):
    names = {path.name for path in made.iterdir()}
    assert names == {"index.html", "metrics.json", "plots", "curves.png"}
    plots = {path.stem for path in (made / "plots").glob("*.png")}
    light = {name for name in plots if not name.endswith("-dark")}
    assert {
        "log-loss",
        "slices",
        "reliability-a",
        "position",
        "consistency",
        "coverage",
        "verbosity",
        "families",
    } <= light
    assert {"repetition", "differences", "curve-loss", "curve-validation-log-loss"} <= light
    assert plots == light | {f"{name}-dark" for name in light}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (made / "plots").iterdir())


def test_metrics_json_follows_its_schema_and_the_schema_is_documented(made):
    found = Report.model_validate_json((made / "metrics.json").read_text())
    assert [judge.name for judge in found.judges] == ["swapped", "one"]
    assert found.judges[0].position.both_orders and not found.judges[1].position.both_orders
    assert found.judges[0].self_enhancement.judge_family == "sample-elm"
    text = DOCS.read_text(encoding="utf-8").partition("## metrics.json")[2]
    documented = set(re.findall(r"^\| `([^`]+)` \|", text, re.M))
    assert documented == set(fields(Report))


def fields(model: type[BaseModel], at: str = "") -> list[str]:
    """Paths of the schema's fields: lists as `[]`, dictionaries as `{}`; an estimate is a leaf."""
    paths = []
    for name, field in model.model_fields.items():
        kind, path = field.annotation, f"{at}{name}"
        while typing.get_args(kind):
            outer, inner = typing.get_origin(kind), [a for a in typing.get_args(kind) if a is not type(None)]
            path += {list: "[]", dict: "{}"}.get(outer, "")
            kind = inner[-1]
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Estimate:
            paths += fields(kind, f"{path}.")
        else:
            paths.append(path)
    return paths


def test_the_terminal_shows_the_same_figures(judged, made, tmp_path, capsys):
    command = ["report", str(judged.swapped), "--labels", str(judged.table), "--out", str(tmp_path)]
    assert main([*command, "--resamples", "100", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    judge = Report.model_validate_json((made / "metrics.json").read_text()).judges[0]
    line = next(line for line in text.splitlines() if line.startswith("swapped"))
    assert line.split()[1] == f"{judge.scores.log_loss.value:.4f}"
    assert f"{100 * judge.scores.accuracy.value:.1f}" in line
    assert str(tmp_path / "index.html") in text
    again = (tmp_path / "metrics.json").read_bytes()
    assert main([*command, "--resamples", "100", "--seed", "3"]) == 0
    assert (tmp_path / "metrics.json").read_bytes() == again, "the same command gives the same figures"


def test_bayes_closes_the_gap_and_the_baselines_never_saw_the_prompt(table, tmp_path):
    file = bayes_file(table, tmp_path / "law.csv")
    sharp = bayes_file(table, tmp_path / "sharp.csv", 2.0)
    files = ["report", str(file), str(sharp), "--labels", str(table), "--out", str(tmp_path / "out")]
    assert main([*files, "--resamples", "100"]) == 0
    found = Report.model_validate_json((tmp_path / "out" / "metrics.json").read_text())
    assert found.judges[0].scores.gap_closed.value == pytest.approx(1, abs=1e-6)  # nine decimals in the file
    assert found.pairs[0].log_loss.high < 0, "the law is better than its overconfident copy"
    assert list(found.baselines) == ["prior", "length", "tfidf", "numbers", "boosted", "bayes"]
    rows = read_labelled(table)
    labels, prior = rows.labels, predict_baselines(rows)["prior"]
    groups = np.array([prompt_group(pair.prompt) for pair in rows.pairs])
    folds = assign_folds(labels, groups, FOLDS, seed=0)
    for fold in range(FOLDS):
        rest = np.bincount(labels[folds != fold], minlength=3) / (folds != fold).sum()
        np.testing.assert_allclose(prior[folds == fold], np.tile(rest, ((folds == fold).sum(), 1)), atol=1e-12)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1, "a prompt was parted by the folds"


def test_a_labels_table_without_texts_says_what_it_lacks(table, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    with open(table, newline="", encoding="utf-8") as file, open(labels, "w", newline="", encoding="utf-8") as out:
        rows = list(csv.DictReader(file))
        writer = csv.DictWriter(out, ["id", "winner_model_a", "winner_model_b", "winner_tie"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[:200])
    file = bayes_file(table, tmp_path / "law.csv")
    assert (
        main(["report", str(file), "--labels", str(labels), "--out", str(tmp_path / "out"), "--resamples", "100"]) == 0
    )
    assert "note: labels.csv has no texts" in capsys.readouterr().out
    found = Report.model_validate_json((tmp_path / "out" / "metrics.json").read_text())
    judge = found.judges[0]
    assert (found.rows, judge.verbosity, judge.self_enhancement, judge.slices) == (200, None, None, [])
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "has no texts" in page and "Not measured" in page


def test_a_judge_that_answers_all_rows_alike_is_told():
    labels, rng = np.arange(60) % 3, np.random.default_rng(0)
    level, other = np.full((60, 3), 1 / 3), rng.dirichlet([2, 2, 2], 60)
    level[:, 0] += rng.uniform(0, 0.01, 60)
    level[:, 1] = 1 - level[:, 0] - level[:, 2]
    judges = [Predictions(name, Path(name), p) for name, p in (("level", level), ("other", other))]
    (said,) = say_what_is_void(judges, len(labels))
    assert said.startswith("level gives nearly the same probabilities to every row: ") and "at most 1.0" in said


def test_few_rows_and_files_that_lack_ids(table, tmp_path, capsys):
    file = bayes_file(table, tmp_path / "law.csv")
    some = tmp_path / "some.csv"
    some.write_text("".join(file.read_text().splitlines(keepends=True)[:13]))
    files = ["report", str(file), str(some), "--labels", str(table), "--out", str(tmp_path / "out")]
    assert main([*files, "--resamples", "100"]) == 0
    text = capsys.readouterr().out
    assert (
        "some.csv lacks 288 labelled ids" in text and "12 prompts" in text and "class prior stands here alone" in text
    )
    found = Report.model_validate_json((tmp_path / "out" / "metrics.json").read_text())
    assert found.rows == 12 and found.baselines.keys() == {"prior", "bayes"}
    assert found.notes[0] == "12 rows: too few to say anything of a judge"
    assert text.startswith(f"note: {found.notes[0]}\n"), "before the figures"
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert -1 < page.index(found.notes[0]) < page.index('class="cards"')
    one = tmp_path / "one.csv"
    one.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert main(["report", str(one), "--labels", str(table), "--out", str(tmp_path / "one"), "--resamples", "100"]) == 0
    assert "no baselines" in capsys.readouterr().out


def test_orders_of_another_prediction_are_left_out(table, tmp_path, capsys):
    file = bayes_file(table, tmp_path / "judge" / "predictions.csv")
    for name in ORDERS:
        bayes_file(table, tmp_path / "judge" / name, 2.0)
    assert (
        main(["report", str(file), "--labels", str(table), "--out", str(tmp_path / "out"), "--resamples", "100"]) == 0
    )
    assert "are not of the same prediction" in capsys.readouterr().out
    assert (
        Report.model_validate_json((tmp_path / "out" / "metrics.json").read_text()).judges[0].position.consistency
        is None
    )


def test_runs_alone_make_a_page_of_curves(judged, tmp_path):
    assert main(["report", "--runs", str(judged.run), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "curves.png").is_file()
    assert "Training curves" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_attack_doubles_one_answer_by_its_id_alone(table, tmp_path):
    assert main(["attack", "--data", str(table), "--out", str(tmp_path / "a.csv")]) == 0
    before, after = read_table([table]).pairs, read_table([tmp_path / "a.csv"]).pairs
    sides = []
    for old, new in zip(before, after, strict=True):
        assert (old.id, old.prompt) == (new.id, new.prompt) and new.label is None
        doubled = [
            [f"{turn}\n{turn}" if turn else turn for turn in answer] for answer in (old.response_a, old.response_b)
        ]
        kept = [new.response_a == old.response_a, new.response_b == old.response_b]
        made = [new.response_a == doubled[0], new.response_b == doubled[1]]
        assert (made[0] and kept[1]) or (made[1] and kept[0])
        sides.append(made[1])
    assert 0.4 < np.mean(sides) < 0.6


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("id,a,b\n1,1,0\n", "not a predictions file"),
        (HEADER, "no rows"),
        (HEADER + "1,0.5,0.5\n", "row 1: not an id and three"),
        (HEADER + "1,0.5,0.2,0.3\n2,x,0,1\n", "row 2: not an id and three"),
        (HEADER + "1,0.5,0.2,0.2\n", "row 1 (id 1): 0.5, 0.2, 0.2 are not probabilities"),
        (HEADER + "1,nan,0.5,0.5\n", "row 1 (id 1): nan"),
        (HEADER + "1,1.5,-0.5,0\n", "are not probabilities"),
        (HEADER + "1,1,0,0\n1,1,0,0\n", "the id 1 occurs twice"),
        (HEADER + "nobody,1,0,0\n", "none of its ids is labelled"),
    ],
)
def test_a_bad_prediction_file_is_reported_by_file_and_row(lines, message, table, tmp_path, capsys):
    file = tmp_path / "bad.csv"
    file.write_text(lines)
    assert main(["report", str(file), "--labels", str(table), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "bad.csv" in error and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_users_mistakes(judged, table, tmp_path, capsys):
    file = str(bayes_file(table, tmp_path / "law.csv"))
    report = ["report", "--out", str(tmp_path / "out")]
    cases = [
        (report, "nothing to report on"),
        ([*report, file], "--labels is required"),
        ([*report, file, "--labels", str(tmp_path / "none.csv")], "no such file"),
        ([*report, str(tmp_path), "--labels", str(table)], "no predictions.csv in it"),
        ([*report, file, "--labels", str(table), "--resamples", "5"], "at least 100"),
        ([*report, file, "--labels", str(table), "--attacked", file, file], "2 files for 1"),
        (
            [*report, file, "--labels", str(table), "--attacked", str(judged.attacked)],
            "attack and predict the same table",
        ),
        ([*report, "--runs", str(tmp_path)], "no log.jsonl"),
        ([*report, file, "--labels", str(table), "--model", str(tmp_path), "--resamples", "100"], "no README.md"),
        (["attack", "--data", str(table), "--out", str(tmp_path / "a.txt")], "written as .csv"),
    ]
    for command, message in cases:
        assert main(command) == 2, command
        assert message in capsys.readouterr().err


def test_bad_labelled_rows_fail_or_are_skipped_and_kept(table, tmp_path, capsys):
    broken = tmp_path / "broken.csv"
    lines = table.read_text().splitlines(keepends=True)
    lines[5] = re.sub(r"[01],[01],[01]$", "1,1,0", lines[5])
    broken.write_text("".join(lines))
    command = ["report", str(bayes_file(table, tmp_path / "law.csv")), "--labels", str(broken)]
    command += ["--out", str(tmp_path / "out"), "--resamples", "100"]
    assert main(command) == 2
    assert "broken.csv, row 5" in capsys.readouterr().err
    assert main([*command, "--on-bad-row", "skip"]) == 0
    assert json.loads((tmp_path / "out" / "skipped_rows.jsonl").read_text())["row"] == 5
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"] == 299


def test_names_tell_files_apart(table, tmp_path):
    files = [bayes_file(table, tmp_path / name / "predictions.csv") for name in ("a/test", "b/test", "c")]
    files.append(bayes_file(table, tmp_path / "plain.csv"))
    command = ["report", *map(str, files), f"mine={files[0]}", "--labels", str(table), "--out", str(tmp_path / "out")]
    assert main([*command, "--resamples", "100"]) == 0
    names = [judge["name"] for judge in json.loads((tmp_path / "out" / "metrics.json").read_text())["judges"]]
    assert names == ["a/test", "b/test", "c", "plain", "mine"]


def test_the_report_never_loads_torch(judged, tmp_path, run):
    """So that it starts at once, and runs on a machine that has none."""
    code = "import sys; from tiebreak.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    command = ["report", judged.swapped, "--labels", judged.table, "--out", tmp_path, "--resamples", "100"]
    run(sys.executable, "-c", code, *command)
    assert (tmp_path / "index.html").is_file()
