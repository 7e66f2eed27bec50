"""Each suite's score equals its authors' formula, written out here a second time, on hand-made files of its form."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest

import tiebreak
from tiebreak.cli import main
from tiebreak.data.predictions import ORDERS, write_predictions
from tiebreak.errors import UserError
from tiebreak.suites.forms import FORMS, read_suites
from tiebreak.tables.table import read_table

SUBSETS = ("alpacaeval-easy", "mt-bench-med", "llmbar-natural", "donotanswer", "math-prm", "hep-go")


def talk(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def rewardbench(n):
    return {"id": n, "prompt": f"q{n}?", "chosen": f"yes {n}", "rejected": f"no {n}", "subset": SUBSETS[n % 6]}


def rewardbench2(n):
    kind = ("Factuality", "Math", "Ties", "Ties")[n % 4]
    good = [f"g{n}.{k}" for k in range(3 if n % 4 == 3 else 1)]
    row = {"prompt": f"q{n}?", "chosen": good, "rejected": [f"b{n}.{k}" for k in range(3)], "num_correct": len(good)}
    return row | {"id": f"{('ref', 'tied')[n % 2]}:{n // 4}" if kind == "Ties" else str(n), "subset": kind}


def judgebench(n):
    source = ("mmlu-pro-law", "mmlu-pro-math", "livebench-math", "livecodebench")[n % 4]
    texts = {"question": f"q{n}?", "response_A": f"a{n}", "response_B": f"b{n}"}
    return {"pair_id": f"p{n}", "source": source, **texts, "label": ("A>B", "B>A")[n // 2 % 2]}


def llmbar(n):
    return {"input": f"q{n}?", "output_1": f"a{n}", "output_2": f"b{n}", "label": 1 + n % 2}


def mt_bench(n):
    """Three people vote on each comparison, one of them an author."""
    k = n // 3
    sides = {"conversation_a": talk(f"q{k}?", "a", "more?", "a2"), "conversation_b": talk(f"q{k}?", "b", "more?", "b2")}
    names = {"model_a": "x", "model_b": "y", "judge": ("expert_1", "expert_2", "author_0")[n % 3]}
    return {
        "question_id": k,
        **names,
        "turn": 1 + k % 2,
        "winner": ("model_a", "model_b", "tie")[n * 7 % 5 % 3],
        **sides,
    }


def autoj(n):
    scenario = ("planning", "chitchat", "code_generation")[n % 3]
    return {"scenario": scenario, "prompt": f"q{n}?", "response 1": f"a{n}", "response 2": f"b{n}", "label": n % 3}


def pandalm(n):
    votes = {f"annotator{k}": (n // k + k) % 3 for k in (1, 2, 3)}
    return {"instruction": f"q{n}?", "input": None, "response1": f"a{n}", "response2": f"b{n}", **votes}


WRITE = {
    **{"RewardBench": rewardbench, "RewardBench 2": rewardbench2, "JudgeBench": judgebench, "LLMBar": llmbar},
    **{"MT-bench": mt_bench, "Auto-J": autoj, "PandaLM": pandalm},
}


class Scored:
    """A suite's rows, and a judge's probabilities of every comparison by the two texts, in each order."""

    def __init__(self, name, folder, orders=2, rows=48):
        self.rows = [WRITE[name](n) for n in range(rows)]
        self.path = folder / f"{name.lower().replace(' ', '-')}.jsonl"
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        assert tiebreak.bench_pairs(self.path, folder / "pairs.csv") > 0
        pairs = read_table(folder / "pairs.csv").pairs
        rng = np.random.default_rng(3)
        p = rng.dirichlet((1, 1, 0.6), (2, len(pairs)))
        p[1] = 0.6 * p[0] + 0.4 * p[1]
        if name == "MT-bench":  # one comparison, one answer, whoever votes on it
            p = p[:, np.arange(len(pairs)) // 3 * 3]
        p = p.round(6)
        p[..., 2] = 1 - p[..., 0] - p[..., 1]
        if orders == 1:
            p[1] = p[0]
        ids = [pair.id for pair in pairs]
        for file, part in zip(("predictions.csv", *ORDERS)[: 2 * orders - 1], (p.mean(0), *p), strict=False):
            write_predictions(folder / file, ids, part)
        self.seen = {}
        for pair, one, two in zip(pairs, *p.tolist(), strict=True):
            key = pair.prompt[0], pair.response_a[0], pair.response_b[0]
            self.seen[key] = (one, two)
            self.seen[key[0], key[2], key[1]] = ([one[1], one[0], one[2]], [two[1], two[0], two[2]])
        self.record = tiebreak.bench(self.path, predictions=folder if orders == 2 else folder / "predictions.csv")
        (self.result,) = self.record.suites

    def two(self, prompt, a, b):
        return self.seen[prompt, a, b]

    def mean(self, prompt, a, b):
        one, two = self.seen[prompt, a, b]
        return [(x + y) / 2 for x, y in zip(one, two, strict=True)]


@pytest.fixture
def scored(tmp_path):
    return lambda name, **settings: Scored(name, tmp_path, **settings)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def side(p):
    """A or B, whichever is likelier."""
    return 0 if p[0] > p[1] else 1


def verdict(p):
    return max(range(3), key=lambda k: p[k])


def test_rewardbench_1_is_the_mean_over_sections_of_weighted_subsets(scored):
    run = scored("RewardBench")
    right = defaultdict(list)
    for row in run.rows:
        right[row["subset"]].append(side(run.mean(row["prompt"], row["chosen"], row["rejected"])) == 0)
    acc = {name: mean(values) for name, values in right.items()}
    sections = [
        (100 * acc["alpacaeval-easy"] + 40 * acc["mt-bench-med"]) / 140,
        acc["llmbar-natural"],
        acc["donotanswer"],
        (984 * acc["math-prm"] + 164 * acc["hep-go"]) / 1148,
    ]
    assert run.result.score["mean of sections"] == pytest.approx(mean(sections), abs=1e-9)
    assert run.result.score["Reasoning"] == pytest.approx(sections[3], abs=1e-9) != acc["math-prm"]


def candidates(run, row):
    """Scores of a row's answers: mean over the others of P(preferred) + P(tie) / 2."""
    answers = [*row["chosen"], *row["rejected"]]
    return [mean(p[0] + p[2] / 2 for p in (run.mean(row["prompt"], a, b) for b in answers if b != a)) for a in answers]


