"""A plan of many ranks against a count by hand, its traffic against rings that are played through."""

import re

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.data.plan import Plan
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.preflight.simulate import measure
from tiebreak.preflight.traffic import ENGINES, bytes_per_step, efficiency, find_payload


def test_balance_by_hand():
    """Two ranks, two steps of three rows. Longest first onto the emptier rank: 5 | 4, then 3 to the second: 5 and 7."""
    plan = Plan(np.array([5, 4, 3, 5, 4, 3]), batch_size=3, epochs=1, seed=0, world=2, tokens=100)
    plan._examples = lambda epoch: (np.arange(6), np.zeros(6, bool))  # type: ignore[method-assign]  # in order
    found = measure(plan)
    assert (found.steps, found.mean_tokens, found.most_tokens, found.micro_batches, found.idle) == (2, 6, 7, 1, 0)
    assert found.straggle == pytest.approx(7 / 6)


@pytest.mark.parametrize(("world", "batch", "budget"), [(1, 8, 60), (3, 7, 25), (5, 4, 200), (4, 16, 40)])
def test_balance_against_brute_force(world, batch, budget):
    """Token by token, over every row of every step."""
    lengths = np.random.default_rng(world).integers(1, 25, size=50)
    plan = Plan(lengths, batch_size=batch, epochs=1.5, seed=3, swap="both", world=world, tokens=budget)
    found, straggles, most, total, idle = measure(plan), [], [], 0, 0
    for index in range(plan.steps):
        step = plan.step(index)
        ranks = [0] * world
        for rank, parts in enumerate(step.micro_batches):
            for part in parts:
                for position in part:
                    ranks[rank] += int(lengths[step.rows[position]])
        total += sum(ranks)
        idle += ranks.count(0)
        most.append(max(ranks))
        straggles.append(max(ranks) * world / sum(ranks))
    seen = sum(int(lengths[row]) for index in range(plan.steps) for row in plan.step(index).rows)
    assert total == seen, "every row of a step is on one rank"
    assert found.mean_tokens == pytest.approx(total / world / plan.steps)
    assert found.most_tokens == pytest.approx(sum(most) / len(most))
    assert found.straggle == pytest.approx(sum(straggles) / len(straggles))
    assert found.idle == pytest.approx(idle / world / plan.steps)


def ring(world: int, elements: int, passes: int) -> int:
    """Elements that rank 0 sends: chunk by chunk to its neighbour; one pass reduces or gathers, two do both."""
    sent = 0
    for _ in range(passes):
        for _turn in range(world - 1):
            sent += elements // world
    return sent


@pytest.mark.parametrize("world", [2, 4, 8])
def test_bytes_against_rings_that_are_played(world):
    """Gemma-2-9B with adapters of rank 64 and its head, three micro-batches a step."""
    recipe = load_recipe("gemma2-9b")
    payload = find_payload(recipe, ARCHITECTURES[recipe.model.base])
    trained = round(payload.gradients / 4)
    assert trained == pytest.approx(4 * 54.02e6, rel=1e-3), "four times the published count at rank 16"
    unit = 1 << 20  # a buffer that every world divides
    weights = payload.gathered["zero3"] / payload.gradients
    wanted = {
        "ddp": ring(world, unit, 2),
        "zero1": ring(world, unit, 1) + ring(world, unit, 1),
        "zero2": 3 * ring(world, unit, 1) + ring(world, unit, 1),
        "zero3": 3 * (2 * weights * ring(world, unit, 1) + ring(world, unit, 1)),
        "fsdp": 3 * 2 * weights * ring(world, unit, 1) + ring(world, unit, 1),
    }
    for engine in ENGINES:
        sent = bytes_per_step(engine, payload, world, 3)
        assert sent / payload.gradients * unit == pytest.approx(wanted[engine], rel=1e-9)


def test_zero_sends_what_its_paper_says():
    """In units of the parameters, one micro-batch, many ranks: 2 under DDP, ZeRO-1 and ZeRO-2, 3 under ZeRO-3."""
    recipe = load_recipe("gemma2-9b", ["model.method=full"])
    payload = find_payload(recipe, ARCHITECTURES[recipe.model.base])
    many = 10**6
    shares = [bytes_per_step(engine, payload, many, 1) / payload.gradients for engine in ENGINES]
    # FSDP2 gathers in bf16: half of twice the parameters, and the gradients.
    assert shares == pytest.approx([2, 2, 2, 3, 2], rel=1e-5)


def test_arithmetic_and_traffic_of_gemma_2_9b():
    """Published: 33.3 GFLOP a token for LoRA, 49.9 with checkpointing; 216 MB of gradients at rank 16."""
    for checkpointing, flops in ((False, 33.3e9), (True, 49.9e9)):
        changes = ["model.lora.r=16", f"train.gradient_checkpointing={checkpointing}"]
        payload = find_payload(load_recipe("gemma2-9b", changes), ARCHITECTURES["google/gemma-2-9b-it"])
        assert payload.per_token == pytest.approx(flops, rel=2e-3)
    assert payload.gradients == pytest.approx(216e6, rel=2e-3)
    # Eight nodes at 10 Gbit/s: 2 x 7/8 x 216 MB at 1.25 GB/s.
    seconds = bytes_per_step("ddp", payload, 8, 1) / 1.25e9
    assert seconds == pytest.approx(0.302, rel=5e-3)


def test_efficiency_by_hand():
    """1,000 tokens at 4e9 FLOP take 10 ms at 400 TFLOP/s; 12.5 MB over 10 Gbit/s take 10 ms; the fullest rank 20 ms."""
    assert efficiency(0, 10, 1_000, 1_000, 4e9) == pytest.approx(1.0)
    assert efficiency(12.5e6, 10, 1_000, 1_000, 4e9) == pytest.approx(0.5)
    assert efficiency(12.5e6, 10, 1_000, 2_000, 4e9) == pytest.approx(1 / 3)


@pytest.mark.slow
def test_the_command(capsys, sample):
    """Eight rows a rank on 16 ranks; with too few rows the idle ranks are told."""
    options = ["preflight", "--fake-world", "16", "--recipe", "demo-llama2", "--data", str(sample)]
    assert main([*options, "--set", "train.batch_size=128", "--set", "train.epochs=1", "--fold", "0/4"]) == 0
    told = capsys.readouterr().out
    assert "16 ranks" in told and re.search(r": 3 steps of 128 rows, planned in", told)
    assert re.search(r"straggle factor 1\.\d{3}", told) and "note:" not in told
    assert [line.split()[0] for line in told.splitlines()[-len(ENGINES) :]] == list(ENGINES)
    assert main([*options, "--set", "train.batch_size=32"]) == 0
    assert re.search(r"note: 2 rows a rank and step.*train\.batch_size=128", capsys.readouterr().out, re.S)
