"""Judges against each other on the same rows: paired differences, agreement, who is right where."""

from itertools import combinations

import numpy as np

from tiebreak.evaluation.bootstrap import Bootstrap
from tiebreak.evaluation.inputs import Predictions
from tiebreak.evaluation.metrics import row_losses
from tiebreak.evaluation.schema import JudgePair, SlicePair


def compare_judges(
    judges: list[Predictions], labels: np.ndarray, slices: dict[tuple[str, str], np.ndarray], bootstrap: Bootstrap
) -> list[JudgePair]:
    """Every pair of judges, in the order given."""
    loss = [row_losses(judge.probabilities, labels) for judge in judges]
    verdicts = [judge.probabilities.argmax(1) for judge in judges]
    right = [verdict == labels for verdict in verdicts]
    pairs = []
    for one, two in combinations(range(len(judges)), 2):
        only_first, only_second = right[one] & ~right[two], right[two] & ~right[one]
        where = [
            SlicePair(
                by=by,
                name=name,
                rows=int(mask.sum()),
                only_first=int((only_first & mask).sum()),
                only_second=int((only_second & mask).sum()),
            )
            for (by, name), mask in slices.items()
        ]
        estimates = bootstrap.ratios(
            log_loss=loss[one] - loss[two],
            accuracy=right[one].astype(int) - right[two],
            agreement=verdicts[one] == verdicts[two],
        )
        counts = {
            "first": judges[one].name,
            "second": judges[two].name,
            "both_right": int((right[one] & right[two]).sum()),
            "only_first": int(only_first.sum()),
            "only_second": int(only_second.sum()),
            "neither": int((~right[one] & ~right[two]).sum()),
            "slices": where,
        }
        pairs.append(JudgePair.model_validate(counts | estimates))
    return pairs