def test_rewardbench_2_is_best_of_four_and_has_a_score_of_its_own_for_ties(scored):
    run = scored("RewardBench 2")
    best, ref, tied = defaultdict(list), {}, {}
    for row in run.rows:
        scores, count = candidates(run, row), row["num_correct"]
        gap, spread = min(scores[:count]) - max(scores[count:]), max(scores[:count]) - min(scores[:count])
        if row["subset"] == "Ties":
            kind, number = row["id"].split(":")
            (ref if kind == "ref" else tied)[number] = gap, spread
        else:
            best[row["subset"]].append(float(gap > 0))
    least = {k: min(ref[k][0], tied[k][0]) for k in tied}
    ties = (
        0.3 * mean(gap > 0 for gap, _ in tied.values())
        + 0.3 * mean(gap > 0 for gap, _ in ref.values())
        + 0.2 * mean(gap > spread for gap, spread in tied.values())
        + 0.2 * mean(least[k] > tied[k][1] for k in tied)
        + 0.01 * mean(math.tanh(least[k] / tied[k][1] - 1) for k in tied)
    )
    assert run.result.score["Ties"] == pytest.approx(ties, abs=1e-7)
    wanted = mean([mean(best["Factuality"]), mean(best["Math"]), ties])
    assert run.result.score["mean of subsets"] == pytest.approx(wanted, abs=1e-7)
    labelled = sum(n % 4 < 3 for n in range(48)) * 3 + 12 * (9 + 3)
    assert run.result.pairwise.rows == labelled, "two wrong answers have no label"
    right = []
    for row in run.rows:
        right += [side(run.mean(row["prompt"], a, b)) == 0 for a in row["chosen"] for b in row["rejected"]]
    assert run.result.pairwise.decided_accuracy.value == pytest.approx(mean(right), abs=1e-9)


def test_a_best_answer_that_shares_the_highest_score_earns_a_part():
    from tiebreak.suites.formulas import score_rewardbench2

    scores = [np.array([0.5, 0.5, 0.1, 0.5]), np.array([0.2, 0.1, 0.1, 0.1])]
    assert score_rewardbench2(scores, [1, 1], ["Math", "Math"], ["1", "2"])["Math"] == pytest.approx((1 / 3 + 1) / 2)


def test_each_part_of_the_score_of_ties():
    from tiebreak.suites.formulas import score_ties

    rows = {
        "tied:0": ([0.9, 0.8, 0.5], 2),  # gap 0.3, spread 0.1
        "ref:0": ([0.6, 0.55, 0.1], 1),  # gap 0.05
        "tied:1": ([0.9, 0.9, 0.1], 2),  # gap 0.8, no spread
        "ref:1": ([0.9, 0.2], 1),
        "tied:2": ([0.9, 0.3, 0.4], 2),  # gap -0.1
        "ref:2": ([0.4, 0.4], 1),  # gap 0: not above
    }
    total, parts = score_ties([np.array(s) for s, _ in rows.values()], [n for _, n in rows.values()], list(rows))
    margin = (math.tanh(0.05 / 0.1 - 1) + 1 + math.tanh(-0.1 / 0.6 - 1)) / 3
    assert list(parts.values()) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 3, margin])
    assert total == pytest.approx(0.3 * 2 / 3 + 0.3 * 2 / 3 + 0.2 * 2 / 3 + 0.2 / 3 + 0.01 * margin)


