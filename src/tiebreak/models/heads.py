"""What stands on the backbone: pooling, and heads beyond transformers' own.

A linear head on the family's own pooling is transformers' classifier, and plain transformers loads it. Other heads
stand in its place, under the same name, and `tiebreak.models.loading.load_judge` loads them.
"""

from typing import Any

import torch
from torch import nn

from tiebreak.config import ModelSettings

HEADS = ("score", "classifier", "pooler")
"""The modules of a classifier that are trained whole under adapters and never quantised."""
CLASSES = 3


def is_standard(settings: ModelSettings) -> bool:
    """Whether plain transformers computes the same from the saved folder."""
    return settings.head == "linear" and settings.pooling == "auto"


def attach_head(classifier: Any, settings: ModelSettings) -> None:
    """Put the recipe's head in the place of transformers' own; a linear one stays as it is."""
    name = "score" if hasattr(classifier, "score") else "classifier"
    width, dropout = getattr(classifier, name).in_features, settings.head_dropout
    if settings.head == "mlp":
        setattr(classifier, name, mlp(width, settings.head_hidden or width, dropout))
    elif settings.head == "siamese":
        setattr(classifier, name, SiameseHead(width, settings.head_hidden or width, dropout))


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
    if how == "cls":
        return hidden[starts].float()
    if how == "last":
        return hidden[starts + lengths - 1].float()
    text = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    within = torch.arange(len(text), device=hidden.device) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, text, hidden[torch.repeat_interleave(starts, lengths) + within].float())
    return sums / lengths[:, None]
