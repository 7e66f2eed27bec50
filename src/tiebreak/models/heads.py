"""Pooling, and heads beyond transformers' own.

A linear head on the family's own pooling is transformers' classifier, and plain transformers loads it. Other heads
stand in its place, under the same name, and `tiebreak.models.loading.load_model` loads them.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tiebreak.cluster.transfer import to_device
from tiebreak.compatibility import find_family
from tiebreak.config import ModelSettings
from tiebreak.data.features import swap_signs
from tiebreak.evaluation.baselines import fit_logistic
from tiebreak.labels import CLASSES, NO_LABEL, SWAPPED_CLASS

HEADS = ("score", "classifier", "pooler")
"""The modules of a classifier that are trained whole under adapters and never quantised, and a family's own."""
_BESIDE_BACKBONE = re.compile(r"network\.(base_model\.model\.)?(head|dense)\.")
"""ModernBERT's and EuroBERT's layer before the head, with peft's names or without."""
MAX_SCALED = 5.0
"""Features are clipped to this many times their scale, so that an outlier cannot dominate the text's logits."""


def attach_head(classifier: Any, settings: ModelSettings, groups: Sequence[str] = ()) -> None:
    """Put the recipe's head in the place of transformers' own; a linear one without features stays as it is.

    Args:
        classifier: of transformers, changed in place.
        settings: the recipe's model.
        groups: the groups of features that it sees beside the text.
    """
    name = head_name(classifier)
    head: nn.Module = classifier.get_submodule(name)
    width, dropout = head.in_features, settings.head_dropout
    if settings.head == "mlp":
        head = mlp(width, settings.head_hidden or width, dropout)  # type: ignore[arg-type]
    elif settings.head == "siamese":
        head = SiameseHead(width, settings.head_hidden or width, dropout)  # type: ignore[arg-type]
    if groups:
        head = FeatureHead(head, torch.from_numpy(swap_signs(groups)))
    classifier.set_submodule(name, head)


def mlp(width: int, hidden: int, dropout: float, out: int = len(CLASSES)) -> nn.Sequential:
    """(n, width) -> (n, out): dropout, linear, GELU, dropout, linear."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, out)
    )


class SiameseHead(nn.Module):
    """Compares the vectors of two sides: (n, 2, width) -> (n, 3) logits of A, B, tie.

    With d the difference of the sides and s their sum, A gets f(d, s), B gets f(-d, s) and a tie g(d, s) + g(-d, s):
    swapping the sides swaps the first two logits, by construction.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.win = mlp(2 * width, hidden, dropout, 1)
        self.tie = mlp(2 * width, hidden, dropout, 1)

    def forward(self, sides: torch.Tensor) -> torch.Tensor:
        """Compute logits (n, 3) from the vectors of both sides (n, 2, width)."""
        difference, total = sides[:, 0] - sides[:, 1], sides[:, 0] + sides[:, 1]
        one, other = torch.cat([difference, total], -1), torch.cat([-difference, total], -1)
        return torch.cat([self.win(one), self.win(other), self.tie(one) + self.tie(other)], -1)


