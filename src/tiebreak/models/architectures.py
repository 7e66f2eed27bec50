"""Sizes of the bases that recipes name, from their published configurations, without a hub or a download."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiebreak.compatibility import FAMILIES
from tiebreak.models.guard import check_config
from tiebreak.pretrained.base_files import CONFIG, read_config
from tiebreak.pretrained.from_onnx import DEBERTA_V3

DECODER: tuple[str, ...]
DECODER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
DECODER += ("intermediate_size", "vocab_size")
ENCODER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
GEMMA2: dict[str, Any] = {"sliding_window": 4096, "max_position_embeddings": 8192}
DEBERTA = DEBERTA_V3 | {"vocab_size": 128_100, "position_buckets": 256}


def _of(names: tuple[str, ...], model_type: str, *sizes: int, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, **dict(zip(names, sizes, strict=True)), **more}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "google/gemma-2-2b-it": _of(DECODER, "gemma2", 2304, 26, 8, 4, 256, 9216, 256_000, **GEMMA2),
    "google/gemma-2-9b-it": _of(DECODER, "gemma2", 3584, 42, 16, 8, 256, 14_336, 256_000, **GEMMA2),
    "google/gemma-2-27b-it": _of(DECODER, "gemma2", 4608, 46, 32, 16, 128, 36_864, 256_000, **GEMMA2),
    "meta-llama/Llama-2-7b-hf": _of(DECODER, "llama", 4096, 32, 32, 32, 128, 11_008, 32_000),
    "meta-llama/Llama-2-13b-hf": _of(DECODER, "llama", 5120, 40, 40, 40, 128, 13_824, 32_000),
    "meta-llama/Llama-2-70b-hf": _of(DECODER, "llama", 8192, 80, 64, 8, 128, 28_672, 32_000),
    "meta-llama/Meta-Llama-3-8B-Instruct": _of(DECODER, "llama", 4096, 32, 32, 8, 128, 14_336, 128_256),
    "Qwen/Qwen2.5-7B-Instruct": _of(DECODER, "qwen2", 3584, 28, 28, 4, 128, 18_944, 152_064),
    "Qwen/Qwen3-4B": _of(DECODER, "qwen3", 2560, 36, 32, 8, 128, 9728, 151_936),
    "Qwen/Qwen3-8B": _of(DECODER, "qwen3", 4096, 36, 32, 8, 128, 12_288, 151_936),
    "answerdotai/ModernBERT-base": _of(ENCODER, "modernbert", 768, 22, 12, 1152, vocab_size=50_368),
    "answerdotai/ModernBERT-large": _of(ENCODER, "modernbert", 1024, 28, 16, 2624, vocab_size=50_368),
    "microsoft/deberta-v3-xsmall": _of(ENCODER, "deberta-v2", 384, 12, 6, 1536, **DEBERTA),
    "microsoft/deberta-v3-small": _of(ENCODER, "deberta-v2", 768, 6, 12, 3072, **DEBERTA),
    "microsoft/deberta-v3-base": _of(ENCODER, "deberta-v2", 768, 12, 12, 3072, **DEBERTA),
    "microsoft/deberta-v3-large": _of(ENCODER, "deberta-v2", 1024, 24, 16, 4096, **DEBERTA),
}
"""By hub name, the fields of each configuration that decide its size."""


COUNTED = (
    *("gemma", "gemma2", "gemma3_text", "llama", "mistral", "ministral", "qwen2", "qwen3", "phi3", "olmo2", "olmo3"),
    *("smollm3", "bert", "modernbert", "deberta-v2"),
)
"""Model types whose weights are counted from their configuration; of others there is no estimate."""


@dataclass(frozen=True)
class Sizes:
    """Weights of a judge: `linear` in its layers' matrices, `embeddings`, `vectors` (norms, biases), and its `head`."""

    linear: int
    embeddings: int
    vectors: int
    head: int

    @property
    def base(self) -> int:
        """Weights without the head."""
        return self.linear + self.embeddings + self.vectors

    @property
    def total(self) -> int:
        """All weights."""
        return self.base + self.head


