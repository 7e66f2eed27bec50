"""Planted judges: each audit finds the effect within its interval, and finds none in the neutral judge."""

from collections import Counter

import numpy as np
import pytest
from planted import make_world, noisy, softmax, sure

from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.calibration import calibrate
from tiebreak.evaluation.position import audit_position
from tiebreak.evaluation.repetition import audit_repetition
from tiebreak.evaluation.self_enhancement import audit_families, family_of
from tiebreak.evaluation.verbosity import audit_verbosity
from tiebreak.tables.attack import doubled_side

SEEDS = 200
MOST_ALARMS = 0.105
"""5 % are meant. With 200 seeds a rate of 6 % (the percentile interval is a little narrow at 300 prompts) stays
below this 99 times in 100."""


def holds(estimate, value):
    return estimate.low <= value <= estimate.high


def test_always_first_is_found():
    world = make_world(1)
    n = len(world.labels)
    orders = np.stack([sure(np.zeros(n, int)), sure(np.ones(n, int))])
    found = audit_position(orders.mean(0), world.labels, orders, world.bootstrap())
    # The same in every row, so the interval is this very point but for rounding.
    assert found.first_preference.value == pytest.approx(0.94, abs=1e-12)
    assert found.consistency.value == 0
    assert found.first_favoured.value == 1
    assert found.second_favoured.value == 0
    assert found.mean_change.value == pytest.approx(0.94)
    one_order = audit_position(orders[0], world.labels, None, world.bootstrap())
    assert one_order.excess.low > 0.5 and one_order.consistency is None


@pytest.mark.parametrize("shift", [-0.5, 0.3])
def test_a_planted_lean_to_the_first_lies_within_the_interval(shift):
    lean = shift * np.array([0.5, -0.5, 0.0])

    def judge(world):
        z = np.log(noisy(world.law, world.groups, world.rng)), np.log(noisy(world.law, world.groups, world.rng))
        return np.stack([softmax(z[0] + lean), softmax(z[1] - lean)])

    crowd = make_world(0, 60_000)
    first, second = judge(crowd)
    planted = ((first[:, 0] - first[:, 1]) + (second[:, 1] - second[:, 0])).mean() / 2
    world = make_world(2, 600)
    orders = judge(world)
    found = audit_position(orders.mean(0), world.labels, orders, world.bootstrap())
    assert holds(found.first_preference, planted)
    assert not holds(found.first_preference, 0)


def test_always_longer_is_found():
    world = make_world(3)
    longer = (world.chars[:, 1] > world.chars[:, 0]).astype(int)
    found = audit_verbosity(sure(longer), world.labels, world.chars, world.bootstrap())
    crowd = make_world(0, 60_000)
    differ = crowd.chars[:, 0] != crowd.chars[:, 1]
    wins = crowd.law[np.arange(len(crowd.labels)), (crowd.chars[:, 1] > crowd.chars[:, 0]).astype(int)]
    humans = wins[differ].sum() / crowd.law[differ, :2].sum()
    assert found.prefers_longer.value == pytest.approx(0.96 / 0.98, abs=1e-12)
    assert found.verdict_prefers_longer.value == 1
    assert holds(found.humans, humans)
    assert holds(found.excess, 0.96 / 0.98 - humans)
    assert found.excess_length_effect.low > 0 > found.residual_length_effect.high
    assert all(entry.judge.low > entry.humans.high for entry in found.bins if entry.longer_by > 1)


def test_a_planted_length_effect_lies_within_the_interval():
    """The judge weighs log length by 1.4 more than people; everything else is as they do."""
    ratio = {}

    def judge(world):
        ratio[id(world)] = np.log((1 + world.chars[:, 0]) / (1 + world.chars[:, 1])).clip(-3, 3)
        return softmax(np.log(world.law) + 1.4 * ratio[id(world)][:, None] * np.array([0.5, -0.5, 0.0]))

    crowd = make_world(0, 60_000)
    planted = audit_verbosity(judge(crowd), crowd.labels, crowd.chars, crowd.bootstrap(2))
    world = make_world(5, 600)
    found = audit_verbosity(judge(world), world.labels, world.chars, world.bootstrap())
    assert holds(found.excess_length_effect, planted.excess_length_effect.value)
    assert holds(found.residual_length_effect, -1.4), "the offset takes the odds as given, so what is left is the plant"
    assert holds(found.excess, planted.excess.value)


