"""A sweep: what is drawn, who is pruned and why, trials that fail, and how it goes on."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.pipeline.sweep_record import Answer, TrialResult, judge
from tiebreak.pipeline.sweep_space import draw, load_space, open_study, tell

TINY = "[train.max_steps=4, data.max_tokens=96, train.batch_size=12, train.save_every=1]"


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def result(number: int, losses: list[float]) -> Answer:
    return Answer(TrialResult(number=number, step=2, steps=4, tokens=9, rows="x", losses=losses), "")


def test_a_rung_is_decided_by_paired_differences_and_a_quota():
    rows = np.linspace(0.1, 2.0, 40)  # rows differ far more than trials do: only pairs tell these apart
    wave = 0.05 * np.cos(np.arange(40))
    answers = {
        7: result(7, [*rows]),
        2: result(2, [*(rows + 0.02 + 0.01 * np.sign(wave))]),  # surely worse, row by row
        5: result(5, [*(rows + 0.001 + wave - wave.mean())]),  # not to be told apart
        1: result(1, [*(rows + 0.3)]),
        4: Answer(None, "no such thing"),
    }
    found = {outcome.number: outcome for outcome in judge(answers, 3, 2.0)}
    assert list(found) == [1, 2, 4, 5, 7]
    assert {n: o.state for n, o in found.items()} == {
        **{7: "goes on", 5: "goes on", 2: "pruned", 1: "pruned", 4: "failed"}
    }
    assert found[2].why == "3 of 5, above the best by more than 2 standard errors"
    assert found[1].why == "4 of 5, 3 go on" and found[4].why == "no such thing"
    assert found[2].difference == pytest.approx(0.02, abs=2e-3) and found[7].difference == found[7].error == 0
    assert found[5].error == pytest.approx(wave.std(ddof=1) / np.sqrt(40))
    assert [o.state for o in judge(answers, None, 2.0)].count("finished") == 4
    assert judge(answers, 3, 2.0) == judge(dict(reversed(answers.items())), 3, 2.0)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_is_drawn_follows_from_the_seed_and_the_results_not_from_the_process(tmp_path, sampler):
    text = "trials: 16\nwave: 12\nsampler: {}\nseed: {}\nspace: {{train.lr: {{low: 1e-5, high: 1e-2, log: true}}, "
    text += "model.lora.r: [8, 16], train.batch_size: {{low: 8, high: 64, step: 8}}}}\n"

    def drawn(name: str, seed: int, worst: int, at_once: bool) -> list[dict]:
        space = load_space(written(tmp_path, text.format(sampler, seed)))
        study, found = open_study(tmp_path / name), []
        for number in range(16):
            if number == 12:
                for trial in range(12):
                    state = "failed" if trial == worst else "pruned" if trial % 3 else "finished"
                    tell(study, trial, state, {4: 1 + abs(found[trial]["train.lr"] - 1e-3)} if trial != worst else {})
                    tell(study, trial, "finished", {4: 0.0})  # told already
            study = study if at_once else open_study(tmp_path / name)
            found.append(draw(space, study, number))
        assert [draw(space, study, number) for number in range(16)] == found
        return found

    one = drawn("one", 1, 3, True)
    assert drawn("two", 1, 3, False) == one
    assert drawn("three", 2, 3, True)[:12] != one[:12]
    assert (drawn("four", 1, 5, True)[12:] == one[12:]) == (sampler == "random")
    assert {settings["train.batch_size"] % 8 for settings in one} == {0}
    assert all(1e-5 <= settings["train.lr"] <= 1e-2 and settings["model.lora.r"] in (8, 16) for settings in one)


def test_faulty_spaces_say_what_is_wrong(tmp_path):
    for text, said in {
        "trials: 4\nspace: {train.lr: [1e-4], data.folds_seed: [0, 1]}": "data.folds_seed cannot vary",
        "trials: 4\nspace: {train.lr: {low: 1e-3, high: 1e-4}}": "not above it",
        "sampler: grid\nspace: {train.lr: {low: 1e-4, high: 1e-3}}": "sampler grid needs lists",
        "sampler: grid\ntrials: 3\nspace: {train.lr: [1e-4, 1e-3]}": "the grid has 2 combinations",
        "space: {train.lr: [1e-4, 1e-3]}": "trials is missing",
        "trials: 4\nspaces: {}": "spaces: no such field",
    }.items():
        with pytest.raises(UserError, match="recipe") as raised:
            load_space(written(tmp_path, text))
        assert said in str(raised.value), text


@pytest.mark.slow
@pytest.mark.processes
def test_a_sweep_prunes_tells_failures_goes_on_and_leaves_a_recipe(tmp_path, sample, capfd):
    space = written(
        tmp_path,
        "sampler: grid\nrungs: 2\nreduction_factor: 2\nspace: {train.lr: [1.0e-3, 1.0e-5], "
        f"model.template: [deberta, siamese]}}\nset: {TINY}\n",
    )
    out = tmp_path / "out"
    command = ["sweep", str(space), "--recipe", "demo-deberta", "--data", str(sample), "--out", str(out)]
    assert main([*command, "--stage", "rung-0.0/0"]) == 2 and "no such rung" in capfd.readouterr().err
    assert main([*command, "--stage", "draw"]) == 0
    drawn = {path.name: path.read_bytes() for path in (out / "settings").iterdir()}
    assert sorted(drawn) == ["000.yaml", "002.yaml"]  # the others can be no recipe
    assert main([*command, "--stage", "decide-0.0"]) == 2
    assert "2 trials without a result: 0 (" in capfd.readouterr().err
    assert main([*command, "--stage", "rung-0.0/0"]) == 0
    listed = [line.split("\t") for line in _said(capfd, [*command, "--stages"]).splitlines()]
    assert listed[:3] == [
        ["draw", "-", "cpu", "done", "-"],
        ["rung-0.0", "draw", "gpu", "todo", "2"],
        ["decide-0.0", "rung-0.0", "cpu", "todo", "-"],
    ]
    said = _said(capfd, command)
    assert "4 trials: 1 finished, 1 pruned, 2 failed" in said and "resumed from step-00000002" in said
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [(row["trial"], row["state"]) for row in rows] == [
        ("0", "finished"),
        ("2", "pruned"),
        ("1", "failed"),
        ("3", "failed"),
    ]
    assert (rows[0]["step"], rows[1]["step"], rows[0]["train.lr"]) == ("4", "2", "0.001")
    assert "siamese" in rows[2]["why"] and float(rows[1]["difference"]) > 0
    best = load_recipe(str(out / "best.yaml"))
    assert best.train.lr == 1e-3 and best.train.max_steps == 4 and (out / "trials" / "000" / "model").is_dir()
    logged = [json.loads(line) for line in (out / "trials" / "000" / "log.jsonl").read_text().splitlines()]
    assert int(rows[0]["tokens"]) == sum(record.get("tokens", 0) for record in logged)
    assert (
        main(
            [
                "train",
                "--recipe",
                str(out / "best.yaml"),
                "--data",
                str(sample),
                "--fold",
                "0/5",
                "--out",
                str(tmp_path / "whole"),
            ]
        )
        == 0
    )
    whole = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [r["loss"] for r in whole if "loss" in r] == [r["loss"] for r in logged if "loss" in r]  # as without a pause
    before = (out / "table.csv").read_bytes()
    assert main(command) == 0 and (out / "table.csv").read_bytes() == before
    (out / "settings" / "000.yaml").write_text(yaml.safe_dump({}))
    (out / "rungs" / "0.1" / "0.json").unlink()
    assert main([*command, "--stage", "rung-0.1/0"]) == 2 and "not as it was drawn" in capfd.readouterr().err
    assert main([*command, "--set", "train.lr=1"]) == 2
    assert "belongs to another sweep (changed: recipe" in capfd.readouterr().err


def _said(capfd: pytest.CaptureFixture[str], command: list[str]) -> str:
    capfd.readouterr()
    assert main(command) == 0
    heard = capfd.readouterr()
    return heard.out + heard.err
