"""Estimate the memory that a run needs on each of its GPUs, from recipe, base, engine and ranks."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from tiebreak.compatibility import FAMILIES, is_new_flash
from tiebreak.config import Recipe
from tiebreak.engines.choose import hands_out
from tiebreak.models.architectures import Sizes, count_weights, find_architecture, linear_weights, lora_weights
from tiebreak.preflight.activations import kept_per_token

GIB = 2**30
NF4 = 4.127 / 8
"""Bytes of a 4-bit weight with double quantisation: 4 bits, and a scale for each 64 (Dettmers et al. 2023)."""
ADAM = 8
"""Bytes of optimizer state of a trained weight: two fp32 moments."""
CONTEXT_GIB = {"cuda": 0.8, "cpu": 0.7}
"""The driver's context and the allocator's slack; on a CPU the process with its libraries."""
ERROR = 0.10
"""Share by which a peak may miss the estimate: what tests/simulated_gpu finds at most (docs/preflight.md)."""
FUSED = ("auto", "flash", "flex")
"""Values of `model.attention` with which attention may be one kernel."""
Parts = tuple[float, float, float]
"""Bytes of weights, gradients and optimizer states."""


@dataclass(frozen=True)
class Estimate:
    """Bytes of one rank: on its device, but for `host`, what offloading moves to the host's memory.

    Attributes:
        weights, gradients, states: this rank's part of them; `states` are the optimizer's, with its copy of weights.
        buffers: what the engine gathers or casts for a while.
        activations: of one micro-batch.
        stepping: what is made when there are no activations: by the optimizer, or by FSDP2 of the embeddings.
        arriving: gradients of `gradients` that come only as activations go.
        loading: the most before the first step, on the device.
        reading: on the host of rank 0, which reads the weights for all ranks; 0 where each reads them.
        trained: bytes of the trained weights in fp32, whole: the gradients that travel.
        flash: whether flash-attn is counted upon.
    """

    weights: float
    gradients: float
    states: float
    buffers: float
    activations: float
    stepping: float
    arriving: float
    loading: float
    reading: float
    host: float
    trained: float
    flash: bool
    device: str

    @property
    def kept(self) -> float:
        """Weights, gradients and optimizer states."""
        return self.weights + self.gradients + self.states

    @property
    def running(self) -> float:
        """All of a step."""
        return self.kept + max(self.buffers + self.activations - self.arriving, self.stepping)

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
    flash: bool | None = None,
) -> Estimate | None:
    """Estimate the memory of one rank; None for a base whose size is not known.

    Weights: 4 or 8 bits for the layers' matrices under `qlora`, the precision's type elsewhere (bf16 on a GPU, fp32
    on a CPU); fp32 and the bf16 copies that autocast keeps under `full`. Trained weights: fp32 gradients and Adam's
    moments, and adapters in fp32. What ZeRO and FSDP2 cut is in `_cut`, activations in preflight/activations.py.

    Args:
        recipe: of the training.
        engine: as in engines.choose.
        world: number of ranks.
        device: cuda or cpu.
        architecture: in place of what is known of `model.base` (tiebreak.models.architectures).
        ds: DeepSpeed's configuration.
        flash: whether flash-attn or FlexAttention runs, which keep as much; by default, whether flash-attn is here.
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
    moments = {"adamw-8bit": 2, "paged-adamw-8bit": 2}.get(recipe.train.optimizer, ADAM) * trained
    held = weights, 4.0 * trained, float(moments)
    # A step's rows may take several micro-batches, whose gradients FSDP2 sums before it cuts them.
    several = recipe.train.batch_size * recipe.data.max_tokens > world * recipe.train.tokens_per_micro_batch
    zero = (ds or {}).get("zero_optimization", {})
    cut, buffers = _cut(held, engine, world, recipe, several, zero)
    layer = weights * sizes.linear / sizes.total / architecture["num_hidden_layers"]
    embedding = weights * sizes.embeddings / sizes.total if method == "full" else half * sizes.embeddings
    # A decoder's FSDP2 gathers in bf16; else autocast's copies are kept until the backward pass has used them.
    casts = method == "full" and half == 2 and not (engine == "fsdp" and FAMILIES[architecture["model_type"]].decoder)
    gathered, alone = _gathered_by_zero(ds or {}, weights) if engine == "zero3" else 0.0, 0.0
    if engine == "fsdp":
        gathered, alone = _gathered_by_fsdp(recipe, half == 2 and not casts, weights, layer, embedding)
    uses_flash = _uses_flash(recipe, architecture, half, device, flash)
    autocast = 2.0 * sizes.linear * casts
    activations, lowest = _activations(recipe, architecture, half, device, uses_flash, autocast)
    on_device, host = _offloaded(cut, engine, recipe, zero)
    handed_out = hands_out(engine, recipe)
    # The embedding is handed out first, and whole beside nothing; the last layer beside all parts.
    parts = 0.0 if host and on_device[0] == 0 else weights / world
    loading = max(embedding, parts + layer) if handed_out else weights
    return Estimate(
        *on_device,
        buffers=buffers + gathered + _matrix(recipe, architecture, half, casts),
        activations=activations,
        stepping=max(alone, 0.0 if recipe.train.optimizer != "adamw" or on_device[2] == 0 else on_device[2] / 2),
        arriving=min(on_device[1], activations - lowest) if engine == "fsdp" and not several else 0.0,
        loading=loading if device == "cuda" else weights,
        reading=weights if handed_out else 0.0,
        host=host,
        trained=4.0 * trained,
        flash=uses_flash,
        device=device,
    )


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


