"""What a judge is worth if it may abstain: how often it is right on the rows that it is surest of."""

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap, divide, estimate
from tiebreak.evaluation.calibration import equal_mass_bins
from tiebreak.evaluation.schema import CoveragePoint, Selective

STEPS = 50
"""Points of a curve: every 2 % of the rows, fewer where confidences are equal."""


def measure_selective(confidence: np.ndarray, right: np.ndarray, bootstrap: Bootstrap) -> Selective | None:
    """The risk-coverage curve of verdicts and the area under it.

    At a coverage c the judge decides the share c of the rows of the highest confidence; the risk is the share of wrong
    verdicts among them. The area (AURC) is the mean risk over all coverages (Geifman & El-Yaniv 2019, ICLR,
    "Bias-reduced uncertainty estimation"), here by the trapezoid rule over `STEPS` points that resamples keep.

    Args:
        confidence: (n,), higher is surer; only its order counts.
        right: (n,), whether each verdict is right.
        bootstrap: of the n rows.

    Returns:
        None where no interval can be given.
    """
    # The surest rows come first, so bins are of the negative confidence.
    bins = equal_mass_bins(-confidence, STEPS)
    count = int(bins.max()) + 1
    member = np.eye(count)[bins]
    columns = np.concatenate([member, member * ~right.astype(bool)[:, None]], axis=1)
    total, resampled = bootstrap.sums(columns)
    coverage, risk = _curve(total[None])
    area = estimate(float(_area(coverage, risk)[0]), _area(*_curve(resampled)))
    risks = _curve(resampled)[1]
    agreements = [estimate(1 - float(risk[0, point]), 1 - risks[:, point]) for point in range(count)]
    if area is None:
        return None
    least = [float(confidence[bins == point].min()) for point in range(count)]
    curve = [
        CoveragePoint(coverage=share, confidence=at, agreement=agreement)
        for share, at, agreement in zip(coverage[0].tolist(), least, agreements, strict=True)
        if agreement is not None
    ]
    return Selective(aurc=area, curve=curve)


def _curve(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk (m, k) of sums (m, 2 k): rows, and wrong rows, of each bin from the surest on."""
    rows, wrong = (half.cumsum(1) for half in np.split(sums, 2, axis=1))
    return divide(rows, rows[:, -1:]), divide(wrong, rows)


def _area(coverage: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Area (m,) under curves (m, k) that begin at no coverage with the risk of the first point."""
    widths = np.diff(coverage, prepend=0.0, axis=1)
    before = np.concatenate([risk[:, :1], risk[:, :-1]], axis=1)
    # A resample may hold none of the surest rows: no coverage there, and so no area.
    area: np.ndarray = np.where(widths > 0, widths * (np.where(np.isnan(before), risk, before) + risk) / 2, 0.0).sum(1)
    return area
