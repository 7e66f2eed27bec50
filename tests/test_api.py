"""The Python front door: the same numbers as the commands, in memory; its examples run."""

import csv
import doctest
import json
import logging
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tiebreak
from tiebreak.cli import main
from tiebreak.data.encode import prompt_group
from tiebreak.models.folder import read_prompts
from tiebreak.prediction.predict import PredictionRun
from tiebreak.suites.forms import read_suites
from tiebreak.suites.scoring import score_suite
from tiebreak.tables.cells import encode_json_cell
from tiebreak.tables.table import Table

TINY = {"train.max_steps": 4, "train.batch_size": 16, "data.max_tokens": 96}


@pytest.fixture(scope="module")
def run(sample: Path, tmp_path_factory: pytest.TempPathFactory):
    """A judge trained in Python, and the step records that its hook was given."""
    records: list[dict] = []
    out = tmp_path_factory.mktemp("api") / "run"
    return tiebreak.train("demo-deberta", data=sample, out=out, on_step=records.append, **TINY), records


@pytest.fixture(scope="module")
def judge(run) -> tiebreak.Judge:
    return tiebreak.Judge.load(run[0].folder, device="cpu")


@pytest.fixture(scope="module")
def table(sample: Path):
    return tiebreak.read_table(sample)


@pytest.mark.slow
def test_what_the_command_trains_python_trains_bit_for_bit(run, sample, tmp_path):
    changes = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    words = ["train", "--recipe", "demo-deberta", "--data", str(sample), "--out", str(tmp_path / "run"), *changes]
    assert main(words) == 0
    for name in ("model.safetensors", "tiebreak.json", "tokenizer.json"):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (run[0].model / name).read_bytes(), name


def test_the_hook_gets_every_step_as_the_log_has_it(run):
    lines = (run[0].folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert run[1] == [record for record in map(json.loads, lines) if "loss" in record]
    assert [record["step"] for record in run[1]] == [1, 2, 3, 4]


def test_training_leaves_the_callers_signal_handlers(sample, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]
    tiebreak.train("demo-deberta", data=sample, out=tmp_path / "run", **(TINY | {"train.max_steps": 1}))
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]
    assert after == before


@pytest.mark.slow
@pytest.mark.parametrize("swap", [False, True])
def test_invariant_10_predict_in_memory_gives_the_bytes_of_the_commands_table(
    judge, run, sample, table, tmp_path, swap
):
    words = ["predict", "--model", str(run[0].folder), "--data", str(sample), "--out", str(tmp_path / "p")]
    assert main([*words, *(["--swap"] if swap else [])]) == 0
    probabilities = judge.predict(table.pairs, swap=swap)
    tiebreak.write_predictions(tmp_path / "memory.csv", [pair.id for pair in table.pairs], probabilities)
    assert (tmp_path / "memory.csv").read_bytes() == (tmp_path / "p" / "predictions.csv").read_bytes()
    if swap:
        tiebreak.write_predictions(str(tmp_path / "ab.csv"), [pair.id for pair in table.pairs], judge.predict(table))
        assert tiebreak.read_predictions(str(tmp_path / "ab.csv"))[0] == [pair.id for pair in table.pairs]
        assert (tmp_path / "ab.csv").read_bytes() == (tmp_path / "p" / "predictions_ab.csv").read_bytes()


def test_nothing_is_written_by_a_prediction_in_memory(judge, table, session_cache):
    def files() -> set[Path]:
        return {path for path in session_cache.rglob("*") if path.is_file()}

    before = files()
    judge.predict(table.pairs[:5], swap=True)
    assert files() == before


def test_pairs_of_every_kind_give_the_same_numbers(judge, table):
    import datasets
    import pandas

    pairs = table.pairs[:20]
    rows = [{"prompt": p.prompt, "response_a": p.response_a, "response_b": p.response_b} for p in pairs]
    raw = [{name: encode_json_cell(text) for name, text in row.items()} for row in rows]
    tuples = [tuple(row.values()) for row in rows]
    expected = judge.predict(pairs)
    assert np.array_equal(judge.predict(Table(pairs)), expected)
    for kind in (rows, tuples, pandas.DataFrame(rows), datasets.Dataset.from_list(rows), pandas.DataFrame(raw)):
        assert np.array_equal(judge.predict(kind), expected)


def test_a_verdict_is_the_row_of_predict(judge):
    pair = ("Why does my bicycle not work like the river?", "It is useless.", "First, check the bicycle.")
    verdict = judge.compare(*pair)
    assert [verdict.a, verdict.b, verdict.tie] == judge.predict([pair], swap=True)[0].tolist()
    mirrored = judge.compare(pair[0], pair[2], pair[1])
    # The same two rows are added in another order, so only the last bits may differ.
    assert (mirrored.a, mirrored.b, mirrored.tie) == pytest.approx((verdict.b, verdict.a, verdict.tie), abs=1e-6)
    assert str(verdict).startswith(verdict.winner)


