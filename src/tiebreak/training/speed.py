"""Count the arithmetic of a step, and look up the GPU's peak that it is compared with."""

import torch
from torch import nn

from tiebreak.models.last_layer import beyond_attention
from tiebreak.models.preference import PreferenceModel

PEAKS = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12}
PEAKS |= {"H100 PCIe": 756e12, "H100 NVL": 835e12, "L40": 181e12, "L4": 121e12, "A10": 125e12, "A10G": 70e12}
PEAKS |= {"RTX A6000": 155e12, "RTX 5090": 210e12, "RTX 4090": 165e12, "RTX 3090": 71e12}
"""Dense bf16 multiply-add peaks in FLOP/s, from the vendors' data sheets; SXM where the name says no other form."""


class StepFlops:
    """Floating-point operations of a training step, after Kaplan et al. 2020 (arXiv 2001.08361, section 2.1).

    A token costs 2 per weight of every matrix it meets going forward, and the same again for the gradient of
    the activations; the gradient of a trained weight costs 2 more. Attention costs 4 x length x width per layer
    and token going forward (half of it where it is causal) and twice that going back. Activation checkpointing
    repeats the forward pass. Embeddings are look-ups, and the head sees one token of a row: neither is counted. What
    follows the last layer's attention costs as much a text as a token elsewhere, where it sees the pooled ones alone.
    """

    def __init__(self, model: PreferenceModel, checkpointing: bool) -> None:
        config = model.classifier.config
        linear = [module for module in model.backbone.modules() if isinstance(module, nn.Linear)]
        heads, layers = int(config.num_attention_heads), model.layers
        width = heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        causal = model.is_decoder
        passes = 3 if checkpointing else 2

        def cost(modules: list[nn.Linear]) -> float:
            sizes = [(m.in_features * m.out_features, m.weight.requires_grad) for m in modules]
            return sum(2.0 * size * (passes + trained) for size, trained in sizes)

        self.forward_per_token = 2.0 * sum(m.in_features * m.out_features for m in linear)
        self.per_text = cost(beyond_attention(layers[-1])) if model.early else 0.0
        self.per_token = cost(linear) - self.per_text
        self.per_squared_length = (passes + 1) * (2.0 if causal else 4.0) * width * len(layers)

    def of(self, lengths: list[int]) -> float:
        """Count the operations of a step on rows of these lengths in tokens."""
        counted = self.per_token * sum(lengths) + self.per_text * len(lengths)
        return counted + self.per_squared_length * sum(n * n for n in lengths)


def peak_flops(device: torch.device) -> float | None:
    """Look up the GPU's dense bf16 peak in FLOP/s; None on a CPU and on GPUs that are not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [card for card in PEAKS if card in name]
    return PEAKS[max(known, key=len)] if known else None


def padded_tokens(attention_packed: bool, lengths: list[int]) -> int:
    """Count the token places that a batch's forward pass computes: a padded batch is as long as its longest row."""
    return sum(lengths) if attention_packed else len(lengths) * max(lengths)
