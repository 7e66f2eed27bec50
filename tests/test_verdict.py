"""Verdicts and ranked answers: who wins, and how they are shown."""

import doctest

import pytest

import tiebreak.verdict
from tiebreak.verdict import RankedAnswer, Verdict


@pytest.mark.parametrize(
    ("probabilities", "winner"),
    [
        ((0.5, 0.3, 0.2), "a"),
        ((0.3, 0.5, 0.2), "b"),
        ((0.3, 0.2, 0.5), "tie"),
        ((0.4, 0.4, 0.2), "tie"),
        ((0.4, 0.2, 0.4), "a"),
        ((0.2, 0.4, 0.4), "b"),
    ],
)
def test_the_winner_is_the_likeliest_and_nobody_where_a_and_b_are_equal(probabilities, winner):
    verdict = Verdict(*probabilities)
    assert verdict.winner == winner
    assert str(verdict).startswith(winner)
    assert repr(verdict).startswith(f"Verdict(winner={winner!r}, a={probabilities[0]:.2f}")


def test_a_notebook_shows_the_winner_first_and_three_probabilities():
    page = Verdict(0.123456, 0.8, 0.076544)._repr_html_()
    places = [page.index(shown) for shown in (">b</th><td>", "0.12", "0.80", "0.08")]
    assert places == sorted(places) and page.count("<td>") == 3


def test_long_answers_are_shown_by_their_beginning():
    place = RankedAnswer(2, "First, check the garden rules. " * 20, 0.756)
    assert len(repr(place)) < 110 and "\n" not in repr(place)
    for shown in ("0.76", "index=2", "First, check the garden rules.", "…"):
        assert shown in repr(place)
    assert "['two', None]" in repr(RankedAnswer(0, ["two", None], 0.5))


def test_examples_run():
    assert doctest.testmod(tiebreak.verdict) == (0, 2)
