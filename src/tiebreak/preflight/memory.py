"""Estimate the memory that a run needs on each of its GPUs, from recipe, base, engine and ranks."""

from dataclasses import dataclass
from typing import Any

from tiebreak.compatibility import FAMILIES
from tiebreak.config import Recipe
from tiebreak.models.architectures import Sizes, count_weights, find_architecture, lora_weights

GIB = 2**30
NF4 = 4.127 / 8
"""Bytes of a 4-bit weight with double quantisation: 4 bits, and a scale for each 64 (Dettmers et al. 2023)."""
ADAM = 8
"""Bytes of optimizer state of a trained weight: two fp32 moments."""
CONTEXT_GIB = {"cuda": 0.8, "cpu": 0.7}
"""The driver's context and the allocator's slack; on a CPU the process with its libraries."""
LAST = 0.45
"""Share of its activations kept by a last layer that goes on with the pooled tokens alone; measured .28 to .63."""
ERROR = 0.15
"""Share by which a peak may miss the estimate: the activations are a fit to one model (see `estimate`), the rest is
counted and tested to 5 % against the tensors that are there (docs/preflight.md)."""
PLAIN_SCORES = ("packed-sdpa", "rows", "eager")
"""Settings of model.attention under which soft-capped scores are formed on a GPU too."""
Parts = tuple[float, float, float]
"""Bytes of weights, gradients and optimizer states."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of one rank: on its device, but for `host`, what offloading moves to the host's memory.

    Attributes:
        weights, gradients, states: this rank's part of them; `states` are the optimizer's, with its copy of weights.
        buffers: what the engine gathers or casts for a while.
        activations: of one micro-batch.
        loading: what is there before the engine cuts anything: every rank loads the whole model.
        trained: bytes of the trained weights in fp32, whole: the gradients that travel.
    """

    weights: float
    gradients: float
    states: float
    buffers: float
    activations: float
    loading: float
    host: float
    trained: float
    device: str

    @property
    def kept(self) -> float:
        """Weights, gradients and optimizer states."""
        return self.weights + self.gradients + self.states

    @property
    def running(self) -> float:
        """All of a step."""
        return self.kept + self.buffers + self.activations

    @property
    def gib(self) -> float:
        """The peak in GiB, in a step or before the first."""
        return max(self.running, self.loading) / GIB + CONTEXT_GIB[self.device]


def estimate(
    recipe: Recipe,
    engine: str = "single",
    world: int = 1,
    device: str = "cuda",
    architecture: dict[str, Any] | None = None,
    ds: dict[str, Any] | None = None,
) -> Estimate | None:
    """Estimate the memory of one rank; None for a base whose size is not known.

    Weights: 4 or 8 bits for the layers' matrices under `qlora`, the precision's type elsewhere (bf16 on a GPU, fp32
    on a CPU); fp32 and the bf16 copies that autocast keeps under `full`. Trained weights: fp32 gradients and Adam's
    moments, and adapters in fp32. What ZeRO and FSDP2 cut is in `_cut`. Activations, a token and layer: about 10
    vectors of the hidden width and 4.87 of the inner one are kept for the backward pass, which gives the 8.46 MiB a
    token measured for Gemma-2-9B in bf16; under activation checkpointing one vector, and one layer's whole at a time.
    Of the last layer, which gives the pooled tokens alone, `LAST` is kept.
    Attention that forms the scores keeps some of them besides (`_scores_kept`).

    Args:
        recipe: of the training.
        engine: as in engines.choose.
        world: number of ranks.
        device: cuda or cpu.
        architecture: in place of what is known of `model.base` (tiebreak.models.architectures).
        ds: DeepSpeed's configuration.
    """
    architecture = architecture or find_architecture(recipe.model.base)
    if architecture is None:
        return None
    if recipe.model.layers is not None:
        architecture = architecture | {"num_hidden_layers": len(recipe.model.layers)}
    sizes = count_weights(architecture)
    precision = recipe.train.precision
    half = 2 if precision == "bf16" or (precision == "auto" and device == "cuda") else 4
    trained = trained_weights(recipe, sizes, architecture)
    method = recipe.model.method
    if method == "full":
        weights = 4.0 * sizes.total
    else:
        each = half if method == "lora" else NF4 if recipe.model.bits == 4 else 1
        # peft keeps the head's start beside the head that is trained.
        weights = each * sizes.linear + half * (sizes.base - sizes.linear) + 4.0 * (sizes.head + trained)
    copies = 2.0 * sizes.linear if method == "full" and half == 2 else 0.0  # until the forward pass ends
    moments = {"adamw-8bit": 2, "paged-adamw-8bit": 2}.get(recipe.train.optimizer, ADAM) * trained
    held = weights, 4.0 * trained, float(moments)
    # A step's rows may take several micro-batches, whose gradients FSDP2 sums before it cuts them.
    several = recipe.train.batch_size * recipe.data.max_tokens > world * recipe.train.tokens_per_micro_batch
    cut, buffers = _cut(held, engine, world, recipe, several, (ds or {}).get("zero_optimization", {}))
    if engine in ("zero3", "fsdp"):
        layer = weights * sizes.linear / sizes.total / architecture["num_hidden_layers"]
        embedding = weights * sizes.embeddings / sizes.total if method == "full" else half * sizes.embeddings
        buffers += _gathered(engine, recipe, ds or {}, weights, embedding + 2 * layer)
    if engine != "fsdp" or not FAMILIES[architecture["model_type"]].decoder:
        buffers += copies  # a decoder's FSDP2 gathers in bf16
    on_device, host = _offloaded(cut, engine, recipe, (ds or {}).get("zero_optimization", {}))
    tokens = recipe.train.tokens_per_micro_batch
    activations = tokens * _kept_per_token(recipe, architecture, half, device)
    return Estimate(*on_device, buffers, activations, weights, host, 4.0 * trained, device)


