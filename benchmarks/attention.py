"""Soft-capped causal attention by tiles (tiebreak) against transformers' eager attention of Gemma-2, on a CPU.

    python benchmarks/attention.py                       # 256 to 2,048 tokens, one thread, fp32
    python benchmarks/attention.py --lengths 1024 --rounds 9 --threads 2

Both take the same queries, keys and values (one row, 8 heads of 32, 4 key heads), in turn within each round. The peer
gets its mask ready made, outside the clock. Printed per length: milliseconds (medians over the rounds) forward, and
forward with backward; the ratios; the largest differences of outputs and of gradients; and the growth of a fresh
process's peak memory over one forward and backward pass.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command sets it, for the peer too

import torch
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from tiebreak.models.packed_sdpa import Packing, attend_packed

HEADS, KEY_HEADS, WIDTH, SOFTCAP = 8, 4, 32, 50.0
WAYS = ("tiebreak", "transformers")


def prepare(length: int) -> tuple[list[torch.Tensor], dict[str, Callable[[], torch.Tensor]]]:
    """Queries, keys and values (1, heads, length, WIDTH), and what attends to them in each way."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, length, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    states = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    packing = Packing.of([length], torch.device("cpu"))
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    module = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, training=False, head_dim=WIDTH)
    options = {"scaling": WIDTH**-0.5, "softcap": SOFTCAP}

    def ours() -> torch.Tensor:
        return attend_packed(torch.nn.Module(), *states, None, packing=packing, **options)[0]

    def theirs() -> torch.Tensor:
        return eager_attention_forward(module, *states, mask, dropout=0.0, **options)[0]

    return states, dict(zip(WAYS, (ours, theirs), strict=True))


def peak_growth(length: int, way: str, queue: multiprocessing.Queue) -> None:
    """Put the MiB by which this process's peak grows."""
    states, ways = prepare(length)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; importing has a high one
    before = peak_kib()
    attended = ways[way]()
    torch.autograd.grad(attended, states, torch.ones_like(attended))
    queue.put((peak_kib() - before) / 1024)


def peak_kib() -> int:
    """The most memory that this process has had, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak_of(length: int, way: str) -> float:
    """`peak_growth` of a new process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_growth, args=(length, way, queue))
    process.start()
    grown = queue.get()
    process.join()
    return round(grown, 1)


def compare(length: int, rounds: int) -> dict:
    """The figures of one length."""
    states, ways = prepare(length)
    seconds: dict[str, dict[str, list[float]]] = {what: {way: [] for way in WAYS} for what in ("forward", "both")}
    found: dict[str, list[torch.Tensor]] = {}
    for turn in range(rounds + 1):
        for way in sorted(WAYS, reverse=turn % 2 == 1):
            began = time.perf_counter()
            with torch.no_grad():
                ways[way]()
            between = time.perf_counter()
            attended = ways[way]()
            gradients = torch.autograd.grad(attended, states, torch.ones_like(attended))
            ended = time.perf_counter()
            found[way] = [attended.detach(), *gradients]
            if turn:  # the first round warms up
                seconds["forward"][way].append(between - began)
                seconds["both"][way].append(ended - between)
    differences = [float((one - other).abs().max()) for one, other in zip(*found.values(), strict=True)]
    peak = {way: peak_of(length, way) for way in WAYS}
    took = {what: {way: median(each) for way, each in ways.items()} for what, ways in seconds.items()}
    return {
        "length": length,
        "threads": torch.get_num_threads(),
        "milliseconds": {what: {way: round(1000 * s, 1) for way, s in ways.items()} for what, ways in took.items()},
        "ratio": {what: round(ways["transformers"] / ways["tiebreak"], 2) for what, ways in took.items()},
        "largest_difference": {"outputs": differences[0], "gradients": max(differences[1:])},
        "peak_mib": peak,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for length in options.lengths:
        print(json.dumps(compare(length, options.rounds)), flush=True)
