"""The whole chain in one command: its plan, its folder, its end."""

import csv
import json
import re
import shlex
from pathlib import Path

import pipeline_chaos
import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.options import build_parser
from tiebreak.pipeline.recipe import PIPELINES, load_pipeline
from tiebreak.pipeline.run_pipeline import RECORD, claim_folder, open_pipeline, plan_stages
from tiebreak.pipeline.summary import Summary, next_steps


def stages_of(tmp_path, recipe="demo"):
    return plan_stages(open_pipeline(recipe, tmp_path / "out"))


@pytest.mark.parametrize("name", sorted(path.stem for path in PIPELINES.glob("*.yaml")))
def test_each_stage_comes_after_what_it_needs_and_is_a_command(tmp_path, name):
    found: set[str] = set()
    for stage in stages_of(tmp_path, name):
        assert set(stage.needs) <= found, stage
        assert stage.name not in found
        found.add(stage.name)
        build_parser().parse_args(stage.arguments)
    last = stages_of(tmp_path, name)[-1]
    needed, waiting = set(), [last.name]
    by_name = {stage.name: stage for stage in stages_of(tmp_path, name)}
    while waiting:
        needed.add(stage := waiting.pop())
        waiting += by_name[stage].needs
    assert needed == found, "every stage leads to the last one"


def test_a_student_learns_from_all_folds_of_all_teachers(tmp_path):
    by_name = {stage.name: stage for stage in stages_of(tmp_path)}
    teachers = [f"{name}/fold-{k}/oof" for name in ("gemma2", "llama2") for k in range(2)]
    assert set(by_name["student"].needs) == {*teachers, "gemma2/extra", "llama2/extra"}
    words = by_name["student"].arguments
    told = words[words.index("--teachers") + 1 :][:2]
    out = tmp_path / "out"
    parts = ("fold-0/oof", "fold-1/oof", "extra")
    assert told == [f"{name}={','.join(f'{out}/{name}/{part}' for part in parts)}" for name in ("gemma2", "llama2")]


def test_the_student_also_learns_tables_without_labels_from_all_folds_of_each_teacher(tmp_path):
    for name in ("train", "more", "test"):
        (tmp_path / f"{name}.csv").write_text("id,prompt,response_a,response_b\n")
    data, more, test = (tmp_path / f"{name}.csv" for name in ("train", "more", "test"))
    out = tmp_path / "out"
    stages = plan_stages(open_pipeline("first-place", out, data=[data], extra=[more], test=test))
    by_name = {stage.name: stage for stage in stages}
    predicted = by_name["gemma2/extra"].arguments
    assert set(by_name["gemma2/extra"].needs) == {f"gemma2/fold-{k}" for k in range(5)}
    assert predicted[predicted.index("--data") + 1] == str(more)
    assert "gemma2/extra" in by_name["student"].needs
    words = by_name["student"].arguments
    assert words[words.index("--extra") + 1] == str(more)
    assert words[words.index("--teachers") + 1].endswith(f",{out}/gemma2/extra")
    assert all("--extra" not in stage.arguments for stage in stages if stage.name not in ("student", "conclude"))
    claim_folder(open_pipeline("first-place", out, data=[data], extra=[more], test=test))
    with pytest.raises(UserError, match="changed: extra"):
        open_pipeline("first-place", out, data=[data], test=test)


