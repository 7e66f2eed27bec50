"""Augmentation: what is dropped and cut, paraphrases by id, and that draws depend on (seed, epoch, row, order)."""

import csv
import json

import numpy as np
import pytest

from tiebreak.config import DataSettings
from tiebreak.data.augment import Augmentation, find_variants
from tiebreak.data.prepare import prepare
from tiebreak.data.templates import TEMPLATES
from tiebreak.errors import UserError
from tiebreak.models.loading import load_tokenizer
from tiebreak.tables.table import read_table

EPOCHS = 6


def prepared(files, template="llama2", **changes):
    settings = DataSettings(**{"max_tokens": 160} | changes)
    tokenizer = load_tokenizer("demo-deberta" if template == "siamese" else f"demo-{template}", template)
    return settings, prepare(files, tokenizer, TEMPLATES[template], settings)


@pytest.mark.parametrize("policy", ["spread", "right"])
@pytest.mark.parametrize("template", ["llama2", "siamese"])
def test_turns_are_the_parts_without_separators(template, policy, sample):
    """Truncated rows too: of 400 rows some have four turns and more tokens than fit."""
    _, tokens = prepared([sample], template, truncation=policy)
    separator = tokens.fixed["turn"]
    several = 0
    for row in range(len(tokens)):
        turns = tokens.turns(row)
        assert len({len(part) for part in turns}) == 1
        several += len(turns[0]) > 1
        parts = [np.array(sum(([*separator, *turn] for turn in part[1:]), list(part[0]))) for part in turns]
        for one, other in zip(tokens.assemble(parts, row % 2 == 1), tokens.input_ids(row, row % 2 == 1), strict=True):
            np.testing.assert_array_equal(one, other)
    assert several > 20 and tokens.truncated > 10


def test_draws_depend_on_seed_epoch_row_and_order_alone(sample):
    settings, tokens = prepared([sample], drop_turns=0.5, jitter=0.5)
    one, again, other = (Augmentation(settings, seed, tokens, {}) for seed in (0, 0, 1))

    def seen(augmentation, row, swapped=False, epoch=0):
        return np.concatenate(augmentation.input_ids(row, swapped, epoch)[1]).tolist()

    forth = [seen(one, row) for row in range(40)]
    assert forth[::-1] == [seen(again, row) for row in reversed(range(40))], "the order of asking does not count"
    for changed in ([seen(other, row) for row in range(40)], [seen(one, row, epoch=1) for row in range(40)]):
        assert sum(a != b for a, b in zip(forth, changed, strict=True)) > 20
    assert sum(len(seen(one, row, swapped=True)) != len(forth[row]) for row in range(40)) > 20
    assert all(len(text) <= tokens.lengths[row] for row, text in enumerate(forth))


def test_earlier_turns_are_dropped_from_all_parts_alike(sample):
    settings, tokens = prepared([sample], drop_turns=0.999, max_tokens=512)
    augmentation = Augmentation(settings, 0, tokens, {})
    rows = [row for row in range(len(tokens)) if len(tokens.turns(row)[0]) == 3][:10]
    assert len(rows) == 10
    kept = set()
    for row in rows:
        turns = tokens.turns(row)
        for epoch in range(EPOCHS):
            _, texts = augmentation.input_ids(row, False, epoch)
            fits = []
            for left in ([2], [0, 2], [1, 2]):
                separator = tokens.fixed["turn"]
                parts = [
                    np.concatenate([piece for k in left for piece in (separator, part[k])][1:]).astype(np.int32)
                    for part in turns
                ]
                if np.array_equal(tokens.assemble(parts, False)[0], texts[0]):
                    fits.append(tuple(left))
            assert len(fits) >= 1, "the last turn and some of the earlier, the same of each part"
            kept.update(fits)
    assert kept == {(2,), (0, 2), (1, 2)}
    single = next(row for row in range(len(tokens)) if len(tokens.turns(row)[0]) == 1)
    np.testing.assert_array_equal(augmentation.input_ids(single, False, 0)[1][0], tokens.input_ids(single)[0])


def test_jitter_cuts_both_answers_to_a_like_share_and_leaves_the_prompt(sample):
    settings, tokens = prepared([sample], "siamese", jitter=0.6)
    augmentation = Augmentation(settings, 0, tokens, {})
    shares = []
    for row in range(60):
        turns = tokens.turns(row)
        if len(turns[0]) > 1 or min(len(turns[1][0]), len(turns[2][0])) < 10:
            continue
        around = len(tokens.fixed["head"]) + len(turns[0][0]) + len(tokens.fixed["before_first"])
        around += len(tokens.fixed["tail"])
        whole, cut = tokens.input_ids(row), augmentation.input_ids(row, False, 0)[1]
        for one, other in zip(whole, cut, strict=True):
            np.testing.assert_array_equal(one[: around - 1], other[: around - 1])
        a, b = ((len(other) - around) / (len(one) - around) for one, other in zip(whole, cut, strict=True))
        assert abs(a - b) < 0.1, "a like share, up to the last token of at least ten"
        shares.append(a)
    assert len(shares) > 20 and min(shares) < 0.5 and max(shares) > 0.9 and min(shares) >= 0.4


@pytest.fixture(scope="module")
def paraphrases(sample, tmp_path_factory):
    """Two tables of paraphrases of the sample's first rows: both rewrite row 0, the first rows 1 and 2 too."""
    folder, pairs = tmp_path_factory.mktemp("paraphrases"), read_table([sample]).pairs
    files = []
    for name, rows in (("one", (0, 1, 2)), ("two", (0,))):
        files.append(folder / f"{name}.csv")
        with open(files[-1], "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "prompt", "response_a", "response_b"])
            for row in rows:
                texts = ([f"{name} says {part}"] for part in ("prompt", "a", "b"))
                writer.writerow([pairs[row].id, *map(json.dumps, texts)])
    return files


def test_paraphrases_are_joined_by_id_and_take_their_rows_place(sample, paraphrases):
    settings, tokens = prepared([sample], paraphrased=0.5)
    _, others = prepared(paraphrases)
    variants = find_variants(tokens, others)
    assert variants == {0: [400, 403], 1: [401], 2: [402]}
    joined = tokens.join(others)
    augmentation = Augmentation(settings, 0, joined, variants)
    seen = {row: [augmentation.input_ids(row, False, epoch)[0] for epoch in range(60)] for row in (0, 1, 3)}
    assert set(seen[0]) == {0, 400, 403} and set(seen[1]) == {1, 401} and set(seen[3]) == {3}
    assert 15 < seen[1].count(401) < 45, "half of 60, four standard deviations"
    texts = next(made for epoch in range(9) if (made := augmentation.input_ids(1, True, epoch))[0] == 401)[1]
    np.testing.assert_array_equal(texts[0], others.input_ids(1, swapped=True)[0])


def test_a_paraphrase_of_no_row_is_refused(sample, paraphrases):
    _, tokens = prepared([sample])
    _, others = prepared(paraphrases)
    with pytest.raises(UserError, match="1 id not in the training table, for example"):
        find_variants(tokens.select(np.arange(2)), others)
