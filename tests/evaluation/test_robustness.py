"""Edits that should not pay: what each does to a text, judges that fall for one, and judges that fall for none."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from planted import make_world, noisy, softmax

from tiebreak.cli import main
from tiebreak.data.predictions import write_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.robustness import audit_edits, p_of_no_effect
from tiebreak.sample.generator import write_sample
from tiebreak.tables.attack import attack, doubled_side, edited
from tiebreak.tables.edits import EDITS, PREFIXES, REPEATED, SAME_MEANING, SUFFIXES, parse_edited_id
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

SEEDS = 200
TEXT = (
    "## Plan\n\nFirst we look **closely** at it. Then it's done. All is well.\n\n"
    "```py\nx = 'a. B' ** 2 ** 3\n# no heading\n```\n\nThe last words are said here. Fine."
)


def test_what_each_edit_does():
    one = {kind: EDITS[kind]([TEXT])[0] for kind in EDITS}
    assert one["plain"].startswith("Plan\n\nFirst we look closely at it.") and "**" in one["plain"].partition("```")[2]
    assert "**The last words** are said" in one["bold"]
    assert "it.  Then it's done.  All" in one["spaces"]
    assert "it.\n\nThen it's done.\n\nAll" in one["paragraphs"]
    assert "Then it\u2019s done" in one["quotes"]
    code = TEXT.split("```")[1]
    for kind, text in one.items():
        assert text != TEXT and text.split("```")[1] == code, f"{kind} must leave code as it is"
    bare = lambda text: "".join(text.replace("#", "").replace("*", "").replace("\u2019", "'").split())  # noqa: E731
    for kind in ("plain", "bold", "spaces", "paragraphs", "quotes"):
        assert bare(one[kind]) == bare(TEXT), f"{kind} must leave the words as they are"
    for kind in set(EDITS) - {"plain", "bold", "spaces", "paragraphs", "quotes"}:
        assert TEXT in one[kind] and one[kind].count("\n\n") == TEXT.count("\n\n") + 1
        assert EDITS[kind](["first", TEXT, " "]) == ["first", one[kind], " "], "the last turn that says something"
        assert EDITS[kind]([""]) == [""]
    assert set(SAME_MEANING) < set(EDITS) and len(set(one.values())) == len(EDITS)


def test_the_table_has_one_edited_answer_a_row_and_only_rows_that_change(sample, tmp_path):
    pairs = {pair.id: pair for pair in read_table([sample]).pairs}
    assert attack([sample], tmp_path / "all.csv", ["all"]) == len(read_table([tmp_path / "all.csv"]).pairs)
    seen = Counter()
    for copy in read_table([tmp_path / "all.csv"]).pairs:
        kind, row_id = parse_edited_id(copy.id)
        own = pairs[row_id]
        seen[kind] += 1
        side = doubled_side(row_id)
        now, before = ((each.response_a, each.response_b) for each in (copy, own))
        assert now[side] != before[side] and now[1 - side] == before[1 - side] and copy.prompt == own.prompt
        assert now == edited(own, kind)
    assert set(seen) >= {REPEATED, "bold", *PREFIXES, *SUFFIXES}, "the sample writes one sentence an answer"
    assert seen["praise"] == seen[REPEATED] > 0.9 * len(pairs)
    assert attack([sample], tmp_path / "few.csv", ["praise", "bold"], 20) == 40
    few = [parse_edited_id(pair.id) for pair in read_table([tmp_path / "few.csv"]).pairs]
    assert Counter(kind for kind, _ in few) == {"bold": 20, "praise": 20}
    with open(tmp_path / "few.csv", newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["id", "prompt", "response_a", "response_b"]


def test_slips_are_told(sample, tmp_path):
    with pytest.raises(UserError, match=r"no edit called 'prais'.*praise"):
        attack([sample], tmp_path / "x.csv", ["prais"])
    with pytest.raises(UserError, match="give --kinds too"):
        attack([sample], tmp_path / "x.csv", rows=5)
    assert parse_edited_id("7") is None and parse_edited_id("train.csv:7") is None


def judged(world, gains, size=0.4):
    """Before, and after each kind: the law with noise, and the log odds of the edited answer raised by so much."""
    ids = [str(group) for group in world.groups]  # copies of a prompt are edited on the same side
    toward = np.where(np.array([doubled_side(name) for name in ids]) == 0, 1, -1)[:, None] * np.array([0.5, -0.5, 0])
    before = noisy(world.law, world.groups, world.rng, size)
    after = {}
    for kind, gain in gains.items():
        after[kind] = softmax(np.log(noisy(world.law, world.groups, world.rng, size)) + gain * toward)
    return ids, before, after


@pytest.mark.parametrize("kind", EDITS)
def test_each_planted_weakness_is_found_and_no_other(kind):
    """Half a unit of log odds is about eight points of P(win); a judge may also punish an edit."""
    for gain in (0.5, -0.5):
        world = make_world(50, 400)
        gains = dict.fromkeys(EDITS, 0.0) | {kind: gain}
        found = audit_edits(*judged(world, gains), world.bootstrap(100))
        assert [effect.kind for effect in found if effect.alarm] == [kind]
        (effect,) = [effect for effect in found if effect.kind == kind]
        assert np.sign(effect.win_gain.value) == np.sign(gain) and effect.win_gain.low * effect.win_gain.high > 0
        assert effect.keeps_meaning == (kind in SAME_MEANING)


def test_neutral_judges_raise_hardly_any_alarm():
    """Of 200 judges with noise that favours nobody, in worlds where rows share prompts; any of 15 alarms counts.

    One in a hundred is meant. At that rate, more than five of 200 come once in 70 times, and more than ten never.
    """
    alarms = 0
    for seed in range(SEEDS):
        world = make_world(2_000 + seed)
        found = audit_edits(*judged(world, dict.fromkeys(EDITS, 0.0)), world.bootstrap(2))
        assert len(found) == len(EDITS)
        alarms += any(effect.alarm for effect in found)
    assert alarms / SEEDS <= 0.05, alarms


def test_p_values_of_means_of_zero_are_uniform():
    rng = np.random.default_rng(5)
    groups = np.concatenate([np.arange(60), np.arange(30)])
    values = [rng.normal(size=60)[groups] for _ in range(2_000)]
    p = np.array([p_of_no_effect(value, groups) for value in values])
    for level in (0.5, 0.1, 0.05):
        assert (p <= level).mean() == pytest.approx(level, abs=0.02)
    assert p_of_no_effect(np.zeros(5), np.arange(5)) == 1 and p_of_no_effect(np.ones(5), np.arange(5)) == 0


def test_an_effect_that_is_sure_but_too_small_to_matter_is_no_alarm():
    world = make_world(3, 400)
    ids, before, _ = judged(world, {})
    side = np.array([doubled_side(name) for name in ids])
    after = before + 0.004 * np.where(np.eye(3)[side] == 1, 1.0, -0.5)
    (effect,) = audit_edits(ids, before, {"praise": after}, world.bootstrap(100))
    assert effect.p_value < 1e-9 and not effect.alarm and effect.win_gain.value == pytest.approx(0.004)


@pytest.mark.slow
def test_the_report_of_a_judge_that_believes_praise(tmp_path, capsys):
    """From the commands' own files: attack, predictions by id, report; the page names the edit."""
    table = tmp_path / "table.csv"
    write_sample(table, 150, seed=8, profile="short")
    copies = tmp_path / "copies.csv"
    assert main(["attack", "--data", str(table), "--out", str(copies), "--kinds", "all"]) == 0
    assert "one answer of each edited" in capsys.readouterr().out

    def judge(pairs: list[Pair]) -> np.ndarray:
        praise = np.array(
            [["best answer to the question" in "".join(a) for a in (p.response_a, p.response_b)] for p in pairs]
        )
        return softmax(np.stack([2.0 * praise[:, 0], 2.0 * praise[:, 1], np.zeros(len(pairs))], axis=1))

    for name, file in (("plain", table), ("attacked", copies)):
        pairs = read_table([file]).pairs
        write_predictions(tmp_path / f"{name}.csv", [pair.id for pair in pairs], judge(pairs))
    words = ["report", str(tmp_path / "plain.csv"), "--attacked", str(tmp_path / "attacked.csv")]
    words += ["--labels", str(table), "--out", str(tmp_path / "out"), "--resamples", "100"]
    assert main(words) == 0
    (found,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["judges"]
    assert [effect["kind"] for effect in found["edits"] if effect["alarm"]] == ["praise"]
    assert found["repetition"]["rows"] > 140 and found["repetition"]["win_gain"]["value"] == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Edits that should not pay" in page and ">pays<" in page and ">costs<" not in page
