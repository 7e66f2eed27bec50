"""The benchmarks measure fairly, go on where they were, and say what is absent; no test here depends on a time."""

import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from tiebreak.sample.generator import write_sample
from tiebreak.tables.table import read_table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import attention  # noqa: E402
import products  # noqa: E402
import real_rows  # noqa: E402
import run as runner  # noqa: E402
import straggle  # noqa: E402
import subjects  # noqa: E402
import timing  # noqa: E402

WRITTEN = re.compile(r"(<!-- (measured|profile) -->\n).*?(<!-- /\2 -->)", re.S)
RATE = timing.record("m, 2 tokens", "rows/s", 6.0, [timing.peer("P", 2.0, 3.0, "sorted")], "logits to 1e-07")
TIME = timing.record("m, memory", "MiB", 2.0, [timing.peer("Q", 20.0, package="no_such_package")])


def kept(*records: dict, machine: str = "here", day: str = "2026-01-02") -> dict:
    told = {"claim": "predict", "threads": 2, "machine": machine, "day": day}
    return told | {"records": [one | {"threads": 2} for one in records]}


def test_ways_take_turns_in_alternating_order_after_a_warm_up():
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) or len(called) for name in "abc"}
    turns = timing.take_turns(ways, rounds=2)
    assert "".join(called) == "cba" + "abc" + "cba"
    assert turns.results == {"a": [4, 9], "b": [5, 8], "c": [6, 7]}
    assert {name: len(each) for name, each in turns.seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_the_median_and_not_the_mean_of_a_ways_seconds_counts():
    turns = timing.Turns(["a"])
    turns.seconds["a"] = [1.0, 50.0, 2.0]
    assert turns.of("a") == 2.0 and turns.rates(10) == {"a": 5.0}


def count_up(gate: timing.Gate, start: int) -> None:
    import torch

    while True:
        start += 1
        gate((start, torch.get_num_threads()))


@pytest.mark.processes
def test_a_way_of_another_process_does_one_step_for_each_turn():
    with timing.stepping(count_up, 5, threads=1, warm=2) as step:
        assert [step(), step()] == [(8, 1), (9, 1)]


def test_ratios_say_how_many_times_better_ours_is():
    assert timing.ratio(RATE, 2.0) == 3.0 and timing.ratio(TIME, 20.0) == 10.0
    assert timing.floor_of(RATE) == 2.0 and timing.floor_of(timing.record("m", "s", 1.0, [])) is None


def test_the_table_has_a_line_for_each_peer_and_names_what_is_absent():
    table = runner.as_table([kept(RATE, TIME), kept(RATE, machine="there", day="2026-01-01")])
    here, there = table.split("2026-01-01, there:")
    assert here.startswith("2026-01-02, here:\n\n**Prediction**\n\n| setting |") and there.count("\n|") == 3
    assert (
        "| m, 2 tokens; 2 threads | 6.000 rows/s | P | 2.000 rows/s, **3.00** | 3.000 rows/s (sorted), **2.00** |"
        in here
    )
    assert "| Q (not installed) | 20.00 MiB, **10.00** |  |  |" in here


def test_the_page_is_written_between_its_comments_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    monkeypatch.setattr(runner, "DOCS", tmp_path / "page.md")
    runner.DOCS.write_text(page, encoding="utf-8")
    profiled = RATE | {"profile": {"products of layers": 0.613, "softmax": 0.2}}
    runner.write_page([kept(profiled)])
    once = runner.DOCS.read_text(encoding="utf-8")
    assert "**3.00**" in once and "| products of layers | 61% |" in once
    assert WRITTEN.sub("", once) == WRITTEN.sub("", page)
    runner.write_page([kept(profiled)])
    assert runner.DOCS.read_text(encoding="utf-8") == once


def test_a_stopped_run_goes_on_and_other_code_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measured: list[tuple[str, int, tuple[str, ...]]] = []

    def run_script(claim: runner.Claim, threads: int, *options: str) -> list[dict]:
        measured.append((claim.script, threads, options))
        return [RATE | {"threads": threads}]

    monkeypatch.setattr(runner, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(runner, "run_script", run_script)
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 2)
    written: list[int] = []
    monkeypatch.setattr(runner, "write_page", lambda found: written.append(len(found)))
    runner.run_all(runner.parse(["--only", "train", "straggle"]))
    assert measured == [("train_speed.py", 1, ("--no-all",)), ("train_speed.py", 2, ()), ("straggle.py", 2, ())]
    runner.run_all(runner.parse(["--only", "train", "straggle"]))
    assert len(measured) == 3
    monkeypatch.setattr(runner, "source_hash", lambda: "other")
    runner.run_all(runner.parse(["--only", "straggle"]))
    assert measured[3:] == [("straggle.py", 2, ())]
    assert not written, "the page would lose the claims that are not measured here"
    runner.run_all(runner.parse(["--write"]))
    assert written == [3] and len(measured) == 4
    assert [(one["claim"], one["threads"]) for one in runner.all_kept()] == [
        ("train", 1),
        ("train", 2),
        ("straggle", 2),
    ]


@pytest.mark.parametrize(("ours", "code"), [(6.0, 0), (4.9, 0), (4.7, 1)])
def test_a_fifth_below_the_floor_fails(ours: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "FLOORS", tmp_path / "floors.json")
    monkeypatch.setattr(runner, "run_script", lambda *words: [RATE])
    assert runner.quick(["predict"], record=True) == 0
    monkeypatch.setattr(runner, "run_script", lambda *words: [RATE | {"ours": ours}])
    assert runner.quick(["predict"], record=False) == code


def test_every_claim_is_a_script_of_its_own_that_says_how_to_run_it():
    scripts = [claim.script for claim in runner.CLAIMS.values()]
    assert len(set(scripts)) == len(scripts)
    for script in scripts:
        text = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        assert f"python benchmarks/{script}" in text and text.count("run_claim(") == 1
        assert len(text.splitlines()) < 300


def test_ranks_wait_for_the_fullest_a_hundredth_of_a_step_where_the_trainers_wait_a_fifth():
    found = list(straggle.measure(Namespace(ranks=[8, 64]), Path()))
    for one, most in zip(found, (1.01, 1.01), strict=True):
        assert 1 <= one["ours"] < most < one["peers"][0]["comes"] - 0.2


@pytest.mark.parametrize("kind", list(attention.KINDS))
def test_attention_is_compared_on_the_same_states_and_agrees(kind: str):
    states, ways = attention.KINDS[kind](72)
    ours, theirs = (attention.run_both(states, ways[way]) for way in (attention.OURS, attention.THEIRS))
    assert len(ours) == len(theirs) > 2
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape and float((mine - other).abs().max()) < 1e-4


def test_operations_of_products_and_kinds_of_operations():
    assert products.operations("aten::mm", [[2, 3], [3, 5]]) == 60
    assert products.operations("aten::addmm", [[5], [2, 3], [3, 5]]) == 60
    names = ("aten::addmm", "aten::bmm", "aten::_fused_adamw_", "aten::_softmax", "aten::gather", "aten::what")
    expected = ["products of layers", "products of attention", "optimizer", "softmax", "gathers and copies", "other"]
    assert [products.kind_of(name) for name in names] == expected


def test_a_peer_that_takes_texts_gets_the_ids_that_ours_gets(tmp_path: Path):
    from transformers import AutoTokenizer

    subjects.write_plain_tokenizer(tmp_path, 120, 1)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [[10, 110, 11, 0, 101], [7, 100]]
    pairs = [subjects.as_pair(row) for row in rows]
    found = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True)
    assert found["input_ids"] == [rows[0], [7, 100, 1, 1, 1]] and found["attention_mask"][1] == [1, 1, 0, 0, 0]
    assert set(found) == {"input_ids", "attention_mask"}


