"""Activations of a micro-batch: which tensors each layer keeps for its backward pass, counted per token.

b stands for the bytes of a product's type (2 in bf16, 4 in fp32). tests/simulated_gpu holds the counts against a step
at full size.
"""

from dataclasses import dataclass
from typing import Any

from tiebreak.compatibility import FAMILIES
from tiebreak.config import Recipe

BY_HAND_BACKWARD = 6
"""Bytes of a score that its backward pass makes beside what is kept: its gradient in bf16 and in fp32."""
TILED, TILED_DISTANCES = 96, 64
"""Tokens of a row from which tiles hold the scores on a CPU (attention/packed_sdpa.py, attention/deberta.py)."""
TILES_KEPT, TILE = 1_024, 128
"""Tokens of a row up to which tiles are kept for the backward pass, and a causal one's queries (attention/tiled.py)."""
CPU_BIAS = {True: 3.0, False: 1.0}
"""Numbers that torch's attention with a trained bias keeps of each score on a CPU: the softmax's output; under dropout
its mask too, and what that leaves."""


@dataclass(frozen=True)
class Kept:
    """Bytes a token.

    Attributes:
        layer: of a whole layer, for its backward pass.
        last: of the last layer, which goes on with the pooled tokens alone where it can.
        inputs: of a layer's input, all that is kept of it under activation checkpointing.
        backward: made by a layer's backward pass for a while.
        outside: of the norms of an encoder's embeddings and of its end.
    """

    layer: float
    last: float
    inputs: float
    backward: float
    outside: float


def kept_per_token(
    recipe: Recipe, architecture: dict[str, Any], precision_bytes: int, device: str, flash: bool
) -> Kept:
    """Count what a layer keeps.

    Args:
        recipe: of the training.
        architecture: fields of the base's configuration.
        precision_bytes: of a product's type.
        device: cuda or cpu.
        flash: whether flash-attn runs.
    """
    decoder = FAMILIES[architecture["model_type"]].decoder
    before, attention, scores, after = (_decoder if decoder else _encoder)(
        recipe, architecture, precision_bytes, device, flash
    )
    stream = 4 if recipe.model.method == "full" else precision_bytes
    inner = int(architecture["intermediate_size"])
    # The feed-forward's gradients: of its product and of both factors, when the product itself is dropped. Scores by
    # hand have theirs when what follows the attention is dropped.
    backward: float = 2 * precision_bytes * inner + 2 * stream * int(architecture["hidden_size"])
    if scores and decoder:
        backward = max(backward, BY_HAND_BACKWARD * scores / 8 - after)
    width, layer = int(architecture["hidden_size"]), before + attention + scores + after
    # ModernBERT's last layer is whole (models/last_layer.py), and so is the norm behind it.
    whole = architecture["model_type"] == "modernbert" or recipe.model.pooling == "mean"
    last = layer if whole or recipe.model.attention in ("eager", "sdpa") else before + attention + scores
    outside = 0 if decoder else 4 * width * (2 if architecture["model_type"] == "modernbert" else 1)
    return Kept(layer, last, stream * width, backward, outside)


Parts = tuple[float, float, float, float]
"""Bytes a token: before the attention, of it, of its scores, and of what follows it."""


def _decoder(recipe: Recipe, architecture: dict[str, Any], b: int, device: str, flash: bool) -> Parts:
    """A pre-norm layer: norms in fp32, attention, a gated feed-forward."""
    kind, width, inner = (architecture[name] for name in ("model_type", "hidden_size", "intermediate_size"))
    heads, size = architecture["num_attention_heads"], architecture["head_dim"]
    queries, keys = heads * size, architecture["num_key_value_heads"] * size
    full = recipe.model.method == "full"
    # A norm keeps its input in fp32, and for the gradient of its weight the normalised too.
    norm = 4 * width * (2 if full else 1)
    norms = 2 if kind in ("gemma2", "gemma3_text") else 1  # before each half of the layer; these two norm after it too
    # A trained matrix needs its input, an adapter too. Where that is fp32 under bf16, the residual stream of full
    # fine-tuning, each product casts its own copy.
    own = b == 2 and full
    into_attention, into_inner = (3 * b * width, 2 * b * width) if own else (b * width, b * width)
    extra = 0
    if recipe.model.lora.dropout and not full:  # a mask, and another copy for each adapter
        into_attention, into_inner = 3 * (b + 1) * width, 2 * (b + 1) * width
        extra = (b + 1) * (queries + inner)
    adapters = 0 if full else 7 * b * recipe.model.lora.r  # between the two matrices of each
    length, softcap = recipe.data.max_tokens, kind == "gemma2"
    scores = 0.0
    if flash:
        attention = b * (2 * queries + 2 * keys) + 4 * heads
    elif softcap:
        # Keys and values are repeated for each head. By hand tanh's output, the softmax in fp32, and its cast.
        attention = 4 * b * queries
        if device == "cpu" and length >= TILED:  # tiles of tanh and of the softmax, half of them empty
            attention += b * queries + (b * heads * (length + min(length, TILE)) if length <= TILES_KEPT else 0)
        else:
            scores = heads * length * (b + 4 + (b if b == 2 else 0))
    else:
        attention = b * (3 * queries + 2 * keys) + 4 * heads  # padded, and scattered back
    if kind == "qwen3":  # norms of queries and keys
        attention += 4 * (queries + keys) * (2 if full else 1)
    after = (2 * norms - 1) * norm + into_inner + 4 * b * inner + extra
    return norm + into_attention + adapters, attention, scores, after


def _encoder(recipe: Recipe, architecture: dict[str, Any], b: int, device: str, flash: bool) -> Parts:
    """BERT's layer, norms after each half, or ModernBERT's, norms before and a gated feed-forward; all is trained."""
    kind, width, inner = (architecture[name] for name in ("model_type", "hidden_size", "intermediate_size"))
    heads, length = architecture["num_attention_heads"], recipe.data.max_tokens
    copies = 3 if b == 2 and kind != "modernbert" else 1  # each product casts the fp32 stream, three its input
    into_attention = copies * b * width
    attention = 5 * b * width + 4 * heads  # queries, keys, values, what comes out, and that scattered back
    if kind == "modernbert":
        return 4 * width + into_attention, attention, 0.0, (4 + b) * width + 4 * b * inner
    dropout = recipe.model.dropout
    rate = architecture.get("attention_probs_dropout_prob", 0.1) if dropout is None else dropout
    scores = 0.0
    if kind == "deberta-v2" and device == "cpu" and length >= TILED_DISTANCES:
        scores = heads * length * b if length <= TILES_KEPT else 0.0
    elif kind == "deberta-v2":
        # The bias; on a GPU the kernel draws dropout again.
        scores = heads * length * b * (1.0 if device == "cuda" else CPU_BIAS[bool(rate)])
        # Both gathers keep the products with the table of positions, and these products a copy of queries and keys.
        attention += 2 * b * (heads * 2 * architecture["position_buckets"] + width)
    masks = 2 * width * (4 if device == "cpu" else 1) if rate else 0  # on a CPU of numbers
    after = 2 * 4 * width + masks + (b * width if b == 2 else 4 * width) + 2 * b * inner
    return into_attention, attention, scores, after
