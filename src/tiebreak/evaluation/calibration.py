"""How honest the probabilities are: calibration error, reliability diagram, temperature."""

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap, divide, estimate, newton
from tiebreak.evaluation.metrics import (
    TEMPERATURES,
    best_temperature,
    inside_search,
    log_probabilities,
    row_losses,
    softmax,
)
from tiebreak.evaluation.schema import Bin, Calibration, Estimate
from tiebreak.labels import CLASS_NAMES

BINS = 15
SIMULATIONS = 200


def calibrate(probabilities: np.ndarray, labels: np.ndarray, bootstrap: Bootstrap, seed: int = 0) -> Calibration:
    """All of it, for probabilities (n, 3) and labels (n,)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = equal_mass_bins(confidence)
    simulated = simulate_calibrated(confidence, bins, seed)
    half = halves(bootstrap, seed)
    temperature = fit_temperature(probabilities, labels, half, bootstrap)
    gain = None
    if temperature is not None:
        tempered = apply_temperature(probabilities, temperature.value)
        saved = np.where(half, 0, row_losses(probabilities, labels) - row_losses(tempered, labels))
        gain = bootstrap.ratios(gain=(saved, ~half))["gain"]
    return Calibration(
        ece=calibration_error(confidence, right, bins, bootstrap),
        ece_if_calibrated=float(simulated.mean()),
        ece_if_calibrated_high=float(np.quantile(simulated, 0.95)),
        reliability={name: reliability(probabilities[:, k], labels == k) for k, name in enumerate(CLASS_NAMES)},
        temperature=temperature,
        fitted_rows=int(half.sum()),
        held_out_rows=int((~half).sum()),
        held_out_gain=gain,
    )


def equal_mass_bins(values: np.ndarray, count: int = BINS) -> np.ndarray:
    """The bin (n,) of each value, bins holding equally many; equal values share one, so fewer may be left."""
    edges = np.unique(np.quantile(values, np.arange(1, count) / count, method="inverted_cdf"))
    return np.unique(np.searchsorted(edges, values, side="left"), return_inverse=True)[1]


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """Expected calibration error: sum over bins of |hits - summed confidence| / n.

    Naeini et al. 2015 (AAAI), with bins of equal mass (Nguyen & O'Connor 2015) that resamples keep. A resample
    adds noise to every bin and so raises the error: the resamples are centred on the value before the interval.
    """
    member = np.eye(bins.max() + 1)[bins]
    gaps = np.concatenate([member * (right - confidence)[:, None], np.ones((len(bins), 1))], axis=1)
    total, resampled = bootstrap.sums(gaps)
    value, samples = (divide(np.abs(s[:, :-1]).sum(1), s[:, -1]) for s in (total[None], resampled))
    error = estimate(float(value[0]), np.maximum(0, samples - samples.mean() + value[0]))
    assert error is not None
    return error


def simulate_calibrated(confidence: np.ndarray, bins: np.ndarray, seed: int) -> np.ndarray:
    """ECE (SIMULATIONS,) of verdicts that are right exactly as often as they claim: what chance alone gives."""
    rng = np.random.default_rng(seed)
    errors = np.empty(SIMULATIONS)
    for draw in range(SIMULATIONS):
        gap = (rng.random(len(confidence)) < confidence) - confidence
        errors[draw] = np.abs(np.bincount(bins, gap)).sum() / len(confidence)
    return errors


def reliability(predicted: np.ndarray, hit: np.ndarray) -> list[Bin]:
    """Predicted probability of a class against its share, per bin of equal mass, with Wilson's 95 % interval."""
    bins = equal_mass_bins(predicted)
    shown = []
    for number in range(bins.max() + 1):
        members = bins == number
        n, share = int(members.sum()), float(hit[members].mean())
        low, high = wilson(share, n)
        shown.append(Bin(rows=n, predicted=float(predicted[members].mean()), observed=share, low=low, high=high))
    return shown


def wilson(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share of n rows (Wilson 1927, JASA 22)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    width = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float(max(0.0, centre - width)), float(min(1.0, centre + width))


def halves(bootstrap: Bootstrap, seed: int) -> np.ndarray:
    """A mask (n,): the rows of a random half of the prompt groups."""
    order = np.random.default_rng([seed, 1]).permutation(bootstrap.groups)
    return (order < (bootstrap.groups + 1) // 2)[bootstrap.index]


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, 3) with their logits divided by the temperature (Guo et al. 2017, ICML)."""
    return softmax(log_probabilities(probabilities) / temperature)


def fit_temperature(
    probabilities: np.ndarray, labels: np.ndarray, rows: np.ndarray, bootstrap: Bootstrap
) -> Estimate | None:
    """The temperature of least log loss on the rows of a mask (n,), with a one-step bootstrap interval.

    Resampled in the inverse temperature, in which the loss is convex. None where the rows have one prompt, or give all
    classes the same probability, which every temperature leaves as it is.
    """
    logits = log_probabilities(probabilities)
    if np.ptp(bootstrap.index[rows]) == 0 or np.ptp(logits[rows], axis=1).max() == 0:
        return None
    of_label = logits[np.arange(len(labels)), labels]
    inverse = 1 / best_temperature(logits[rows], labels[rows])
    least, most = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    inside = inside_search(1 / inverse)
    if not inside:  # more or less of it would be better still
        inverse = least if inverse < 1 else most

    def derivatives(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        heated = apply_temperature(probabilities, 1 / theta[0])
        mean = (heated * logits).sum(1)
        spread = (heated * (logits - mean[:, None]) ** 2).sum(1)
        gradient, hessian = (np.where(rows, values, 0)[:, None] for values in (mean - of_label, spread))
        return gradient, hessian[:, :, None]

    theta, sampled = newton(np.array([inverse]), derivatives, bootstrap, polish=3 if inside else 0)
    return estimate(1 / float(theta[0]), 1 / np.clip(sampled[:, 0], least, most))