def test_judgebench_counts_what_both_orders_say(scored):
    run = scored("JudgeBench")
    right = defaultdict(list)
    for row in run.rows:
        label = ("A>B", "B>A").index(row["label"])
        sides = [side(p) for p in run.two(row["question"], row["response_A"], row["response_B"])]
        points = sum(1 if s == label else -1 for s in sides)
        for part in ("accuracy", "mmlu-pro" if row["source"].startswith("mmlu-pro") else row["source"]):
            right[part].append(points > 0)
    for part, values in right.items():
        assert run.result.score[part] == pytest.approx(mean(values), abs=1e-9)
    assert 0 < run.result.score["same in both orders"] < 1


def test_judgebench_takes_a_tie_in_one_order_with_the_right_answer_in_the_other():
    from tiebreak.suites.formulas import score_judgebench

    both = np.array([[0, 2, 0, 2, 1], [2, 0, 1, 2, 1]])
    assert score_judgebench(both, np.zeros(5, dtype=int), ["x"] * 5)["accuracy"] == 2 / 5


def test_llmbar_is_the_mean_of_its_subsets_over_both_orders(tmp_path):
    """The parts are told by their folders, as in the suite's repository."""
    runs = {}
    for part in ("Natural", "Neighbor"):
        (tmp_path / part).mkdir()
        runs[part] = Scored("LLMBar", tmp_path / part, rows=20 if part == "Natural" else 12)
    files = [tmp_path / part / "dataset.json" for part in runs]
    for file, run in zip(files, runs.values(), strict=True):
        file.write_text(json.dumps(run.rows), encoding="utf-8")
    both = tmp_path / "both"
    tiebreak.bench_pairs(files, both / "pairs.csv")
    ids = [pair.id for pair in read_table(both / "pairs.csv").pairs]
    seen = [
        run.two(row["input"], row["output_1"], row["output_2"]) for run in runs.values() for row in run.rows
    ]  # (n, 2, 3)
    p = np.array(seen).swapaxes(0, 1)
    for name, part in zip(("predictions.csv", *ORDERS), (p.mean(0), *p), strict=True):
        write_predictions(both / name, ids, part)
    score = tiebreak.bench(files, predictions=both).suites[0].score
    parts = {
        part: mean(
            side(p) == row["label"] - 1
            for row in run.rows
            for p in run.two(row["input"], row["output_1"], row["output_2"])
        )
        for part, run in runs.items()
    }
    assert {part: score[part] for part in parts} == pytest.approx(parts, abs=1e-9)
    assert score["mean of subsets"] == pytest.approx(mean(parts.values()), abs=1e-9)
    assert score["adversarial"] == score["Neighbor"]


def test_mt_bench_agrees_with_experts_vote_by_vote_in_both_set_ups(scored):
    run = scored("MT-bench", rows=90)
    agreed = defaultdict(list)
    for row in run.rows:
        one, two = (verdict(p) for p in run.two(row["conversation_a"][0]["content"], "a", "b"))
        judged = one if one == two else 2
        vote = ("model_a", "model_b", "tie").index(row["winner"])
        if row["judge"].startswith("expert"):
            agreed[f"turn {row['turn']} S1"].append(judged == vote)
            if 2 not in (judged, vote):
                agreed[f"turn {row['turn']} S2"].append(judged == vote)
    assert len(agreed) == 4
    for part, values in agreed.items():
        assert run.result.score[part] == pytest.approx(mean(values), abs=1e-9)


def test_autoj_wants_both_orders_right(scored):
    run = scored("Auto-J")
    right, same = defaultdict(list), []
    for row in run.rows:
        said = [verdict(p) for p in run.two(row["prompt"], row["response 1"], row["response 2"])]
        group = "Code" if row["scenario"] == "code_generation" else "General Communication"
        for part in ("agreement", group):
            right[part].append(said == [row["label"]] * 2)
        same.append(said[0] == said[1])
    assert run.result.score == pytest.approx(
        {part: mean(values) for part, values in right.items()} | {"consistency": mean(same)}, abs=1e-9
    )


