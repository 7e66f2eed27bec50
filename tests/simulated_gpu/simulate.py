"""A training step of a recipe at full size on a fake GPU: the most memory that its tensors take.

Usage: simulate.py RECIPE flash|packed [KEY=VALUE ...], under the driver of device.c. One micro-batch of full rows runs,
with gradients and the optimizer's states there from before, as in a step's second micro-batch. Prints a line of JSON.
"""

import dataclasses
import json
import sys
from typing import Any

import fake_gpu
import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

fake_gpu.install()

from transformers import AutoConfig, AutoModelForSequenceClassification  # noqa: E402

from tiebreak.attention import deberta  # noqa: E402
from tiebreak.attention.backends import Attention  # noqa: E402
from tiebreak.config import load_recipe  # noqa: E402
from tiebreak.models import heads, preference  # noqa: E402
from tiebreak.models.adapters import add_adapters  # noqa: E402
from tiebreak.models.architectures import ARCHITECTURES  # noqa: E402
from tiebreak.models.heads import attach_head, heads_of  # noqa: E402
from tiebreak.models.loading import _wrap  # noqa: E402
from tiebreak.models.recomputing import recompute_activations  # noqa: E402
from tiebreak.preflight.memory import NF4  # noqa: E402

CUDA = torch.device("cuda")


class _Product4(torch.autograd.Function):
    """A product with a frozen matrix in 4 bits, which is whole while it is used."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        return nn.functional.linear(states, states.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return grad @ grad.new_empty(ctx.shape), None


class _Product8(_Product4):
    """In 8 bits: the input is quantised from fp16, and the product goes from int32 to fp16 to its own type."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        ctx.shape = shape
        codes = torch.empty_like(states.half(), dtype=torch.int8)
        summed = codes.new_empty((*states.shape[:-1], shape[0]), dtype=torch.int32)
        return torch.empty_like(summed, dtype=torch.float16).to(states.dtype)


class Quantised(nn.Linear):
    """bitsandbytes' layer."""

    def __init__(self, linear: nn.Linear, bits: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        self.product = _Product4 if bits == 4 else _Product8
        held = torch.empty(round(linear.weight.numel() * (NF4 if bits == 4 else 1)), dtype=torch.uint8, device=CUDA)
        self.weight = nn.Parameter(held, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        result = self.product.apply(input.to(torch.bfloat16), (self.out_features, self.in_features))
        return result.clone() if self.product is _Product4 else result  # peft does so before it adds the adapter's


def replace(network: nn.Module, bits: int) -> None:
    for module in list(getattr(network, network.base_model_prefix).modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Quantised(child, bits))


def build(recipe: Any, backend: str) -> Any:
    fields = dict(ARCHITECTURES[recipe.model.base])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, num_labels=3, pad_token_id=0)
    attention = Attention(backend, "simulated")
    dtype = torch.float32 if recipe.model.method == "full" else torch.bfloat16
    with CUDA:
        network = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention.implementation, dtype=dtype
        )
        attach_head(network, recipe.model, recipe.data.features)
        if recipe.model.method == "qlora":
            replace(network, recipe.model.bits)
        for head in heads_of(network).values():
            for module in head.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
        if backend == "packed-deberta":
            deberta.pack_attention(network)
        if recipe.model.method != "full":
            network = adapted(network, recipe)
    if recipe.train.gradient_checkpointing:
        recompute_activations(network, recipe.model)
    return _wrap(network, attention, recipe.model, torch.bfloat16).train()


def adapted(network: Any, recipe: Any) -> Any:
    """With adapters; peft moves and copies modules, which fake tensors do not bear."""
    nn.Module.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment]
    network = add_adapters(network, recipe.model)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            there = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
            setattr(module, name, nn.Parameter(there, requires_grad=parameter.requires_grad))
    return network


def lay_out_on_the_host() -> None:
    """Let what depends on the rows' lengths be worked out with real numbers, and copied to the fake GPU."""
    real = preference.Packing.of

    def fake(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.empty(value.shape, dtype=value.dtype, device=CUDA)
        if dataclasses.is_dataclass(value):
            parts = {field.name: fake(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **parts)
        return [fake(each) for each in value] if isinstance(value, list) else value

    def of(lengths: list[int], device: torch.device, pooled: Any = None) -> Any:
        with unset_fake_temporarily():
            made = real(lengths, torch.device("cpu"))
        return dataclasses.replace(fake(made), pooled_tokens=pooled)

    def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
        with unset_fake_temporarily():
            there = torch.from_numpy(values)
        return fake(there)

    slots = deberta.distance_slots

    def distance_slots(*sizes: int) -> np.ndarray:
        with unset_fake_temporarily():
            return slots(*sizes)

    deberta.distance_slots = distance_slots
    preference.Packing.of = of
    preference.to_device = deberta.to_device = heads.to_device = to_device


def prepare(recipe: Any, attention: str) -> tuple[Any, list[int]]:
    """The judge of a recipe, and the lengths of a micro-batch's rows."""
    kind = ARCHITECTURES[recipe.model.base]["model_type"]
    packed = "packed-deberta" if kind == "deberta-v2" else "packed-sdpa"
    length = recipe.data.max_tokens
    judge = build(recipe, "flash" if attention == "flash" else packed)
    return judge, [length] * (recipe.train.tokens_per_micro_batch // length)


def micro_batch(module: Any, lengths: list[int]) -> None:
    logits = module(torch.empty(sum(lengths), dtype=torch.long, device=CUDA), lengths)
    with fake_gpu.backward():
        logits.sum().backward()


def main(name: str, attention: str, *changes: str) -> None:
    recipe = load_recipe(name, ["train.precision=bf16", *changes])
    lay_out_on_the_host()
    live = fake_gpu.counted()
    with fake_gpu.fake(), live:
        judge, lengths = prepare(recipe, attention)
        trained = [parameter for parameter in judge.parameters() if parameter.requires_grad]
        states = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        held = live.live["cuda"]
        live.restart()
        micro_batch(judge, lengths)
    assert len(states) and live.peak["cpu"] < 2**30
    print(json.dumps({"held": held, "peak": live.peak["cuda"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