def test_own_family_is_found():
    world = make_world(4)
    families = np.array([[family_of(a), family_of(b)] for a, b in world.models])
    own = families == "llama"
    winner = np.where(own[:, 0], 0, np.where(own[:, 1], 1, world.labels))
    found = audit_families(sure(winner), world.labels, world.models, "llama", world.bootstrap())
    by_name = {entry.family: entry for entry in found.families}
    crowd = make_world(0, 60_000)
    mine = np.array([[family_of(a) == "llama", family_of(b) == "llama"] for a, b in crowd.models])
    wins = (crowd.law[:, :2] + crowd.law[:, 2:] / 2)[mine].mean()
    assert by_name["llama"].judge.value == pytest.approx(0.96 + 0.01, abs=1e-12)
    assert holds(found.own_excess, 0.97 - wins)
    assert found.own_excess == by_name["llama"].excess
    assert all(entry.excess.high < 0 for name, entry in by_name.items() if name != "llama")


def test_a_swayed_judge_falls_for_repetition():
    world = make_world(6)
    ids = [str(k) for k in range(len(world.labels))]
    side = np.array([doubled_side(name) for name in ids])
    assert 0.4 < side.mean() < 0.6
    after = 0.7 * world.law + 0.3 * np.eye(3)[side]
    found = audit_repetition(ids, world.law, after, world.bootstrap())
    own = world.law[np.arange(len(side)), side]
    assert found.win_gain.value == pytest.approx((0.3 * (1 - own)).mean(), abs=1e-12)
    assert found.win_gain.low > 0 and found.net.low > 0 and found.away.value == 0
    some = after.copy()
    some[50:] = np.nan
    assert audit_repetition(ids, world.law, some, world.bootstrap()).rows == 50


@pytest.mark.parametrize("temperature", [0.6, 1.5, 2.5])
def test_a_known_temperature_is_found(temperature):
    """Logits multiplied by it are mended by dividing by it."""
    world = make_world(7, 4_000)
    found = calibrate(softmax(np.log(world.law) * temperature), world.labels, world.bootstrap())
    assert holds(found.temperature, temperature)
    assert not holds(found.temperature, 1)
    assert found.held_out_gain.low > 0
    assert found.ece.value > found.ece_if_calibrated_high


@pytest.mark.slow
def test_the_neutral_judge_alarms_no_audit_more_often_than_it_says():
    """People's own law, judged with noise that favours nobody: what each audit's 95 % interval misses in 200 worlds."""
    alarms: Counter = Counter()
    for seed in range(SEEDS):
        world = make_world(1_000 + seed)
        boot, law, y = world.bootstrap(500), world.law, world.labels
        orders = np.stack([noisy(law, world.groups, world.rng) for _ in range(2)])
        ids = [str(group) for group in world.groups]  # copies of a prompt are doubled on the same side
        place = audit_position(orders.mean(0), y, orders, boot)
        one_order = audit_position(law, y, None, boot)
        length = audit_verbosity(law, y, world.chars, boot)
        family = audit_families(law, y, world.models, "llama", boot)
        twice = audit_repetition(ids, noisy(law, world.groups, world.rng), noisy(law, world.groups, world.rng), boot)
        honest = calibrate(law, y, boot, seed)
        alarms += Counter(
            {
                "position, both orders": not holds(place.first_preference, 0),
                "position, one order": not holds(one_order.excess, 0),
                "verbosity": not holds(length.excess, 0),
                "length effect": not holds(length.excess_length_effect, 0),
                "residual length effect": not holds(length.residual_length_effect, 0),
                "self-enhancement": not holds(family.own_excess, 0),
                "repetition": not holds(twice.win_gain, 0),
                "temperature": not holds(honest.temperature, 1),
                "temperature's gain": honest.held_out_gain.low > 0,
            }
        )
    rates = {name: count / SEEDS for name, count in alarms.items()}
    print(rates)
    assert max(rates.values()) <= MOST_ALARMS, rates


@pytest.mark.slow
def test_calibration_error_of_an_honest_judge_is_what_chance_gives():
    """Independent rows, as the simulation takes them to be: one in twenty exceeds the 95th percentile."""
    above = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        law = rng.dirichlet([1.5, 1.5, 1.0], 400)
        labels = (rng.random(400)[:, None] > law.cumsum(1)[:, :2]).sum(1)
        found = calibrate(law, labels, Bootstrap(np.arange(400), 20), seed)
        above += found.ece.value > found.ece_if_calibrated_high
    assert above / SEEDS <= MOST_ALARMS


def test_names_of_families():
    names = {"gpt-4-1106-preview": "gpt", "gemma-2-9b-it": "gemma", "llama-2-70b-chat": "llama", "vicuna-13b": "llama"}
    names |= {"gemini-pro-dev-api": "gemma", "mixtral-8x7b-instruct-v0.1": "mistral", "qwen1.5-72b-chat": "qwen"}
    names |= {"gemma2": "gemma", "sample-alder": "sample-alder", "oasst-pythia-12b": "oasst-pythia", "7b": "7b"}
    names |= {"yi-34b-chat": "yi", "chatglm3-6b": "glm", "claude-2.1": "claude", "meta-llama/Llama-2-7b-hf": "llama"}
    assert {name: family_of(name) for name in names} == names
