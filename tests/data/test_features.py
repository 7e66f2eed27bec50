"""Features: known values of small texts, signs under a swap, and the column beside the tokens."""

import random
import re
import time

import numpy as np
import pytest

from tiebreak.config import DataSettings, load_recipe
from tiebreak.data.features import (
    LIST_ITEM,
    NAMES,
    SENTENCE,
    compare_lengths,
    extract_features,
    reading_ease,
    swap_signs,
)
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.models.loading import load_tokenizer
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table

GROUPS = list(NAMES)
RICH = "# Plan\n- one\n* two\n3. three\n**Sorry**, I can't add 17. Why? I?"


def pair(a: str, b: str, prompt: str = "Why?") -> Pair:
    return Pair("1", [prompt], [a], [b])


def named(values: np.ndarray, groups: list[str]) -> dict[str, float]:
    names = [f"{group}: {name}" for group in groups for name in NAMES[group]]
    return dict(zip(names, values.tolist(), strict=True))


def test_style_counts_what_it_says():
    """log(1 + count in A) - log(1 + count in B), B being empty."""
    found = np.expm1(extract_features([pair(RICH, "")], ["style"])[0])
    expected = {"lines": 4, "list items": 3, "bold": 2, "headings": 1, "code blocks": 0, "digits": 3, "questions": 2}
    expected |= {"capitals": 5, "refusals": 2, "first person": 2}
    assert named(found, ["style"]) == pytest.approx({f"style: {k}": v for k, v in expected.items()}, abs=1e-4)


def test_reading_ease_is_fleschs():
    """Six words of one syllable in one sentence: 206.835 - 1.015 * 6 - 84.6."""
    assert reading_ease("The cat sat on the mat.") == pytest.approx(206.835 - 6.09 - 84.6)
    assert reading_ease("") == 0 and reading_ease("😊 ...") == 0
    assert reading_ease("incomprehensibilities " * 9) == -100


def test_readability_and_turns():
    found = named(
        extract_features([pair("Go on. Go on.", "Go")], ["readability", "turns"])[0], ["readability", "turns"]
    )
    assert found["readability: words a sentence"] == pytest.approx(np.log(3 / 2))
    assert found["readability: letters a word"] == pytest.approx(0)
    assert found["readability: distinct words"] == pytest.approx(0.5 - 1)
    assert found["turns: turns"] == pytest.approx(np.log(2)) and found["turns: prompt"] == pytest.approx(np.log(5))


@pytest.mark.parametrize("group", GROUPS)
def test_a_swap_changes_the_signs_of_what_compares_the_answers(group, sample):
    pairs = read_table([sample]).pairs[:50]
    swapped = [Pair(p.id, p.prompt, p.response_b, p.response_a) for p in pairs]
    there, back = extract_features(pairs, [group]), extract_features(swapped, [group])
    np.testing.assert_allclose(back, there * swap_signs([group]), atol=1e-5)  # float32 of numbers up to 100
    assert there.any() and np.isfinite(there).all()
    assert (swap_signs([group]) == 1).all() == (group == "turns")


def test_lengths_are_those_of_the_baseline():
    found = extract_features([pair("abc" * 40, "")], ["length"])
    np.testing.assert_allclose(found, compare_lengths(np.array([[120, 0]])), rtol=1e-6)


def test_the_column_follows_order_selection_and_joining(sample):
    tokenizer = load_tokenizer("demo-llama2", "llama2")

    def made(**changes):
        return prepare([sample], tokenizer, TEMPLATES["llama2"], DataSettings(max_tokens=96, **changes))

    plain, tokens = made(), made(features=["turns", "length"])
    assert plain.folder != tokens.folder and plain.features_of(np.arange(3), np.zeros(3, bool)) is None
    expected = extract_features(read_table([sample]).pairs, ["turns", "length"])
    np.testing.assert_array_equal(tokens.features, expected)
    rows, swapped = np.array([7, 7, 9]), np.array([False, True, True])
    found = tokens.features_of(rows, swapped)
    np.testing.assert_array_equal(
        found, expected[rows] * np.where(swapped[:, None], swap_signs(["turns", "length"]), 1)
    )
    both = tokens.select(np.array([5, 3])).join(tokens)
    np.testing.assert_array_equal(both.features[:3], expected[[5, 3, 0]])


def test_a_group_twice_or_unknown_is_refused():
    with pytest.raises(UserError, match="each group of features once"):
        load_recipe("demo-deberta", ["data.features=[turns,turns]"])
    with pytest.raises(UserError, match=r"data.features.0: Input should be 'length', 'style'"):
        load_recipe("demo-deberta", ["data.features=[weight]"])


RUNS = [
    " ",
    "\n",
    "\n ",
    "\r",
    ".",
    "!",
    "#",
    "-",
    "- ",
    "1",
    "1.",
    "*",
    "`",
    "a",
    "ae",
    "e\u0301",
    "[",
    "<",
    "'",
    "_",
    "\u2028",
]


@pytest.mark.parametrize("run", RUNS, ids=repr)
def test_the_work_grows_in_proportion_to_a_text(run):
    text = (run * 100_000)[:100_000]
    for answer in (text, text + "x", "x" + text + "x"):
        pair = Pair("1", ["q"], [answer], ["b"])
        began = time.process_time()
        extract_features([pair], ["length", "style", "readability", "turns"])
        assert time.process_time() - began < 5  # a square of the length takes minutes


@pytest.mark.parametrize(
    ("text", "items"),
    [("- a\n- b", 2), ("\n\n- a\n\n\n  2) b", 2), ("a - b\n-c\n*\n\u2022 d", 2), ("\r\n\t- a", 1), ("-\n-\n- ", 3)],
)
def test_list_items_are_counted_by_line(text, items):
    old = re.compile(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s")
    assert len(LIST_ITEM.findall(text)) == len(old.findall(text)) == items


def test_sentences_are_counted_as_before():
    rng = random.Random(3)
    old_item, old_end = re.compile(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s"), re.compile(r"[.!?]+(?:\s|$)")
    for _ in range(3_000):
        text = "".join(rng.choices(".!? \n\r\t-*1)a\u2028", k=rng.randrange(30)))
        assert len(SENTENCE.findall(text)) == len(old_end.findall(text)), repr(text)
        assert len(LIST_ITEM.findall(text)) == len(old_item.findall(text)), repr(text)