@pytest.mark.slow
def test_the_table_of_real_rows_is_whole_and_goes_on_where_it_was(run, tmp_path, monkeypatch, capsys):
    """Every system in two steps; a second call trains nothing, and the paired figures are those of the files."""
    table = tmp_path / "rows.csv"
    write_sample(table, 60, seed=5, profile="short")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- /measured -->\nafter\n")
    short = [real_rows.LABELS, *real_rows.TAUGHT]
    words = ["real_rows.py", "--data", str(table), "--out", str(tmp_path / "out"), "--folds", "2", "--quick"]
    monkeypatch.setattr(sys, "argv", [*words, "--only", "minilm-l6", *short, "students"])
    forked = lambda words: run(sys.executable, "-m", "tiebreak", *words).returncode  # noqa: E731
    monkeypatch.setattr(real_rows, "tiebreak", forked)
    assert real_rows.main() == 0
    capsys.readouterr()
    commands: list[list[str]] = []
    monkeypatch.setattr(real_rows, "tiebreak", lambda words: commands.append(words) or 1)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--page", str(page)])
    assert real_rows.main() == 0 and not commands
    said = capsys.readouterr().out
    cells = [line.split(" | ") for line in said.splitlines() if line.startswith("| ") and line.count("|") > 4]
    rows = {row[0].strip("| "): row for row in cells}
    assert {*real_rows.LINES, "minilm-l6", *short, *real_rows.STUDENTS, "blend of lines and judges"} <= set(rows)
    held_out = str(len(read_table([tmp_path / "out" / "outer-0" / "test.csv"]).pairs))
    assert [rows[name][1] for name in ("minilm-l6", *short, *real_rows.STUDENTS)] == [
        *["60"] * (1 + len(short)),
        held_out,
        held_out,
    ]
    assert rows["tfidf+numbers"][5] == "" and "±" in rows["student distilled"][5]
    compared = [pair for pair in real_rows.COMPARED if set(pair) <= set(rows)]
    assert len(compared) == 3 and all(f"\n| {taught} | {labelled} | " in said for labelled, taught in compared)
    text = page.read_text()
    assert text.startswith("before\n<!-- measured -->\nrows.csv: 60 rows") and text.endswith(
        "\n<!-- /measured -->\nafter\n"
    )
    assert "\nold\n" not in text


def test_a_blend_of_real_rows_is_weighed_on_other_folds_and_ties_are_dealt_out():
    rng = np.random.default_rng(0)
    labels, folds = rng.integers(0, 2, 200), np.arange(200) % 4
    good = np.where(np.eye(3)[labels] == 1, 0.8, 0.1)
    noise = rng.dirichlet([1, 1, 1], 200)
    table = real_rows.Table([], labels, np.arange(200), folds)
    mixed = real_rows.blend(np.stack([good, noise]), table)
    assert (mixed.argmax(1) == labels).all() and np.allclose(mixed.sum(1), 1)
    other = real_rows.Table([], np.where(folds == 0, 1 - labels, labels), np.arange(200), folds)
    again = real_rows.blend(np.stack([good, noise]), other)
    assert np.array_equal(again[folds == 0], mixed[folds == 0]), "a fold's own labels count for nothing"
    assert real_rows.paired(np.array([1.0, 2.0, np.nan]), np.array([0.5, 1.5, 0.0]), np.arange(3)) == "+0.5000 ± 0.0000"
