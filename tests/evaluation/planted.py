"""Tables of known law, and judges with a planted bias."""

from dataclasses import dataclass

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap

FAMILIES = np.array(["gpt", "llama", "mistral", "qwen"])


@dataclass
class World:
    """Labels (n,) drawn from `law` (n, 3); a third of the prompts occur twice, with the same answers and votes.

    chars (n, 2), models: n pairs of names, groups (n,).
    """

    law: np.ndarray
    labels: np.ndarray
    chars: np.ndarray
    models: list
    groups: np.ndarray
    rng: np.random.Generator

    def bootstrap(self, resamples: int = 200) -> Bootstrap:
        return Bootstrap(self.groups, resamples)


def make_world(seed: int, prompts: int = 300) -> World:
    """People like quality, a little more than length; votes of copies are copies, so rows are not independent."""
    rng = np.random.default_rng(seed)
    chars = np.exp(rng.normal(6.5, 0.8, (prompts, 2))).astype(int) + 1
    strength = 1.5 * rng.normal(size=prompts) + 0.6 * np.log(chars[:, 0] / chars[:, 1])
    law = softmax(np.stack([strength / 2, -strength / 2, np.full(prompts, -0.2)], axis=1))
    labels = (rng.random(prompts)[:, None] > law.cumsum(1)[:, :2]).sum(1)
    one = rng.integers(0, len(FAMILIES), prompts)
    two = (one + rng.integers(1, len(FAMILIES), prompts)) % len(FAMILIES)
    rows = np.concatenate([np.arange(prompts), np.arange(prompts // 3)])
    models = [(f"{FAMILIES[one[k]]}-7b", f"{FAMILIES[two[k]]}-13b") for k in rows]
    return World(law[rows], labels[rows], chars[rows], models, rows, rng)


def softmax(z: np.ndarray) -> np.ndarray:
    shifted = np.exp(z - z.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def noisy(law: np.ndarray, groups: np.ndarray, rng: np.random.Generator, size: float = 0.4) -> np.ndarray:
    """The law with noise that favours neither side: its mean over rows is that of the law up to chance."""
    shift = rng.normal(0, size, groups.max() + 1)[groups]
    return softmax(np.log(law) + shift[:, None] * np.array([0.5, -0.5, 0.0]))


def sure(winner: np.ndarray, confidence: float = 0.96) -> np.ndarray:
    """Probabilities (n, 3) that give the winner (n,) nearly everything."""
    rest = (1 - confidence) / 2
    return np.where(np.eye(3)[winner] == 1, confidence, rest)
