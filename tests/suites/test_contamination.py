"""Copies of trained prompts are found, changed a little or not; benchmarks/contamination.py is the full form."""

import itertools
import json

import numpy as np
import pytest

import tiebreak
from tiebreak.data.encode import prompt_group
from tiebreak.data.predictions import write_predictions
from tiebreak.suites.contamination import find_copies, find_near
from tiebreak.suites.minhash import Vocabulary, hash_word_pairs, jaccard, sign


def prompts(rng, count):
    """Ten to sixty words of a vocabulary in which some words are frequent."""
    chances = 1 / np.arange(3, 5_003)
    words = [f"w{k}" for k in range(5_000)]
    return [" ".join(rng.choice(words, rng.integers(10, 60), p=chances / chances.sum()).tolist()) for _ in range(count)]


def changed(rng, text):
    words = text.split()
    for place in rng.choice(len(words), max(1, round(len(words) / 10)), replace=False):
        words[place] = f"new{rng.integers(1_000_000)}"
    return " ".join(words)


def test_copies_are_found_and_others_are_not():
    rng = np.random.default_rng(0)
    trained, fresh = prompts(rng, 600), prompts(rng, 200)
    exact = [[f"  {text.upper()} "] for text in trained[:200]]
    near = [[changed(rng, text)] for text in trained[200:500]]
    found = find_copies([*exact, *near, *([text] for text in fresh)], [[text] for text in trained])
    assert found.exact[:200].all() and not found.exact[200:].any()
    assert (found.place[:200] == np.arange(200)).all()
    # 100 % in the benchmark's 1,000; 95 % is promised.
    assert found.near[200:500].mean() >= 0.95
    named = found.near[200:500]
    assert (found.place[200:500][named] == np.arange(200, 500)[named]).mean() > 0.99
    assert found.similarity[500:].sum() == 0, "200 x 600 pairs of which none is alike"


def test_pairs_that_are_found_have_the_true_similarity_and_are_those_of_a_full_search():
    rng = np.random.default_rng(1)
    base = prompts(rng, 60)
    texts = [changed(rng, changed(rng, text)) for text in base] + base[:5]
    vocabulary = Vocabulary()
    hashed, others = hash_word_pairs(texts, vocabulary), hash_word_pairs(base, vocabulary)

    def pairs(text):
        words = ["", *text.split()]
        return set(itertools.pairwise(words))

    wanted = {
        (i, j): len(pairs(a) & pairs(b)) / len(pairs(a) | pairs(b))
        for i, a in enumerate(texts)
        for j, b in enumerate(base)
    }
    first, second = np.array(list(wanted)).T
    assert jaccard(hashed, others, first, second) == pytest.approx(np.array(list(wanted.values())))
    found = {(i, j): s for i, j, s in zip(*map(np.ndarray.tolist, find_near(hashed, others)), strict=True)}
    alike = {key: similarity for key, similarity in wanted.items() if similarity >= 0.5}
    assert 20 < len(alike) < 70 and found.keys() <= alike.keys()
    # A pair at 0.5 is missed once in 270 times, more alike ones less often.
    assert len(found) >= len(alike) - 1
    assert all(found[key] == pytest.approx(alike[key]) for key in found)


def test_signatures_estimate_the_similarity():
    texts = [" ".join(f"w{k}" for k in range(start, start + 400)) for start in (0, 100, 200, 400)]
    hashed = hash_word_pairs(texts, Vocabulary())
    signatures = sign(hashed)
    for other, true in ((1, 299 / 501), (2, 199 / 601), (3, 0.0)):
        # Four standard errors of a share among 126.
        assert (signatures[0] == signatures[other]).mean() == pytest.approx(true, abs=4 * 0.5 / 126**0.5)


def test_short_prompts_are_near_only_where_no_word_differs_and_characters_are_words_where_there_are_no_spaces():
    trained = [["Tell me a joke"], ["请用中文写一首关于春天的短诗"], ["?!"]]
    asked = [["tell me  a joke."], ["Tell me a story"], ["请用中文写一首关于秋天的短诗"], ["??"], ["?!"]]
    found = find_copies(asked, trained)
    assert found.near.tolist() == [True, False, True, False, False]
    assert found.exact.tolist() == [False, False, False, False, True]


def test_no_prompts_and_no_trained_ones():
    assert find_copies([["a b"]], []).similarity.tolist() == [0]
    assert find_copies([["A  b"]], groups=np.array([prompt_group(["a b"])])).exact.tolist() == [True]


def test_a_bench_says_what_was_trained_on_and_scores_the_rest(tmp_path):
    rows = [
        {"input": f"Explain to a pupil in a few words how thing number {n} works at night", "output_1": "a",
         "output_2": "b", "label": 1 + (n > 2)}
        for n in range(6)
    ]  # fmt: skip
    rows[4]["input"] = "What else is there to be said of owls, bats and other friends of the dark?"
    rows[5]["input"] = rows[5]["input"].replace("pupil", "child")
    suite, trained = tmp_path / "Natural.json", tmp_path / "train.csv"
    suite.write_text(json.dumps(rows[3:]), encoding="utf-8")
    trained.write_text(
        f"id,prompt,response_a,response_b,winner\n1,{rows[3]['input'].upper()},x,y,a\n2,{rows[0]['input']},x,y,b\n"
    )
    alone = tiebreak.bench(suite, trained=trained).suites[0]
    assert alone.score is None and (alone.contamination.exact, alone.contamination.near) == (1, 1)
    (example,) = alone.contamination.examples
    assert "child" in example.prompt and "THING NUMBER" in example.trained.upper() and 0.5 <= example.similarity < 1
    tiebreak.bench_pairs(suite, tmp_path / "pairs.csv")
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1]])
    write_predictions(tmp_path / "p.csv", [f"llmbar:{k}:1-2" for k in (1, 2, 3)], p)
    record = tiebreak.bench(suite, predictions=tmp_path / "p.csv", trained=trained, out=tmp_path / "out")
    result = record.suites[0]
    assert (result.score["Natural"], result.clean_score["Natural"], result.contamination.rows) == (1 / 3, 1.0, 2)
    assert "trained on: 1 of 3 prompts as they stand, 1 more are near-duplicates" in str(record)
    items = (tmp_path / "out" / "items.csv").read_text().splitlines()
    assert items[1].endswith("1.000") and items[2].endswith("0.000")
