"""Augmentation beside the swap: a row is seen without some turns, with shorter answers, or in other words.

What an example looks like depends on (seed, epoch, row, order) alone, never on the ranks or on a resumed run. A changed
row is never longer than the longest of the row and its paraphrases, which the plan of steps counts on.
"""

import math

import numpy as np

from tiebreak.config import DataSettings
from tiebreak.data.tokens import Tokens
from tiebreak.data.truncation import cut_part, join_turns
from tiebreak.errors import UserError
from tiebreak.plurals import plural

STREAM = 1
"""Apart from the plan's own draws of (seed, epoch)."""
SHOWN_IDS = 5


class Augmentation:
    """How each example is changed.

    Args:
        tokens: the table, its paraphrases at the end.
        variants: the rows of `tokens` that are paraphrases of a row.
    """

    def __init__(self, settings: DataSettings, seed: int, tokens: Tokens, variants: dict[int, list[int]]) -> None:
        self.settings, self.seed, self.tokens, self.variants = settings, seed, tokens, variants

    def choose(self, row: int, swapped: bool, epoch: int) -> tuple[int, np.random.Generator]:
        """The row itself or one of its paraphrases, and the draws that follow."""
        draws = np.random.default_rng([self.seed, STREAM, epoch, row, int(swapped)])
        variants = self.variants.get(row, [])
        if variants and draws.random() < self.settings.paraphrased:
            row = variants[int(draws.integers(len(variants)))]
        return row, draws

    def input_ids(self, row: int, swapped: bool, epoch: int) -> tuple[int, list[np.ndarray]]:
        """What `Tokens.input_ids` gives, changed, and the row that it was made from."""
        row, draws = self.choose(row, swapped, epoch)
        drop, jitter = self.settings.drop_turns, self.settings.jitter
        if not drop and not jitter:
            return row, self.tokens.input_ids(row, swapped)
        turns = self.tokens.turns(row)
        count = len(turns[0])
        if count > 1 and draws.random() < drop:
            dropped = draws.permutation(count - 1)[: draws.integers(1, count)]
            turns = [[tokens for k, tokens in enumerate(part) if k not in dropped] for part in turns]
        share = 1 - jitter * draws.random()
        for k, answer in enumerate(turns[1:], 1):
            limit = math.ceil(share * sum(map(len, answer)))
            turns[k] = list(cut_part(answer, limit, self.settings.truncation))  # type: ignore[arg-type]
        separator = self.tokens.fixed["turn"]
        parts = [np.array(join_turns(part, separator), dtype=np.int32) for part in turns]  # type: ignore[arg-type]
        return row, self.tokens.assemble(parts, swapped)


def make_augmentation(
    settings: DataSettings, seed: int, tokens: Tokens, variants: dict[int, list[int]]
) -> Augmentation | None:
    """Make the augmentation that these settings ask for; None where they leave every row as it is."""
    wanted = settings.drop_turns or settings.jitter or variants
    return Augmentation(settings, seed, tokens, variants) if wanted else None


def find_variants(tokens: Tokens, paraphrases: Tokens) -> dict[int, list[int]]:
    """Rows of a table -> where their paraphrases stand once `tokens.join(paraphrases)` is made, by id.

    A second paraphrase of a row has its file's name before the id, as every id that occurs in two files.

    Raises:
        UserError: ids that the table has not.
    """
    places = {name: k for k, name in enumerate(tokens.ids)}
    variants: dict[int, list[int]] = {}
    foreign = []
    for k, name in enumerate(paraphrases.ids):
        row = places.get(name, places.get(name.rpartition(":")[2]))
        if row is None:
            foreign.append(name)
        else:
            variants.setdefault(row, []).append(len(tokens) + k)
    if foreign:
        raise UserError(
            f"data.paraphrases: {plural(len(foreign), 'id')} not in the training table, for example "
            f"{', '.join(foreign[:SHOWN_IDS])}: a paraphrase needs the id of its row"
        )
    return variants