def test_neither_of_two_identical_answers_wins(judge):
    for answer in ("It is useless.", "First, check the bicycle.", ["One", "Two", None]):
        prompt = ["p", "q", "r"] if isinstance(answer, list) else "p"
        verdict = judge.compare(prompt, answer, answer)
        assert verdict.a == verdict.b and verdict.winner == "tie"


def test_none_is_an_empty_answer_as_a_null_turn_is(judge):
    assert judge.compare("q", None, "b") == judge.compare("q", "", "b") == judge.compare("q", [None], "b")


def test_a_judge_is_shown_by_its_folder_base_and_device(judge):
    assert len(repr(judge)) < 100 + len(str(judge.folder))
    assert all(fact in repr(judge) for fact in (str(judge.folder), "demo-deberta", "cpu"))


def test_answers_are_ranked_by_their_mean_score(judge):
    prompt, answers = (
        "What is a poem?",
        ["A text.", "Roses are red, violets are blue.", "I forgot.", "A text in verse."],
    )
    places = judge.rank(prompt, answers)
    assert sorted(place.index for place in places) == [0, 1, 2, 3]
    assert [place.answer for place in places] == [answers[place.index] for place in places]
    assert sum(place.score for place in places) == pytest.approx(2)  # six games share six points: 6 / 3 opponents
    duel = judge.compare(prompt, answers[0], answers[1])
    two = {place.index: place.score for place in judge.rank(prompt, answers[:2])}
    assert two[0] == pytest.approx(duel.a + duel.tie / 2, abs=1e-9)
    with pytest.raises(tiebreak.UserError, match="two answers"):
        judge.rank(prompt, answers[:1])


def test_bad_pairs_are_named_by_their_position(judge):
    with pytest.raises(tiebreak.UserError, match=r"pairs\[1\]"):
        judge.predict([("p", "a", "b"), ("p", "a")])


def test_a_dataframe_where_a_file_is_wanted_is_told_so(run, tmp_path):
    frame = pd.DataFrame({"id": [1], "prompt": ["p"], "response_a": ["a"], "response_b": ["b"], "winner": ["tie"]})
    calls = (
        lambda: tiebreak.read_table(frame),
        lambda: tiebreak.baseline([frame]),
        lambda: tiebreak.predict(run[0].folder, frame, tmp_path / "p"),
        lambda: tiebreak.write_report([tmp_path / "p"], frame, tmp_path / "r"),
    )
    for call in calls:
        with pytest.raises(tiebreak.UserError, match=r"a DataFrame in place of a file's path: .*Judge.predict"):
            call()
    with pytest.raises(tiebreak.UserError, match="a dict in place of a file's path"):
        tiebreak.read_table([{"prompt": "p"}])