def _gathered_by_fsdp(
    recipe: Recipe, cast: bool, weights: float, layer: float, embedding: float
) -> tuple[float, float]:
    """Bytes that FSDP2 makes beside activations, and those that it makes for the embeddings when there are none.

    A layer's weights are whole, and the next layer's on their way; the gradients of the layer before travel in fp32.
    The embeddings' come last, in the weights' type and in fp32; while they are looked up, they are whole twice.

    Args:
        recipe: of the training.
        cast: whether trained weights travel in bf16.
        weights: bytes of all.
        layer: of a layer's.
        embedding: of the embeddings'.
    """
    trained = recipe.model.method == "full"
    share = 0.5 if cast and trained else 1.0
    sent = layer if trained else 0.0
    whole = 2 * share * layer if recipe.fsdp.reshard_after_forward else share * weights
    return whole + sent, (share + 1) * embedding


def _matrix(recipe: Recipe, architecture: dict[str, Any], half: int, casts: bool) -> float:
    """Bytes made of the largest matrix: the quantised one whole while it is used, or a trained one's gradient.

    The gradient comes in the product's type, and where autocast has cast the weight in the weight's type too.
    """
    largest = max(inputs * outputs for inputs, outputs in linear_weights(architecture))
    if recipe.model.method == "lora" or (recipe.model.method == "full" and half == 4):
        return 0.0
    return float(largest * (half + 4 if casts else half))


def _gathered_by_zero(ds: dict[str, Any], weights: float) -> float:
    """Bytes of weights that ZeRO-3 holds whole for a while."""
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


def _activations(
    recipe: Recipe, architecture: dict[str, Any], half: int, device: str, flash: bool, casts: float
) -> tuple[float, float]:
    """Bytes of a micro-batch, with the `casts` of trained weights, which live as long; those of the lowest layer."""
    layers, tokens = int(architecture["num_hidden_layers"]), recipe.train.tokens_per_micro_batch
    kept = kept_per_token(recipe, architecture, half, device, flash)
    fixed = 0.0
    if architecture["model_type"] == "deberta-v2":
        # Each layer drops out, casts and projects the table of positions; the slots are of 8 bytes.
        table = 2 * architecture["position_buckets"] * int(architecture["hidden_size"])
        fixed = layers * table * (1 + 4 * half) + 8.0 * recipe.data.max_tokens**2
    lowest = tokens * (kept.inputs + kept.layer + kept.backward)
    if recipe.train.gradient_checkpointing:
        # Autocast's copies go with the forward pass, as the backward pass makes those of a layer again.
        again = tokens * (kept.layer + kept.backward) + (casts + fixed) / layers
        return tokens * (kept.inputs * layers + kept.outside) + max(again, casts), lowest
    return tokens * (kept.layer * (layers - 1) + kept.last + kept.backward + kept.outside) + casts + fixed, lowest


def _uses_flash(recipe: Recipe, architecture: dict[str, Any], half: int, device: str, installed: bool | None) -> bool:
    """The rule of tiebreak.attention.backends, without a GPU to ask."""
    family = FAMILIES[architecture["model_type"]]
    if device != "cuda" or half != 2 or not family.flash or recipe.model.attention not in FUSED:
        return False
    if architecture["model_type"] == "gemma2" and recipe.model.dropout:
        return False
    return recipe.model.attention != "auto" or (flash_is_here() if installed is None else installed)


def flash_is_here() -> bool:
    """Whether flash-attn 2 is installed in a version that is used, or `kernels`, which fetches a build of it."""
    if find_spec("kernels") is not None:
        return True
    try:
        return is_new_flash(version("flash-attn"))
    except (PackageNotFoundError, ValueError):
        return False
