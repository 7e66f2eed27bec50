"""The strongest baseline as a teacher: fitted on the training rows themselves, each predicted by a fit without it.

It knows what words and numbers tell, costs no GPU, and needs no prediction folder: nothing it says of a row comes from
a row with the same prompt.
"""

import numpy as np

from tiebreak.data.encode import prompt_group
from tiebreak.data.folds import assign_folds
from tiebreak.data.prediction_manifest import BASELINE
from tiebreak.data.split import Split
from tiebreak.errors import UserError
from tiebreak.evaluation.baselines import FOLDS
from tiebreak.evaluation.text_baselines import count_chars, count_words, fit_boosted, fit_text
from tiebreak.labels import NO_LABEL
from tiebreak.prediction.parts import keys_of
from tiebreak.tables.rows import Pair
from tiebreak.tables.table import read_table
from tiebreak.training.targets import TeacherLogits, centred_log

FOLDS_SEED = 0


def view_of_baseline(split: Split) -> TeacherLogits:
    """Logits (n, 3) of the `boosted` baseline for the n training rows, in both orders, each out of five folds.

    Extra rows without labels are dealt to the folds too: they are predicted, and teach the baseline nothing.

    Raises:
        UserError: fewer distinct prompts than folds, one class alone outside a fold, or a table that has changed.
    """
    from threadpoolctl import threadpool_limits

    train, labels = split.train, split.tokens.labels[split.train]
    try:
        folds = assign_folds(labels, split.tokens.groups[train], FOLDS, FOLDS_SEED)
    except UserError as error:
        raise UserError(f"--teachers {BASELINE}: {error}") from None
    with threadpool_limits(1):  # sums over threads would depend on their number, and so on that of ranks
        answers = count_words(pairs_of(split))
        exchanged = answers.exchanged()
        ab, ba = np.empty((len(train), 3)), np.empty((len(train), 3))
        for fold in range(FOLDS):
            learnt = np.flatnonzero((folds != fold) & (labels != NO_LABEL))
            if len(np.unique(labels[learnt])) < 2:
                raise UserError(f"--teachers {BASELINE}: outside a fold all labels are the same: train on more rows")
            known = answers.rows(learnt)
            predict = fit_boosted(known, labels[learnt], fit_text(known, labels[learnt], numbers=True))
            for found, some in ((ab, answers), (ba, exchanged)):
                found[folds == fold] = predict(some.rows(np.flatnonzero(folds == fold)))
    least = 1 / len(train)  # a class that does not occur has the share of one row
    there, back = (centred_log(np.maximum(values, least)).astype(np.float32) for values in (ab, ba))
    return TeacherLogits(BASELINE, there, back, both=np.ones(len(train), dtype=bool))


def pairs_of(split: Split) -> list[Pair]:
    """The texts of the training rows, read again from their tables and matched by id, prompt and answers' lengths."""
    data, extra = split.manifest.data, split.manifest.extra or []
    pairs = read_table(data, on_bad_row="skip", need_labels=True).pairs
    pairs += read_table(extra, on_bad_row="skip").pairs if extra else []
    groups = np.array([prompt_group(pair.prompt) for pair in pairs])
    found = dict(zip(keys_of([pair.id for pair in pairs], groups, count_chars(pairs)), pairs, strict=True))
    tokens, train = split.tokens, split.train
    keys = keys_of([tokens.ids[row] for row in train], tokens.groups[train], tokens.chars[train])
    if gone := next((key for key in keys if key not in found), None):
        raise UserError(
            f"--teachers {BASELINE}: row {gone[0]} of {', '.join([*data, *extra])} is no longer what it was a moment "
            "ago: something else writes this table; wait for it, then start this command again"
        )
    return [found[key] for key in keys]