def test_comparisons_without_a_label_are_refused_by_their_own_columns(tmp_path):
    frame = pd.DataFrame({"prompt": ["p"], "response_a": ["a"], "response_b": ["b"], "winer": ["a"]})
    for data in (frame, frame.to_dict("records")):
        with pytest.raises(tiebreak.UserError, match=r"what else they have: winer\..*columns=\{'winer': 'winner'\}"):
            tiebreak.train("demo-deberta", data=data, out=tmp_path / "run")
    with pytest.raises(tiebreak.UserError, match="no comparison has a label"):
        tiebreak.train("demo-deberta", valid=[("p", "a", "b")], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prediction_is_shown_in_one_line(tmp_path):
    shown = repr(PredictionRun(tmp_path / "predictions.csv", 200, 0, 1.5, {"model": {"log_loss": 1.0}}))
    assert shown.startswith("PredictionRun(path=") and "rows=200, failed=0" in shown and "log_loss" not in shown


def test_comparisons_in_memory_train_what_their_table_trains(run, table, tmp_path):
    rows = [
        {"id": p.id, "prompt": p.prompt, "response_a": p.response_a, "response_b": p.response_b, "winner": w}
        for p in table.pairs
        for w in [("model_a", "model_b", "tie")[p.label]]
    ]
    again = tiebreak.train("demo-deberta", data=rows, out=tmp_path / "run", **TINY)
    assert (again.model / "model.safetensors").read_bytes() == (run[0].model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_library_prints_nothing_by_itself(run, sample):
    code = (
        "import tiebreak, sys; judge = tiebreak.Judge.load(sys.argv[1]); judge.compare('p', 'a', 'b'); "
        "judge.rank('p', ['a', 'b'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run[0].folder)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_messages_go_through_logging(run, sample, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "tiebreak"):
        tiebreak.predict(run[0].folder, sample, tmp_path / "p")
    assert any("part" in message for message in caplog.messages)


def test_every_name_of_the_front_door_is_there():
    for name in tiebreak.__all__:
        assert getattr(tiebreak, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tiebreak.nothing  # noqa: B018


def test_examples_of_the_front_door_run(judge, table, tmp_path, monkeypatch):
    import tiebreak.api
    import tiebreak.choosing

    monkeypatch.setattr(logging.getLogger("tiebreak"), "handlers", [])  # as in a program that runs no command

    rows = [pair for pair in table.pairs if pair.label is not None]
    modules = (tiebreak.api, tiebreak.choosing)
    globs = {"judge": judge, "rows": rows, "folder": tmp_path}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    found = [test for module in modules for test in finder.find(module, globs=globs | vars(module))]
    examples = [test for test in found if test.examples]
    names = {"Judge", "predict", "compare", "rank", "train", "best_of"}
    assert {test.name.rpartition(".")[2] for test in examples} >= names
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.slow
def test_the_examples_of_the_docs_run(judge, run, sample, tmp_path, monkeypatch):
    """The blocks of docs/python.md in order, on this module's judge in place of the demo's."""
    import matplotlib

    matplotlib.use("agg")
    text = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) >= 5
    student = tmp_path / "runs" / "demo" / "student"
    student.parent.mkdir(parents=True)
    student.symlink_to(run[0].folder)
    (tmp_path / "runs" / "demo" / "tables").mkdir()
    for name in ("test.csv", "train.csv"):
        (tmp_path / "runs" / "demo" / "tables" / name).write_bytes(sample.read_bytes())
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), scope)
    assert (tmp_path / "reliability.png").stat().st_size > 1_000


@pytest.mark.slow
def test_the_examples_of_comparing_run_and_python_says_what_the_command_says(judge, run, tmp_path, monkeypatch, capsys):
    """The console blocks of docs/compare.md, on this module's judge in place of the demo's: its figures are others."""
    text = (Path(__file__).parent.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    teacher = tmp_path / "runs" / "demo" / "gemma2" / "fold-0"
    teacher.parent.mkdir(parents=True)
    teacher.symlink_to(run[0].folder)
    monkeypatch.chdir(tmp_path)
    told = {}
    blocks = [part.partition("```")[0] for part in text.split("```console\n")[1:]]
    for line in (line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")):
        if line.startswith("tiebreak "):
            assert main(shlex.split(line)[1:]) == 0, line
            told[line.split()[1]] = capsys.readouterr().out
        else:
            subprocess.run(line, shell=True, check=True)
    assert told["compare"] == f"{tiebreak.compare(judge, 'pairs.csv')}\n"
    p = judge.predict(tiebreak.read_table("pairs.csv"), swap=True)
    assert tiebreak.compare(teacher, "pairs.csv").win_rate == pytest.approx((p[:, 0] + p[:, 2] / 2).mean())
    (choice,) = tiebreak.best_of(judge, "candidates.jsonl")
    with open("best.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["response"], int(row["index"])) == (choice.answer[0], choice.index)
    assert (
        choice.index
        == judge.rank(choice.prompt, json.loads(Path("candidates.jsonl").read_text())["responses"])[0].index
    )


def test_a_judge_on_a_suite_gets_what_its_predictions_get_and_its_record_names_the_trained_prompts(
    judge, run, table, tmp_path
):
    """LLMBar's form, of rows that were trained on or held out, and one that neither knows."""
    rows = [pair for pair in table.pairs if len(pair.prompt) == 1 and pair.label != 2][:7]
    texts = [(row.prompt[0], row.response_a[0], row.response_b[0], 1 + row.label) for row in rows]
    texts.append(("Is this prompt in no table?", "yes", "no", 1))
    suite = tmp_path / "Natural.jsonl"
    names = ("input", "output_1", "output_2", "label")
    suite.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in texts), encoding="utf-8")
    direct = tiebreak.bench(suite, model=judge)
    words = ["bench", str(suite), "--pairs", str(tmp_path / "pairs.csv")]
    assert main(words) == 0
    words = ["predict", "--model", str(run[0].folder), "--data", str(tmp_path / "pairs.csv"), "--swap"]
    assert main([*words, "--out", str(tmp_path / "p")]) == 0
    (ours,), (theirs,) = direct.suites, tiebreak.bench(suite, predictions=tmp_path / "p").suites
    assert (ours.score, ours.contamination) == (theirs.score, theirs.contamination)
    assert ours.pairwise.log_loss.value == pytest.approx(theirs.pairwise.log_loss.value, abs=1e-8)
    trained = read_prompts(run[0].model)
    known = [prompt_group([text]) in trained for text, *_ in texts]
    assert ours.contamination.exact == sum(known) > 0 and not known[-1]
    assert (direct.trained_record, ours.contamination.near) == (len(trained), None)
    alone = score_suite(read_suites([suite])[0], _both(judge, texts), ~np.array(known))
    assert ours.clean_score == alone


def _both(judge, texts):
    ab = judge.predict([(q, a, b) for q, a, b, _ in texts])
    ba = judge.predict([(q, b, a) for q, a, b, _ in texts])
    return np.stack([ab, ba[:, [1, 0, 2]]])
