"""One of many ranks of an FSDP2 job is handed its part of a model of full size: the most memory on its card and host.

Usage: load.py RECIPE RANK WORLD, under the driver of device.c. Prints a line of JSON.
"""

import gc
import json
import sys

import fake_gpu
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig

from tiebreak.attention.backends import Attention
from tiebreak.cluster.ranks import Ranks
from tiebreak.config import load_recipe
from tiebreak.engines import fsdp, hand_out
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.models.meta import empty_classifier
from tiebreak.models.preference import PreferenceModel


def held() -> dict[str, int]:
    """Bytes of the storages of all tensors that are there, on each type of device."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            local = thing.to_local() if isinstance(thing, torch.distributed.tensor.DTensor) else thing
            storage = local.untyped_storage()
            found[storage._cdata] = (local.device.type, storage.nbytes())
    return {kind: sum(size for on, size in found.values() if on == kind) for kind in ("cpu", "cuda")}


def on_host(network: nn.Module) -> None:
    """As `from_pretrained` leaves a model."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class OneCard(Ranks):
    """A rank whose device is the simulated card."""

    device = torch.device("cuda", 0)  # type: ignore[assignment]


def main(name: str, rank: int, world: int) -> None:
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    mesh = fsdp.init_device_mesh("cpu", (world,))
    mesh._device_type = "cuda"  # made for the host, as there is no card to ask for
    fsdp.init_device_mesh = lambda *args: mesh  # type: ignore[assignment]
    recipe = load_recipe(name, ["model.method=full"])
    fields = dict(ARCHITECTURES[recipe.model.base])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, num_labels=3, pad_token_id=0)
    gc.collect()
    gc.freeze()
    peaks = {"cpu": 0, "cuda": 0}
    filled = hand_out.fill

    def fill(module: nn.Module, ranks: Ranks) -> None:
        filled(module, ranks)
        if module in last:
            now = held()
            peaks.update({kind: max(peaks[kind], now[kind]) for kind in peaks})

    hand_out.fill = fill  # type: ignore[assignment]
    with fake_gpu.fake():
        network = empty_classifier(recipe.model.base, config, "eager")
        if rank == 0:
            on_host(network)
        model = PreferenceModel(network, Attention("eager", "simulated"), torch.bfloat16)
        del network
        last = {[*group.modules()][-1] for group in hand_out.groups_of(model)}
        peaks = held()
        fsdp.shard(model, OneCard(rank, world, rank % 8), recipe.fsdp, handed_out=True)
    print(json.dumps({"device": peaks["cuda"], "host": peaks["cpu"]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