def test_what_comes_next_can_be_typed_as_it_stands(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("train", "test"):
        (tmp_path / "tables" / f"{name}.csv").touch()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()
    _, page, *lines, known, columns = next_steps(tmp_path).splitlines()
    assert str(tmp_path / "report" / "index.html") in page and "response_a" in columns
    assert "sample's language and nothing else" in known
    commands = [shlex.split(line.partition(":")[2]) for line in lines]
    assert [words[1] for words in commands] == ["compare", "predict", "weights", "train"]
    for words in commands:
        assert words[0].endswith("tiebreak")
        options = build_parser().parse_args(words[1:])
        if words[1] != "train":
            assert all(Path(name).is_file() for name in getattr(options, "data", None) or [])
    assert options.data == ["YOUR.csv"] and options.model == "minilm-l6", "demo bases know no other language"
    assert load_recipe(options.recipe, options.set).data.max_tokens == 512


def test_the_summary_says_whose_votes_these_are_and_what_distillation_changed():
    rows = {
        "tfidf": {"log_loss": 0.99, "gap_closed": 0.24},
        "from-labels": {"log_loss": 0.74, "gap_closed": 0.8},
        "student": {"log_loss": 0.71, "gap_closed": 0.85, "extra_rows": 1000},
        "bayes": {"log_loss": 0.64, "gap_closed": 1.0},
    }
    said = " ".join(Summary(100, rows).in_words().split())
    assert "made up" in said and "student goes 85%, TF-IDF 24%" in said
    assert "with 1,000 more rows that only teachers judged, lowered the log loss by 0.0300" in said
    real = {name: {"log_loss": row["log_loss"]} for name, row in rows.items() if name != "bayes"}
    said = " ".join(Summary(100, real).in_words().split())
    assert "made up" not in said and "distillation lowered the log loss by 0.0300" in said


def test_stages_are_listed_without_a_trace(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pipeline", "--out", str(out), "--stages"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["tables/train", "-", "cpu", "todo"]
    assert ["gemma2/fold-1/oof", "gemma2/fold-1", "gpu", "todo"] in lines
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "none"], "no pipeline 'none'; shipped are demo, first-place"),
        (["--data", "x.csv"], "give both --data"),
        (["--extra", "x.csv"], "--extra goes with --data"),
        (["--data", "x.csv", "--test", "y.csv"], "x.csv, y.csv: no such file"),
        (["--stage", "report"], "stage report needs stages that are not done: gemma2/test"),
        (["--stage", "nothing"], "no stage 'nothing'; the stages are tables/train"),
    ],
)
def test_a_mistake_is_reported(tmp_path, capsys, words, message):
    assert main(["pipeline", "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folds: 1\nstudent: {recipe: distill-demo}\n", "folds: should be from 2 to 1,000"),
        ("teachers: {a: {recipe: demo-gemma2, sets: []}}\nstudent: {recipe: distill-demo}\n", "sets: no such field"),
        ("teachers: {a: {recipe: nothing}}\nstudent: {recipe: distill-demo}\n", "no recipe 'nothing'"),
        ("teachers: {report: {recipe: demo-gemma2}}\nstudent: {recipe: distill-demo}\n", "cannot be named report"),
    ],
)
def test_a_faulty_recipe_is_reported(tmp_path, text, message):
    (tmp_path / "chain.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        load_pipeline(str(tmp_path / "chain.yaml"))


def test_a_folder_of_the_version_before_and_one_with_another_description_go_on(tmp_path):
    out = tmp_path / "out"
    settings = open_pipeline("demo", out)
    claim_folder(settings)
    stored = json.loads((out / RECORD).read_text())
    del stored["version"], stored["recipe"]["description"]
    (out / RECORD).write_text(json.dumps(stored))
    open_pipeline("demo", out)
    with pytest.raises(UserError, match="changed: on_bad_row"):
        open_pipeline("demo", out, on_bad_row="skip")
    stored["recipe"]["teachers"]["gemma2"]["model"] = "other"
    (out / RECORD).write_text(json.dumps(stored))
    with pytest.raises(UserError, match="changed: recipe"):
        open_pipeline("demo", out)


@pytest.mark.processes
def test_a_chain_killed_twice_ends_as_undisturbed_and_repeats_nothing(tmp_path, capsys):
    had, _, _ = pipeline_chaos.torment(tmp_path, kills=2, seed=1, longest=25)
    assert had == 2
    out = tmp_path / "killed-1"
    found = json.loads((out / "metrics.json").read_text())
    assert list(found["rows"]) == ["prior", "length", "tfidf", "llama", "student", "bayes"]
    assert found["test_rows"] == 60 and all("log_loss" in row for row in found["rows"].values())
    assert found["rows"]["bayes"]["gap_closed"] == 1 and found["rows"]["student"]["parameters"] > 100_000
    assert found["rows"]["student"]["rows_per_second"] > 0
    with open(out / "submission.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "winner_model_a", "winner_model_b", "winner_tie"] and len(rows) == 60
    assert (out / "report" / "index.html").is_file()

    again = pipeline_chaos.command(tmp_path, out)[3:]
    assert main(again) == 0
    text = capsys.readouterr().out
    assert "$ tiebreak" not in text and "student distilled" in text, "a second call runs nothing and shows the table"
    (tmp_path / "chain.yaml").write_text((tmp_path / "chain.yaml").read_text().replace("folds: 2", "folds: 3"))
    assert main(again) == 2
    assert "belongs to another pipeline (changed: recipe" in capsys.readouterr().err