def test_pandalm_is_accuracy_and_macro_figures_against_the_majority(scored):
    run = scored("PandaLM", rows=90)
    code, labels, said = {1: 0, 2: 1, 0: 2}, [], []
    for row in run.rows:
        votes = [row[f"annotator{k}"] for k in (1, 2, 3)]
        labels.append(code[max(votes, key=votes.count)])  # the first where all differ
        said.append(verdict(run.mean(row["instruction"], row["response1"], row["response2"])))
    assert any(len({row[f"annotator{k}"] for k in (1, 2, 3)}) == 3 for row in run.rows)
    parts = defaultdict(list)
    for k in range(3):
        right = sum(a == b == k for a, b in zip(labels, said, strict=True))
        precision, recall = right / said.count(k), right / labels.count(k)
        parts["precision"].append(precision)
        parts["recall"].append(recall)
        parts["F1"].append(2 * precision * recall / (precision + recall))
    accuracy = mean(a == b for a, b in zip(labels, said, strict=True))
    wanted = {"accuracy": accuracy} | {name: mean(values) for name, values in parts.items()}
    assert run.result.score == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["Auto-J", "RewardBench"])
def test_pairwise_figures(scored, name):
    run = scored(name)
    pairs = run.result.pairwise
    if name == "Auto-J":
        rows = [(run.mean(row["prompt"], row["response 1"], row["response 2"]), row["label"]) for row in run.rows]
    else:
        rows = [(run.mean(row["prompt"], row["chosen"], row["rejected"]), 0) for row in run.rows]
    decided = [(p, label) for p, label in rows if label != 2]
    assert pairs.accuracy.value == pytest.approx(mean(verdict(p) == label for p, label in rows), abs=1e-9)
    assert pairs.log_loss.value == pytest.approx(mean(-math.log(p[label]) for p, label in rows), rel=1e-6)
    assert pairs.ties == pytest.approx(mean(label == 2 for _, label in rows))
    assert pairs.ties_said == pytest.approx(mean(verdict(p) == 2 for p, _ in rows))
    assert pairs.decided_accuracy.value == pytest.approx(mean(side(p) == label for p, label in decided))
    losses = (-math.log(p[label] / (p[0] + p[1])) for p, label in decided)
    assert pairs.decided_log_loss.value == pytest.approx(mean(losses), rel=1e-6)
    assert pairs.accuracy.low < pairs.accuracy.value < pairs.accuracy.high


def test_one_order_is_said(scored):
    run = scored("Auto-J", orders=1)
    assert (run.record.orders, run.result.score["consistency"]) == (1, 1.0)
    assert "one answer order only" in str(run.record)


def test_each_form_is_known_by_its_columns_and_every_suite_of_a_command_is_scored(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, write in WRITE.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(write(n)) + "\n" for n in range(12)))
        assert [suite.form.name for suite in read_suites([tmp_path / f"{name}.jsonl"])] == [name]
    files = [f"{name}.jsonl" for name in WRITE]
    assert main(["bench", *files, "--pairs", "pairs.csv"]) == 0
    ids = [pair.id for pair in read_table("pairs.csv").pairs]
    write_predictions("p.csv", ids, np.full((len(ids), 3), 1 / 3))
    assert main(["bench", *files, "--predictions", "p.csv", "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n{form.name}: " in f"\n{told}" for form in FORMS)
    stored = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [suite["suite"] for suite in stored["suites"]] == list(WRITE)
    assert stored["suites"][0]["score"]["mean of sections"] == 0.5, "an even judge earns half"
    assert len((tmp_path / "out" / "items.csv").read_text().splitlines()) == 1 + 12 * len(WRITE)
    assert stored["suites"][0] == tiebreak.bench(files, predictions="p.csv").suites[0].model_dump()


def test_the_page_lists_the_forms_of_the_code():
    from pathlib import Path

    text = Path(__file__).parents[2].joinpath("docs", "bench.md").read_text(encoding="utf-8")
    for form in FORMS:
        columns = ", ".join(f"`{name}`" for name in sorted(form.needs))
        assert f"| {form.name} | {form.of} | {columns} |" in text


def test_mistakes_are_told_in_one_sentence(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match="no suite that is known"):
        tiebreak.bench(other, predictions="p.csv")
    other.write_text(json.dumps(mt_bench(0) | {"tstamp": 1.5}) + "\n")
    with pytest.raises(UserError, match="no suite that is known"):
        tiebreak.bench(other, predictions="p.csv")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(llmbar(0)) + "\n" + json.dumps(llmbar(1) | {"label": 3}) + "\n")
    with pytest.raises(UserError, match=r"bad.jsonl, row 2: label is '3', not 1 or 2"):
        tiebreak.bench(bad, predictions="p.csv")
    assert tiebreak.bench_pairs(bad, tmp_path / "pairs.csv", on_bad_row="skip") == 1
    write_predictions(tmp_path / "p.csv", ["x"], np.full((1, 3), 1 / 3))
    with pytest.raises(UserError, match="lacks 1 comparison"):
        tiebreak.bench(bad, predictions=tmp_path / "p.csv", on_bad_row="skip")
    with pytest.raises(UserError, match="give a judge"):
        tiebreak.bench(bad)
