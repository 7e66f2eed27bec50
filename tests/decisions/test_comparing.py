"""Who wins and how sure that is: as scipy has it, on files joined by id or prompt, with a judge made by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

import tiebreak
from tiebreak.cli import main
from tiebreak.decisions.comparing import FEWEST_VOTES, summarise


class LikesLong:
    """A judge that prefers the answer of more characters, by how many more; it looks at both orders."""

    def predict(self, pairs, *, swap):
        assert swap
        length = np.array([[len("".join(a)), len("".join(b))] for _, a, b in pairs], dtype=float)
        win = 1 / (1 + np.exp(-(length[:, 0] - length[:, 1]) / 4))
        return np.stack([0.9 * win, 0.9 * (1 - win), np.full(len(win), 0.1)], axis=1)


def prompts(count: int, repeated: int = 1) -> list[list[str]]:
    return [[f"prompt {i // repeated}"] for i in range(count)]


def test_the_certainty_of_systems_is_a_t_tests():
    p = np.random.default_rng(0).dirichlet([3, 2.6, 1], 120)
    found = summarise(p, prompts(120), ("one", "two"))
    test = stats.ttest_1samp(p[:, 0] - p[:, 1], 0)
    low, high = test.confidence_interval(0.95)
    assert found.interval == pytest.approx(((1 + low) / 2, (1 + high) / 2))
    assert found.confidence == pytest.approx(1 - test.pvalue / 2)
    assert found.winner == "first" and found.settled == (test.pvalue < 0.05)
    other = summarise(p[:, [1, 0, 2]], prompts(120), ("two", "one"))
    assert (other.winner, other.confidence) == ("second", pytest.approx(found.confidence))
    assert other.win_rate == pytest.approx(1 - found.win_rate)


def test_rows_of_one_prompt_count_together():
    p = np.random.default_rng(1).dirichlet([3, 2.6, 1], 60)
    once, thrice = summarise(p, prompts(60), ("a", "b")), summarise(p.repeat(3, 0), prompts(180, 3), ("a", "b"))
    assert thrice.interval == pytest.approx(once.interval) and (thrice.rows, thrice.prompts) == (180, 60)


def test_the_rows_that_are_named_settle_it_four_times_in_five():
    rng = np.random.default_rng(2)
    pilot = rng.dirichlet([3, 2.6, 1], 4_000)  # as good as the law itself
    margins = pilot[:, 0] - pilot[:, 1]
    needed = math.ceil(((1.959964 + 0.841621) * margins.std() / margins.mean()) ** 2)
    settled = [summarise(rng.dirichlet([3, 2.6, 1], needed), prompts(needed), ("a", "b")).settled for _ in range(300)]
    assert abs(np.mean(settled) - 0.8) < 0.07, "three standard errors of 300 draws"
    few = pilot[np.argsort(margins)[::100]]  # forty rows that are spread as the law is: too few
    some = few[:, 0] - few[:, 1]
    total = ((1.959964 + 0.841621) * some.std(ddof=1) / some.mean()) ** 2
    found = summarise(few, prompts(40), ("a", "b"))
    assert not found.settled and found.rows_more == math.ceil(total) - 40
    assert summarise(pilot, prompts(4_000), ("a", "b")).rows_more == 0


def test_one_row_has_the_judges_own_probability_and_says_how_many_votes_would_tell():
    found = summarise(np.array([[0.6, 0.3, 0.1]]), prompts(1), ("a", "b"))
    assert (found.winner, found.confidence, found.interval) == ("first", pytest.approx(0.6), None)
    assert found.rows_more == math.ceil((2.801585 / 0.3) ** 2 * (0.9 - 0.09))
    assert summarise(np.array([[0.97, 0.02, 0.01]]), prompts(1), ("a", "b")).rows_more == FEWEST_VOTES
    level = summarise(np.array([[0.4, 0.4, 0.2]]), prompts(1), ("a", "b"))
    assert (level.winner, level.rows_more) == ("tie", None)


@pytest.mark.parametrize(
    ("shares", "winner", "words"),
    [
        ((0.402, 0.4, 0.198), "first", "no preference: the judge has the two level: 40.2 % a, 40.0 % b, 19.8 % a tie"),
        ((0.4, 0.407, 0.193), "second", "no preference"),  # 128,000 votes
        ((0.4, 0.4, 0.2), "tie", "no preference"),
        ((0.4, 0.42, 0.18), "second", "b wins, with a probability of 42.0 %"),
        ((0.301, 0.3, 0.399), "tie", "neither wins, with a probability of 39.9 %"),
    ],
)
def test_a_row_whose_answers_are_all_but_level_has_no_winner_in_words(shares, winner, words):
    found = summarise(np.array([shares]), prompts(1), ("a", "b"))
    assert found.winner == winner, "for programs it stays the likeliest"
    told = str(found).replace("\xa0", " ")
    assert told.startswith(words) and ("votes" in told) == ("b wins" in words)


def test_many_rows_all_but_level_have_no_leader_in_words():
    level = np.tile([[0.3642, 0.3638, 0.272], [0.3638, 0.3641, 0.2721]], (20, 1))
    found = summarise(level, prompts(40), ("a", "b"))
    assert found.winner == "first" and not found.settled, "for programs it stays the one ahead"
    assert str(found).splitlines()[-1] == "not settled: no preference, the judge has the two all but level"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_are_joined_by_id_or_by_prompt_whatever_their_order(tmp_path):
    long, short = ("a rather long answer", "short")
    rows = [{"id": i, "prompt": f"question {i}", "response": long if i % 4 else short} for i in range(12)]
    others = [{"id": i, "prompt": f"Question  {i}", "answer": short} for i in reversed(range(10))]
    first, second = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", others)
    found = tiebreak.compare(LikesLong(), first, second)
    assert (found.rows, found.first, found.second, found.winner) == (10, "a.jsonl", "b.jsonl", "first")
    assert "2 rows of a.jsonl" in found.notes[0] and len(found.notes) == 1
    for row in rows + others:
        row.pop("id")
    bare = write(tmp_path / "a2.jsonl", rows), write(tmp_path / "b2.jsonl", others)
    again = tiebreak.compare(LikesLong(), *bare)
    assert again.win == pytest.approx(found.win) and again.rows == 10
    swapped = tiebreak.compare(LikesLong(), *bare[::-1])
    assert swapped.winner == "second" and swapped.loss == pytest.approx(found.win)


def test_the_best_of_candidates_in_rows_or_lists(tmp_path):
    texts = {"one": ["aa", "aaaa", "a"], "two": ["bbb", "b"]}
    rows = [{"prompt": prompt, "response": text} for prompt, answers in texts.items() for text in answers]
    lists = [{"prompt": prompt, "responses": answers} for prompt, answers in texts.items()]
    for name, content in (("rows", rows), ("lists", lists)):
        file = write(tmp_path / f"{name}.jsonl", content)
        chosen = tiebreak.best_of(LikesLong(), file, out=tmp_path / f"{name}-best.jsonl")
        assert [(choice.answer, choice.index) for choice in chosen] == [(["aaaa"], 1), (["bbb"], 0)]
        assert all(choice.index == int(np.argmax(choice.scores)) for choice in chosen)
        written = [json.loads(line) for line in (tmp_path / f"{name}-best.jsonl").read_text().splitlines()]
        assert [line["response"] for line in written] == ["aaaa", "bbb"]
    in_memory = tiebreak.best_of(LikesLong(), list(texts.items()), out=tmp_path / "best.csv")
    assert in_memory == chosen
    assert (tmp_path / "best.csv").read_text().splitlines()[1].startswith("one,aaaa,1,")


def test_the_users_mistakes_are_told_before_a_judge_is_loaded(tmp_path, capsys):
    good = write(tmp_path / "good.jsonl", [{"id": 1, "prompt": "p", "response": "r"}])
    twice = write(tmp_path / "twice.jsonl", [{"id": 1, "prompt": "p", "response": "r"}] * 2)
    other = write(tmp_path / "other.jsonl", [{"id": 1, "prompt": "q", "response": "r"}])
    apart = write(tmp_path / "apart.jsonl", [{"id": 2, "prompt": "p", "response": "r"}])
    nameless = write(tmp_path / "nameless.jsonl", [{"id": 2, "prompt": "p", "text": "r"}])
    best = ["best-of", "--model", "absent", "--out"]
    for words, facts in (
        (["compare", good, twice], ["twice.jsonl", "id 1 occurs twice"]),
        (["compare", good, other], ["row 1 has another prompt"]),
        (["compare", good, apart], ["no id in common"]),
        (["compare", good, nameless], ["nameless.jsonl", "prompt and response"]),
        (["compare", good, tmp_path / "absent.csv"], ["absent.csv: no such file"]),
        (["compare", "--prompt", "p", "a"], ["two answers"]),
        (["compare", "--prompt", "p", "a", "b"], ["absent does not exist"]),
        ([*best, tmp_path / "o.txt", good], ["o.txt", ".csv or .jsonl"]),
        ([*best, tmp_path / "o.csv", good], ["good.jsonl", "one candidate only"]),
    ):
        words = [*words, "--model", "absent"] if words[0] == "compare" else words
        assert main(list(map(str, words))) == 2, words
        told = capsys.readouterr().err
        assert all(fact in told for fact in facts), told
