"""Attention alone, ours against transformers' eager one: forward, forward and backward, and peak memory by length.

    python benchmarks/attention.py --lengths 1024 --rounds 9 --threads 2

Gemma-2's is causal and soft-capped (8 heads of 32, 4 key heads); DeBERTa-v3's is the whole module of its xsmall size
(6 heads of 64, 256 buckets, its projections included). Both sides take the same states of one row, in turn within each
round; masks, and the slots of DeBERTa's distances, are made beforehand. Compared are outputs and gradients of the
states. Memory is the growth of a fresh process's peak over one forward and backward pass.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from timing import fresh, peak_growth, peer, record, run_claim, take_turns
from torch import Tensor

from tiebreak.attention import deberta
from tiebreak.attention.packed_sdpa import Packing, attend_packed

HEADS, KEY_HEADS, WIDTH, SOFTCAP = 8, 4, 32, 50.0
XSMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1_536, "num_hidden_layers": 1}
OURS, THEIRS = "tiebreak", "transformers"
Prepared = tuple[list[Tensor], dict[str, Callable[[], Tensor]]]
"""The states that get gradients, and what attends to them in each way."""


def gemma2(length: int) -> Prepared:
    """States (1, heads, length, WIDTH) of queries, keys and values."""
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, length, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    states = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    packing = Packing.of([length], torch.device("cpu"))
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    module = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, training=False, head_dim=WIDTH)
    options = {"scaling": WIDTH**-0.5, "softcap": SOFTCAP}
    plain = torch.nn.Module()
    return states, {
        OURS: lambda: attend_packed(plain, *states, None, packing=packing, **options)[0],
        THEIRS: lambda: eager_attention_forward(module, *states, mask, dropout=0.0, **options)[0],
    }


def deberta_v3(length: int) -> Prepared:
    """States (1, length, 384), and the embeddings of distances (512, 384)."""
    from transformers import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder

    config = DebertaV2Config(
        **XSMALL, relative_attention=True, position_buckets=256, max_relative_positions=-1, share_att_key=True,
        pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )  # fmt: skip
    theirs, ours = DebertaV2Encoder(config), DebertaV2Encoder(config)
    torch.manual_seed(0)
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    ours.load_state_dict(theirs.state_dict())
    deberta.pack_attention(ours)
    packing = Packing.of([length], torch.device("cpu"))
    states = [torch.randn(1, length, config.hidden_size).requires_grad_()]
    slots = deberta.group_slots(packing, ours.position_buckets, ours.max_relative_positions, torch.device("cpu"))
    distances = theirs.get_rel_pos(states[0])
    mask = theirs.get_attention_mask(torch.ones(1, length))
    relative = theirs.get_rel_embedding().detach().requires_grad_()
    states.append(relative)
    mine, other = (encoder.layer[0].attention.self for encoder in (ours, theirs))
    return states, {
        OURS: lambda: mine(states[0], packing, relative_pos=slots, rel_embeddings=relative)[0],
        THEIRS: lambda: other(states[0], mask, relative_pos=distances, rel_embeddings=relative)[0],
    }


KINDS = {"gemma2": gemma2, "deberta": deberta_v3}


def run_both(states: list[Tensor], attend: Callable[[], Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of the states, by one forward and backward pass."""
    attended = attend()
    return [attended.detach(), *torch.autograd.grad(attended, states, torch.ones_like(attended))]


def peak_of(kind: str, length: int, way: str) -> float:
    """MiB of one forward and backward pass."""
    states, ways = KINDS[kind](length)
    return peak_growth(lambda: run_both(states, ways[way]))


def without_gradients(attend: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The forward pass alone."""

    def run() -> Tensor:
        with torch.no_grad():
            return attend()

    return run


def measure_one(kind: str, length: int, options: argparse.Namespace) -> Iterator[dict]:
    """Forward; forward and backward; memory."""
    states, ways = KINDS[kind](length)
    forward = take_turns({way: without_gradients(attend) for way, attend in ways.items()}, options.rounds)
    both = take_turns({way: lambda a=attend: run_both(states, a) for way, attend in ways.items()}, options.rounds)
    found, other = (both.results[way][-1] for way in (OURS, THEIRS))
    output, *gradients = (float((mine - theirs).abs().max()) for mine, theirs in zip(found, other, strict=True))
    for what, turns, parity in (
        ("forward", forward, f"outputs to {output:.0e}"),
        ("forward and backward", both, f"gradients to {max(gradients):.0e}"),
    ):
        mine, theirs = (1_000 * turns.of(way) for way in (OURS, THEIRS))
        setting = f"{kind}, {length:,} tokens, {what}"
        yield record(setting, "ms", mine, [peer("transformers, eager", theirs)], parity, seconds=turns.raw)
    if not options.quick:
        mine, theirs = (fresh(peak_of, kind, length, way, threads=options.threads) for way in (OURS, THEIRS))
        yield record(f"{kind}, {length:,} tokens, memory", "MiB", mine, [peer("transformers, eager", theirs)])


def measure(options: argparse.Namespace, folder: Path) -> Iterator[dict]:
    """Every kind at every length."""
    for kind in options.kinds:
        for length in [512] if options.quick else options.lengths:
            yield from measure_one(kind, length, options)


if __name__ == "__main__":
    run_claim(
        __doc__,
        measure,
        kinds={"nargs": "+", "default": list(KINDS), "choices": list(KINDS)},
        lengths={"type": int, "nargs": "+", "default": [512, 1_024, 2_048]},
    )