def trained_weights(recipe: Recipe, sizes: Sizes, architecture: dict[str, Any]) -> int:
    """Count the weights that the optimizer changes."""
    if recipe.model.method != "full":
        return lora_weights(architecture, recipe.model.lora.r) + sizes.head
    freeze = recipe.model.freeze
    if freeze == "none":
        return sizes.total
    if freeze == "backbone":
        return sizes.head
    lowest = 0 if freeze == "embeddings" else min(1.0, freeze / architecture["num_hidden_layers"])
    return sizes.head + round((sizes.linear + sizes.vectors) * (1 - lowest))


def _cut(
    held: Parts, engine: str, world: int, recipe: Recipe, several: bool, zero: dict[str, Any]
) -> tuple[Parts, float]:
    """A rank's part of weights, gradients and states, and the engine's own buffers, all in bytes.

    ZeRO keeps the part of the weights that a rank updates a second time, as the optimizer's own; ZeRO-1 and ZeRO-2
    keep the gradients of all of a step's weights until they are reduced, ZeRO-1 whole, ZeRO-2 bucket by bucket
    (Rajbhandari et al. 2020, arXiv 1910.02054, for what each stage cuts).
    """
    weights, gradients, states = held
    if engine in ("single", "ddp") or (world == 1 and engine == "fsdp"):
        return held, 0.0
    part = gradients / world  # also the bytes of the fp32 copy of a rank's share of the trained weights
    if engine == "fsdp":
        return (weights / world, gradients if several else part, states / world), 0.0
    if engine == "zero3":
        return (weights / world, part, part + states / world), _bucket(zero)
    reduced = gradients if engine == "zero1" else part
    return (weights, reduced, part + states / world), (1 + bool(zero.get("overlap_comm"))) * _bucket(zero)


def _bucket(zero: dict[str, Any]) -> float:
    """Bytes of DeepSpeed's buffer for gradients on their way; its default has 5e8 elements."""
    return 4.0 * int(zero.get("reduce_bucket_size", 500_000_000))


def _gathered(engine: str, recipe: Recipe, ds: dict[str, Any], weights: float, two_layers: float) -> float:
    """Bytes of weights that are whole for a while."""
    if engine == "fsdp":
        return two_layers if recipe.fsdp.reshard_after_forward else weights
    live = int(ds.get("zero_optimization", {}).get("stage3_max_live_parameters", 1_000_000_000))
    return min(4.0 * live, weights)


def _offloaded(cut: Parts, engine: str, recipe: Recipe, zero: dict[str, Any]) -> tuple[Parts, float]:
    """What stays on the device, and the bytes that move to the host."""
    weights, gradients, states = cut
    if engine == "fsdp" and recipe.fsdp.cpu_offload:
        return (0.0, 0.0, 0.0), weights + gradients + states
    host = 0.0
    if (zero.get("offload_optimizer") or {}).get("device", "none") != "none":
        host, gradients, states = gradients + states, 0.0, 0.0
    if (zero.get("offload_param") or {}).get("device", "none") != "none":
        host, weights = host + weights, 0.0
    return (weights, gradients, states), host


def _kept_per_token(recipe: Recipe, architecture: dict[str, Any], half: int, device: str) -> float:
    """Bytes of activations of a token, all layers together."""
    layers, width = int(architecture["num_hidden_layers"]), int(architecture["hidden_size"])
    kept = half * (10 * width + 4.87 * int(architecture["intermediate_size"]))
    scores = int(architecture["num_attention_heads"]) * recipe.data.max_tokens
    kept += scores * _scores_kept(recipe, architecture, half, device)
    if recipe.train.gradient_checkpointing:
        return 2 * half * width * layers + kept
    packed = recipe.model.attention not in ("eager", "sdpa")
    return kept * (layers - 1 + LAST if packed and recipe.model.pooling != "mean" else layers)


def _scores_kept(recipe: Recipe, architecture: dict[str, Any], half: int, device: str) -> float:
    """Bytes kept for the backward pass of each head's score of two tokens.

    DeBERTa's packed attention (models/deberta.py) keeps 1.3 numbers, 3 with dropout (measured at 256 and 512 tokens).
    Soft-capped attention without flash-attn (models/packed_sdpa.py) keeps tanh's output, softmax's in fp32 and a mask.
    """
    if architecture["model_type"] == "deberta-v2":
        dropout = recipe.model.dropout
        dropout = architecture.get("attention_probs_dropout_prob", 0.1) if dropout is None else dropout
        return (3 if dropout else 1.3) * half
    if architecture["model_type"] == "gemma2" and (device == "cpu" or recipe.model.attention in PLAIN_SCORES):
        return 9
    return 0