def find_architecture(base: str) -> dict[str, Any] | None:
    """The fields of a published base or of a local model folder; None for one that is not supported.

    Raises:
        UserError: a config.json that cannot be read.
    """
    if not (Path(base) / CONFIG).is_file():
        return ARCHITECTURES.get(base)
    fields = read_config(Path(base))
    check_config(Path(base) / CONFIG, fields)
    return complete(fields) if fields.get("model_type") in COUNTED else None


def complete(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, and those that some families leave to their defaults."""
    heads = fields["num_attention_heads"]
    kept = {"num_key_value_heads": heads, "head_dim": fields["hidden_size"] // heads, "type_vocab_size": 0}
    return kept | {name: value for name, value in fields.items() if value is not None}


def count_weights(architecture: dict[str, Any]) -> Sizes:
    """Count the weights of transformers' classifier of this configuration, with a linear head."""
    kind, width, inner = (architecture[name] for name in ("model_type", "hidden_size", "intermediate_size"))
    layers, looked_up = architecture["num_hidden_layers"], architecture["vocab_size"]
    if kind == "modernbert":
        # Norms alone, of which the first layer lacks one; beside the backbone's own head a dense layer and its norm.
        each, outside, head = 2 * width, width, width * width + 4 * width + 3
    elif not FAMILIES[kind].decoder:
        each = 9 * width + inner  # six biases, two norms
        outside, head = 2 * width, width * width + 4 * width + 3  # the pooler is part of the head
        if FAMILIES[kind].absolute or architecture.get("position_biased_input", True):
            looked_up += architecture["max_position_embeddings"]
        looked_up += architecture.get("type_vocab_size", 0)
        if architecture.get("relative_attention"):
            looked_up += 2 * architecture["position_buckets"]
            outside += 2 * width * ("layer_norm" in architecture.get("norm_rel_ebd", "none"))
    else:
        queries, keys = (
            architecture[name] * architecture["head_dim"] for name in ("num_attention_heads", "num_key_value_heads")
        )
        each = {"gemma2": 4, "gemma3_text": 4}.get(kind, 2) * width
        norms = dict.fromkeys(("gemma3_text", "qwen3"), 2 * architecture["head_dim"])  # of queries and keys
        norms |= dict.fromkeys(("olmo2", "olmo3"), queries + keys)
        each += norms.get(kind, queries + 2 * keys if kind == "qwen2" else 0)
        outside, head = width, 3 * width
    linear = sum(inputs * outputs for inputs, outputs in linear_weights(architecture))
    return Sizes(linear, looked_up * width, each * layers + outside, head)


def linear_weights(architecture: dict[str, Any]) -> list[tuple[int, int]]:
    """(inputs, outputs) of every linear layer of the backbone, biases left out."""
    width, inner = architecture["hidden_size"], architecture["intermediate_size"]
    if architecture["model_type"] == "modernbert":
        layer = [(width, 3 * width), (width, width), (width, 2 * inner), (inner, width)]
    elif not FAMILIES[architecture["model_type"]].decoder:
        layer = [(width, width)] * 4 + [(width, inner), (inner, width)]
    else:
        queries = architecture["num_attention_heads"] * architecture["head_dim"]
        keys = architecture["num_key_value_heads"] * architecture["head_dim"]
        layer = [(width, queries), (width, keys), (width, keys), (queries, width)]
        layer += [(width, inner), (width, inner), (inner, width)]
        if architecture["model_type"] == "phi3":  # one matrix for what has one input
            layer = [(width, queries + 2 * keys), (queries, width), (width, 2 * inner), (inner, width)]
    count: int = architecture["num_hidden_layers"]
    return layer * count


def lora_weights(architecture: dict[str, Any], rank: int) -> int:
    """Count the weights of adapters of this rank on every linear layer."""
    return sum(rank * (inputs + outputs) for inputs, outputs in linear_weights(architecture))
