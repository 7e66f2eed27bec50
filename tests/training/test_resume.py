"""Invariant 2, and what a killed, stopped or damaged run leaves."""

import os
import re
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "engines.md"
METHODS = ("full", "qlora")
KINDS = {"plain": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp": "FSDP2"}
CHAIN = ((4, 1), (2, 2), (1, 3), (3, 4))
"""Ranks, and the step up to which they go."""


@pytest.fixture(scope="module")
def resumed(run, sample, tmp_path_factory):
    """Runs resume.py under so many ranks and returns what it saved."""
    folder = tmp_path_factory.mktemp("resume")

    def resumed(world: int, what: str, into: str, *arguments: str) -> dict:
        out = folder / f"{what}-{world}.pt"
        launcher = ["torchrun", "--nproc-per-node", world, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        run(*launcher, HERE / "resume.py", what, sample, folder / into, out, *arguments, timeout=1200)
        return torch.load(out, weights_only=False)

    return resumed


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def undisturbed(resumed) -> dict:
    """Final weights of one process that nothing stopped."""
    found = resumed(1, "chain", "undisturbed", "4", *(f"demo-gemma2:{method}:plain" for method in METHODS))
    return {combination.split(":")[1]: weights for combination, weights in found.items()}


@pytest.mark.processes
def test_invariant_2_stopped_after_every_step_equals_uninterrupted_bit_for_bit(resumed):
    kinds = ("plain", "zero2", "zero3", "fsdp")
    results = resumed(2, "every-step", "every-step", *kinds)
    assert tuple(results) == kinds
    for kind, (whole, parted) in results.items():
        assert whole.keys() == parted.keys()
        for name, tensor in whole.items():
            assert torch.equal(parted[name], tensor), f"{kind}: {name}"


@pytest.mark.processes
def test_invariant_2_at_other_numbers_of_ranks(resumed, undisturbed):
    """4 ranks, then 2, 1 and 3, each with another engine than before; 1e-5 is the invariant's tolerance."""
    kinds = {"qlora": ("plain", "zero2", "plain", "fsdp"), "full": ("zero3", "fsdp", "plain", "zero2")}
    for turn, (world, until) in enumerate(CHAIN):
        combinations = [f"demo-gemma2:{method}:{kinds[method][turn]}" for method in METHODS]
        results = resumed(world, "chain", "chain", str(until), *combinations)
    for combination, weights in results.items():
        assert largest_difference(weights, undisturbed[combination.split(":")[1]]) < 1e-5, combination


@pytest.fixture(scope="module")
def pairings(resumed):
    return resumed(2, "pairings", "pairings", *METHODS)


@pytest.mark.processes
@pytest.mark.parametrize("now", KINDS)
@pytest.mark.parametrize("then", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_of_each_engine_resumes_under_each(pairings, undisturbed, method, then, now):
    assert largest_difference(pairings[method, then, now], undisturbed[method]) < 1e-5


@pytest.mark.processes
def test_the_docs_have_the_pairings_as_they_came_out(pairings, undisturbed):
    """TIEBREAK_WRITE_DOCS=1 writes the table."""
    lines = ["| saved under | " + " | ".join(f"{label}" for label in KINDS.values()) + " |"]
    lines.append("|---" * (1 + len(KINDS)) + "|")
    for method in METHODS:
        for then, label in KINDS.items():
            found = [largest_difference(pairings[method, then, now], undisturbed[method]) for now in KINDS]
            lines.append(f"| {label}, {method} | " + " | ".join(f"{value:.0e}" for value in found) + " |")
    table, text, (before, after) = "\n".join(lines), DOCS.read_text(), ("<!-- pairings -->\n", "\n<!-- /pairings -->")
    stored = text.split(before)[1].split(after)[0]
    if os.environ.get("TIEBREAK_WRITE_DOCS"):
        DOCS.write_text(text.replace(before + stored + after, before + table + after))
        stored = table
    numbers = re.compile(r"\de-\d+")
    assert numbers.sub("x", stored) == numbers.sub("x", table)
    assert len(numbers.findall(stored)) == 50 and max(map(float, numbers.findall(stored))) < 1e-5
