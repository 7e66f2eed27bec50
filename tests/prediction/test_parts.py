"""Parts: whole and of this prediction, or found out."""

import numpy as np
import pytest

from tiebreak.data.prediction_manifest import Provenance
from tiebreak.prediction.parts import BadPart, Part, cut_into_parts, part_path, read_part, write_part

PROVENANCE = Provenance(model="m", table="t", settings="s")


@pytest.fixture
def part():
    rng = np.random.default_rng(0)
    rows, logits = np.array([5, 2, 9]), rng.normal(size=(2, 3, 3)).astype(np.float32)
    logits[1, 1] = np.nan
    return Part(rows, logits[0], logits[1], np.zeros(3, np.int8), np.array([30, 20]), np.array([1.5]))


def test_a_part_is_read_as_written(part, tmp_path):
    write_part(tmp_path, 3, part, PROVENANCE)
    found = read_part(part_path(tmp_path, 3), PROVENANCE)
    for name in Part.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(found, name), getattr(part, name))


def test_a_truncated_part_or_one_with_a_changed_byte_is_found_out(part, tmp_path):
    write_part(tmp_path, 0, part, PROVENANCE)
    path = part_path(tmp_path, 0)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(BadPart):
            read_part(path, PROVENANCE)
    found_out = 0
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read_part(path, PROVENANCE)
        except BadPart:
            found_out += 1
            continue
        # In a field of the container that says nothing of the arrays, such as a date.
        for name in Part.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(found, name), getattr(part, name))
    assert found_out > 20


@pytest.mark.parametrize("name", PROVENANCE.model_dump())
def test_a_part_of_another_prediction_is_reported_by_what_is_other(part, tmp_path, name):
    write_part(tmp_path, 0, part, PROVENANCE.model_copy(update={name: "x"}))
    with pytest.raises(BadPart, match=f"of another {name}"):
        read_part(part_path(tmp_path, 0), PROVENANCE)


def test_a_part_under_anothers_name_is_found_out(part, tmp_path):
    write_part(tmp_path, 0, part, PROVENANCE)
    part_path(tmp_path, 0).rename(part_path(tmp_path, 1))
    with pytest.raises(BadPart, match="it is part 0"):
        read_part(part_path(tmp_path, 1), PROVENANCE)


@pytest.mark.parametrize("blocks", [0, 1, 4_096, 4_097, 500_000])
def test_parts_hold_every_block_once_and_are_not_too_many(blocks):
    parts = cut_into_parts(blocks)
    assert [block for part in parts for block in part] == list(range(blocks))
    assert len(parts) <= 4_096 and all(len(part) == 1 for part in parts) == (blocks <= 4_096)
