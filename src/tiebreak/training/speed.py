"""Count the arithmetic of a step, and look up the GPU's peak that it is compared with."""

import re

import torch
from torch import nn

from tiebreak.models.last_layer import beyond_attention
from tiebreak.models.preference import PreferenceModel

PEAKS = {"B200": 2250e12, "GH200": 989e12, "H200": 989e12, "H200 NVL": 835e12, "H100": 989e12, "H100 PCIE": 756e12}
PEAKS |= {"H100 NVL": 835e12, "A100": 312e12, "A100 PCIE": 312e12, "A40": 150e12, "A30": 165e12, "A10": 125e12}
PEAKS |= {"A10G": 70e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX A6000": 155e12, "RTX 6000 ADA": 364e12}
PEAKS |= {"RTX 5090": 210e12, "RTX 4090": 165e12, "RTX 3090": 71e12}
PEAKS |= {"T4": 65e12, "V100": 125e12, "V100 PCIE": 112e12, "V100S PCIE": 130e12}
"""Dense peaks of half precision (bf16; fp16 of the last line's, which have no bf16) with sums in fp32, in FLOP/s, from
the vendors' data sheets, by the GPU's name without what `OF_NO_KIND` matches; SXM where the name says no other form."""
OF_NO_KIND = re.compile(r"\b(NVIDIA|Tesla|GeForce|Generation|SXM\d?|\d+GB?|HBM\d\w?)\b")


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
    """Look up the GPU's dense peak of half precision in FLOP/s; None on a CPU and on GPUs that are not in the table.

    A GPU is known by its whole name: laptops' and cut ones (MIG) have less than the card that their name begins with.
    """
    if device.type != "cuda":
        return None
    words = OF_NO_KIND.sub(" ", torch.cuda.get_device_name(device).replace("-", " ")).upper().split()
    return PEAKS.get(" ".join(words))


def padded_tokens(attention_packed: bool, lengths: list[int]) -> int:
    """Count the token places that a batch's forward pass computes: a padded batch is as long as its longest row."""
    return sum(lengths) if attention_packed else len(lengths) * max(lengths)
