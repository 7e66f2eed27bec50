"""Micro-batches of a recipe at full size on one of many ranks of an FSDP2 job: the most memory on its card.

Usage: fsdp.py RECIPE flash|packed WORLD [KEY=VALUE ...], under the driver of device.c. The optimizer's states are there
from before. Where a step has several micro-batches two run: the first adds to gradients that are not cut yet, the
second sends them. Prints a line of JSON.
"""

import json
import sys
from contextlib import nullcontext

import fake_gpu
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

fake_gpu.install()

from simulate import lay_out_on_the_host, micro_batch, prepare  # noqa: E402

from tiebreak.cluster.ranks import Ranks  # noqa: E402
from tiebreak.config import load_recipe  # noqa: E402
from tiebreak.engines import fsdp  # noqa: E402


class Idle:
    """In the place of CUDA's streams and events: whatever is asked of it, nothing happens."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __getattr__(self, name: str) -> object:
        return lambda *args, **kwargs: Idle()


class OneCard(Ranks):
    """A rank whose device is the simulated card."""

    device = torch.device("cuda", 0)  # type: ignore[assignment]


def pretend(rank: int, world: int) -> None:
    """Form a group whose other ranks are not there, on a mesh of cards."""
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    mesh = fsdp.init_device_mesh("cpu", (world,))
    mesh._device_type = "cuda"  # made for the host, as there is no card to ask for
    fsdp.init_device_mesh = lambda *args: mesh  # type: ignore[assignment]
    torch.cuda.Stream = torch.cuda.Event = Idle
    torch.cuda.current_stream = Idle
    torch.cuda.stream = lambda *args: nullcontext()


def main(name: str, attention: str, world: str, *changes: str) -> None:
    recipe = load_recipe(name, ["train.precision=bf16", *changes])
    pretend(1, int(world))
    several = recipe.train.batch_size * recipe.data.max_tokens > int(world) * recipe.train.tokens_per_micro_batch
    lay_out_on_the_host()
    live = fake_gpu.counted()
    with fake_gpu.fake(), live:
        judge, lengths = prepare(recipe, attention)
        fsdp.shard(judge, OneCard(1, int(world), 1), recipe.fsdp, handed_out=False)
        trained = [parameter for parameter in judge.parameters() if parameter.requires_grad]
        states = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
        held = live.live["cuda"]
        live.restart()
        for last in (False, True) if several else (True,):
            judge.set_requires_gradient_sync(last)
            micro_batch(judge, lengths)
    assert len(states) and live.peak["cpu"] < 2**30
    print(json.dumps({"held": held, "peak": live.peak["cuda"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
