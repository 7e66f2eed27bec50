"""The model that a run starts with: its features standardised, and weighed as a logistic model weighs them."""

import numpy as np
import torch

from tiebreak.config import Recipe
from tiebreak.data.tokens import Tokens
from tiebreak.evaluation.baselines import fit_logistic
from tiebreak.labels import NO_LABEL, SWAPPED_CLASS
from tiebreak.models.heads import FeatureHead
from tiebreak.models.loading import build_model
from tiebreak.models.preference import PreferenceModel


def new_model(
    recipe: Recipe, tokenizer, device: torch.device, precision: torch.dtype, tokens: Tokens, rows: np.ndarray
) -> PreferenceModel:
    """`build_model`, and where the recipe has features, a linear part fitted on the training rows (m,) of `tokens`."""
    model = build_model(recipe, tokenizer, device, precision)
    head = model.head
    if isinstance(head, FeatureHead):
        head.start(*fit_numbers(tokens.features[rows], tokens.labels[rows], tokens.swap_signs))
    return model


def fit_numbers(numbers: np.ndarray, labels: np.ndarray, signs: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean (k,), scale (k,), weights (3, k) and biases (3,) for features (m, k) of rows with labels (m,), -1 for none.

    Both orders of every row count, so what changes its sign with the order has a mean of zero, and a constant a scale
    of one.
    """
    mean = np.where(signs > 0, numbers.mean(0, dtype=np.float64), 0.0)
    scale = np.sqrt(((numbers - mean) ** 2).mean(0))
    scale[scale < 1e-6] = 1.0
    known = labels != NO_LABEL
    there = (numbers[known] - mean) / scale
    weights, biases = fit_logistic(
        np.concatenate([there, there * signs]), np.concatenate([labels[known], SWAPPED_CLASS[labels[known]]])
    )
    return mean, scale, weights, biases
