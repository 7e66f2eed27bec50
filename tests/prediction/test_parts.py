"""Parts: whole and of this prediction, or found out."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from tiebreak.arrays import BadArrays, read_npy, read_npz
from tiebreak.data.prediction_manifest import Provenance
from tiebreak.errors import UserError
from tiebreak.prediction.parts import (
    BadPart,
    Part,
    RowKeys,
    cut_into_parts,
    part_path,
    read_part,
    read_row_keys,
    row_keys_are_whole,
    write_part,
    write_row_keys,
)

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


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "rows": lambda rows: rows + 100,
        "rows ": lambda rows: rows - 3,
        "rows  ": lambda rows: rows * 0,
        "rows   ": lambda rows: rows + 0.5,
        "logits": lambda logits: logits[:, :2],
        "logits ": lambda logits: logits.astype(str),
        "swapped_logits": lambda logits: logits[:1],
        "failed": lambda failed: failed + 77,
        "tokens": lambda tokens: -tokens,
        "tokens ": lambda tokens: tokens[:1],
        "seconds": lambda seconds: seconds * np.nan,
    }.items(),
)
def test_a_part_that_no_prediction_writes_is_found_out_whatever_its_checksum(part, tmp_path, name, change):
    name = name.strip()
    write_part(tmp_path, 0, dataclasses.replace(part, **{name: change(getattr(part, name))}), PROVENANCE)
    with pytest.raises(BadPart):
        read_part(part_path(tmp_path, 0), PROVENANCE, rows=10)


@pytest.mark.parametrize("seal", [b"[1]", b"{", b"{}", b"[" * 100_000, b'{"part": NaN}', b"\xff"])
def test_a_seal_of_any_other_form_is_found_out(part, tmp_path, seal, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *_, **__: seal.decode("latin-1"))
    write_part(tmp_path, 0, part, PROVENANCE)
    monkeypatch.undo()
    with pytest.raises(BadPart):
        read_part(part_path(tmp_path, 0), PROVENANCE)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_that_says_it_is_huge_takes_no_memory(tmp_path, compression):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**40},), }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w", compression) as file:
        file.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1 << 20))
    with pytest.raises(BadArrays):
        read_npz(tmp_path / "huge.npz", ["a"])


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadArrays):
        read_npz(tmp_path / "a.npz", ["a"])
    with pytest.raises(BadArrays):
        read_npy((tmp_path / "a.npy").read_bytes())


def test_damaged_keys_of_rows_are_told_and_written_again(tmp_path):
    keys = RowKeys(np.arange(3, dtype=np.uint64), np.ones((3, 2), np.int64), None)
    write_row_keys(tmp_path, keys)
    assert row_keys_are_whole(tmp_path, keys)
    path = tmp_path / "rows.npz"
    for content in (b"", b"hello", path.read_bytes()[:-40]):
        path.write_bytes(content)
        assert not row_keys_are_whole(tmp_path, keys)
        with pytest.raises(UserError, match=r"rows\.npz.*run the same prediction again"):
            read_row_keys(tmp_path)
