"""What a run needs of a GPU's memory, from its recipe and the published size of its base."""

from dataclasses import dataclass

from tiebreak.cluster.architectures import ARCHITECTURES, linear_weights, lora_weights
from tiebreak.config import Recipe

GIB = 2**30
NF4 = 4.127 / 8
"""Bytes of a 4-bit weight with double quantisation: 4 bits, and a scale for each 64 (Dettmers et al. 2023)."""
ADAM = 8
"""Bytes of optimizer state of a trained weight: two fp32 moments."""
CONTEXT_GIB = 0.8
"""The driver's context and the allocator's slack."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on one GPU. Activations are those of one micro-batch."""

    weights: float
    trained: float
    activations: float

    @property
    def gib(self) -> float:
        return (self.weights + self.trained + self.activations) / GIB + CONTEXT_GIB


def estimate(recipe: Recipe, shards: int = 1, sharded_weights: bool = False) -> Estimate | None:
    """The memory of one rank on a GPU with bf16; None for a base whose size is not known.

    Weights: 4 or 8 bits for the linear layers under `qlora`, bf16 elsewhere; fp32 and the bf16 copies that
    autocast keeps under `full`. Trained weights: fp32 gradients and Adam's moments, and adapters in fp32.
    Activations in bf16, a token and layer: about 10 vectors of the hidden width and 4.87 of the inner one are kept
    for the backward pass, which gives the 8.46 MiB a token measured for Gemma-2-9B; under activation
    checkpointing one vector, and one layer's whole at a time. DeBERTa's attention keeps three numbers for each
    head, token and place of a row besides.

    Args:
        shards: ranks that ZeRO or FSDP2 cuts optimizer states and gradients over.
        sharded_weights: whether they cut the weights too (ZeRO-3, FSDP2).
    """
    architecture = ARCHITECTURES.get(recipe.model.base)
    if architecture is None:
        return None
    linear = sum(inputs * outputs for inputs, outputs in linear_weights(architecture))
    embeddings = architecture["vocab_size"] * architecture["hidden_size"]
    method = recipe.model.method
    if method == "full":
        # Autocast's copies stay until the forward pass ends.
        weights, trained = 4 * (linear + embeddings) + 2 * linear, linear + embeddings
    else:
        each = 2 if method == "lora" else NF4 if recipe.model.bits == 4 else 1
        weights, trained = each * linear + 2 * embeddings, lora_weights(architecture, recipe.model.lora.r)
    states = (4 + {"adamw-8bit": 2, "paged-adamw-8bit": 2}.get(recipe.train.optimizer, ADAM)) * trained
    if method != "full":
        states += 4 * trained
    layers, width = architecture["num_hidden_layers"], architecture["hidden_size"]
    kept = 2 * (10 * width + 4.87 * architecture["intermediate_size"])
    if architecture["model_type"] == "deberta-v2":
        kept += 6 * architecture["num_attention_heads"] * recipe.data.max_tokens
    per_token = 4 * width * layers + kept if recipe.train.gradient_checkpointing else kept * layers
    tokens = recipe.train.tokens_per_micro_batch
    return Estimate(weights / (shards if sharded_weights else 1), states / shards, per_token * tokens)
