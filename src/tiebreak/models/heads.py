"""What stands on the backbone: pooling, and heads beyond transformers' own.

A linear head on the family's own pooling is transformers' classifier, and plain transformers loads it. Other heads
stand in its place, under the same name, and `tiebreak.models.loading.load_model` loads them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tiebreak.config import ModelSettings
from tiebreak.data.features import signs
from tiebreak.labels import SWAPPED_CLASS

HEADS = ("score", "classifier", "pooler")
"""The modules of a classifier that are trained whole under adapters and never quantised."""
CLASSES = 3
MOST_SCALES = 5.0
"""Features are clipped to so many times their scale, lest one odd row drown its text."""


def attach_head(classifier: Any, settings: ModelSettings, groups: Sequence[str] = ()) -> None:
    """Put the recipe's head in the place of transformers' own; a linear one without features stays as it is.

    Args:
        groups: the features that it sees beside the text.
    """
    name = "score" if hasattr(classifier, "score") else "classifier"
    width, dropout = getattr(classifier, name).in_features, settings.head_dropout
    if settings.head == "mlp":
        setattr(classifier, name, mlp(width, settings.head_hidden or width, dropout))
    elif settings.head == "siamese":
        setattr(classifier, name, SiameseHead(width, settings.head_hidden or width, dropout))
    if groups:
        setattr(classifier, name, FeatureHead(getattr(classifier, name), torch.from_numpy(signs(groups))))


def mlp(width: int, hidden: int, dropout: float, out: int = CLASSES) -> nn.Sequential:
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
        difference, total = sides[:, 0] - sides[:, 1], sides[:, 0] + sides[:, 1]
        one, other = torch.cat([difference, total], -1), torch.cat([-difference, total], -1)
        return torch.cat([self.win(one), self.win(other), self.tie(one) + self.tie(other)], -1)


class FeatureHead(nn.Module):
    """A head, and beside it a linear model of numbers that each row comes with (Cheng et al. 2016, arXiv 1606.07792).

    Both orders of a row are weighed alike: swapping the answers swaps the first two logits of the linear part, by
    construction. `mean` and `scale` are those of the training rows and are saved with the weights.

    Args:
        head: of a text's vector, or two.
        signs: (k,), -1 for a number that changes its sign with the order of the answers.
    """

    signs: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, head: nn.Module, signs: torch.Tensor) -> None:
        super().__init__()
        self.head = head
        self.linear = nn.Linear(len(signs), CLASSES)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("signs", signs, persistent=False)
        self.register_buffer("mean", torch.zeros(len(signs)))
        self.register_buffer("scale", torch.ones(len(signs)))

    def start(self, mean: np.ndarray, scale: np.ndarray, weights: np.ndarray, biases: np.ndarray) -> None:
        """Begin as the linear model that these make, the text adding nothing yet.

        Args:
            mean, scale: (k,). weights: (3, k), of the scaled numbers. biases: (3,).
        """
        values = (self.mean, mean), (self.scale, scale), (self.linear.weight, weights), (self.linear.bias, biases)
        with torch.no_grad():
            for tensor, value in values:
                tensor.copy_(torch.from_numpy(value))
            for module in self.head.modules():
                if isinstance(module, nn.Linear) and module.out_features in (1, CLASSES):  # what gives logits
                    for parameter in module.parameters():
                        parameter.zero_()

    def forward(self, pooled: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """(n, width) or (n, 2, width), and numbers (n, k) -> (n, 3) logits of A, B, tie."""
        scaled = ((numbers - self.mean) / self.scale).clamp(-MOST_SCALES, MOST_SCALES)
        there, back = self.linear(scaled), self.linear(scaled * self.signs)[:, SWAPPED_CLASS]
        return self.head(pooled) + (there + back) / 2


def head_of(classifier: Any) -> nn.Module:
    """The head itself, out of the wrapper that adapters put around what is trained whole."""
    head = classifier.score if hasattr(classifier, "score") else classifier.classifier
    return head.modules_to_save["default"] if hasattr(head, "modules_to_save") else head


def heads_of(classifier: Any) -> dict[str, nn.Module]:
    """The classifier's head modules by name; BERT keeps its pooler in the backbone."""
    places = (classifier, getattr(classifier, classifier.base_model_prefix))
    return {name: getattr(place, name) for place in places for name in HEADS if hasattr(place, name)}


def pool(hidden: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """One fp32 vector (n, width) for each text, by its place and length, never by a token's id.

    Args:
        hidden: (T, width); the n texts begin at `starts` (n,) and have `lengths` (n,) tokens.
        how: `cls` takes a text's first token, `last` its last, `mean` the mean of all.
    """
    if how != "mean":
        return hidden[pooled_tokens(starts, lengths, how)].float()
    text = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    within = torch.arange(len(text), device=hidden.device) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, text, hidden[torch.repeat_interleave(starts, lengths) + within].float())
    return sums / lengths[:, None]


def pooled_tokens(starts: torch.Tensor, lengths: torch.Tensor, how: str) -> torch.Tensor:
    """The token (n,) that stands for each text, for `cls` its first and for `last` its last."""
    return starts if how == "cls" else starts + lengths - 1