class FeatureHead(nn.Module):
    """A head, and beside it a linear model of each row's features (Cheng et al. 2016, arXiv 1606.07792).

    Both orders of a row are weighed alike: swapping the answers swaps the first two logits of the linear part, by
    construction. `mean` and `scale` are those of the training rows and are saved with the weights.

    Args:
        head: of a text's vector, or two.
        swap_signs: (k,), -1 for a feature that changes its sign with the order of the answers, else 1.
    """

    swap_signs: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, head: nn.Module, swap_signs: torch.Tensor) -> None:
        super().__init__()
        self.head = head
        self.linear = nn.Linear(len(swap_signs), len(CLASSES))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("swap_signs", swap_signs, persistent=False)
        self.register_buffer("mean", torch.zeros(len(swap_signs)))
        self.register_buffer("scale", torch.ones(len(swap_signs)))

    def fit(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Initialise the linear part with a logistic model of the training rows.

        Args:
            features: (m, k).
            labels: (m,), `NO_LABEL` for none.
        """
        self.start(*fit_features(features, labels, self.swap_signs.cpu().numpy()))

    def start(self, mean: np.ndarray, scale: np.ndarray, weights: np.ndarray, biases: np.ndarray) -> None:
        """Initialise the linear part from these coefficients and zero the text head's output layer.

        Args:
            mean: (k,) of the features.
            scale: (k,) of the features.
            weights: (3, k), of the scaled features.
            biases: (3,).
        """
        values = (self.mean, mean), (self.scale, scale), (self.linear.weight, weights), (self.linear.bias, biases)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(torch.from_numpy(value))
            for module in self.head.modules():
                if isinstance(module, nn.Linear) and module.out_features in (1, len(CLASSES)):  # what gives logits
                    for parameter in module.parameters():
                        parameter.zero_()

    def forward(self, pooled: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(n, width) or (n, 2, width), and features (n, k) -> (n, 3) logits of A, B, tie."""
        scaled = ((features - self.mean) / self.scale).clamp(-MAX_SCALED, MAX_SCALED)
        there, back = self.linear(scaled), self.linear(scaled * self.swap_signs)[:, SWAPPED_CLASS]
        logits: torch.Tensor = self.head(pooled) + (there + back) / 2
        return logits


def fit_features(
    features: np.ndarray, labels: np.ndarray, signs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit a logistic model to scaled features.

    Both orders of every row count, so a feature that changes its sign with the order has a mean of zero. A constant
    feature has a scale of one.

    Args:
        features: (m, k).
        labels: (m,), `NO_LABEL` for none.
        signs: (k,), -1 for a feature that changes its sign with the order of the answers, else 1.

    Returns:
        Mean (k,), scale (k,), weights (3, k) and biases (3,).
    """
    mean = np.where(signs > 0, features.mean(0, dtype=np.float64), 0.0)
    scale = np.sqrt(((features - mean) ** 2).mean(0))
    scale[scale < 1e-6] = 1.0
    known = labels != NO_LABEL
    there = (features[known] - mean) / scale
    weights, biases = fit_logistic(
        np.concatenate([there, there * signs]), np.concatenate([labels[known], SWAPPED_CLASS[labels[known]]])
    )
    return mean, scale, weights, biases


def head_name(classifier: Any) -> str:
    """The path of the layer that gives this classifier's logits."""
    return find_family(classifier.config.model_type).head


def renew_head(classifier: Any) -> None:
    """Put a linear head with transformers' random start in the place of one that was trained for other classes."""
    name = head_name(classifier)
    old = classifier.get_submodule(name)
    head = nn.Linear(old.in_features, len(CLASSES), bias=old.bias is not None, device=old.weight.device)
    nn.init.normal_(head.weight, std=classifier.config.initializer_range)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    classifier.set_submodule(name, head)


def backbone_of(classifier: Any) -> Any:
    """The classifier's backbone."""
    return getattr(classifier, classifier.base_model_prefix)


def heads_of(classifier: Any) -> dict[str, nn.Module]:
    """The classifier's head modules by name; BERT keeps its pooler in the backbone."""
    own = find_family(classifier.config.model_type).before_head
    places = (classifier, backbone_of(classifier))
    heads = {name: getattr(place, name) for place in places for name in HEADS if getattr(place, name, None)}
    if own is not None:
        heads[own] = getattr(classifier, own)
    return heads


def is_head(parameter: str) -> bool:
    """Whether a parameter of a judge is a head's, by its name."""
    return not set(HEADS).isdisjoint(parameter.split(".")) or bool(_BESIDE_BACKBONE.match(parameter))


def before_head(classifier: Any, pooled: torch.Tensor) -> torch.Tensor:
    """What an encoder's classifier computes between its pooled hidden state and its logits' layer.

    Args:
        classifier: of transformers.
        pooled: (n, width) hidden states.

    Returns:
        (n, width): through DeBERTa's or BERT's pooler, or the dense layer of RoBERTa, ModernBERT or EuroBERT, as
        their own forward does it.
    """
    vector: torch.Tensor
    own = find_family(classifier.config.model_type).before_head
    if own == "head":  # ModernBERT
        vector = classifier.drop(classifier.head(pooled))
    elif own == "dense":  # EuroBERT
        vector = classifier.activation(classifier.dense(pooled))
    elif hasattr(classifier.classifier, "out_proj"):  # RoBERTa
        own = classifier.classifier
        vector = own.dropout(torch.tanh(own.dense(own.dropout(pooled))))
    else:
        pooler = classifier.pooler if hasattr(classifier, "pooler") else backbone_of(classifier).pooler
        vector = classifier.dropout(pooler(pooled[:, None]))
    return vector


def pool(hidden: torch.Tensor, starts: np.ndarray, lengths: list[int], how: str) -> torch.Tensor:
    """One fp32 vector (n, width) for each text, by its place and length, never by a token's id.

    Args:
        hidden: (T, width).
        starts: (n,), where each text begins.
        lengths: of the n texts, tokens.
        how: `cls` takes a text's first token, `last` its last, `mean` the mean of all.
    """
    device = hidden.device
    if how != "mean":
        return hidden[to_device(pooled_tokens(starts, lengths, how), device)].float()
    ends = np.cumsum(lengths)
    tokens = np.arange(ends[-1]) + (starts - ends + lengths).repeat(lengths)
    texts = to_device(np.arange(len(lengths)).repeat(lengths), device)
    sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, texts, hidden[to_device(tokens, device)].float())
    return sums / to_device(np.array(lengths), device)[:, None]


def pooled_tokens(starts: np.ndarray, lengths: list[int], how: str) -> np.ndarray:
    """Index (n,) of the token that stands for each text: its first for `cls`, its last for `last`."""
    return starts if how == "cls" else starts + lengths - 1
