"""The manifests of a prediction's folder, and folders of version 1."""

import json

import numpy as np
import pytest

from tiebreak.data.prediction_manifest import (
    AverageManifest,
    PredictionManifest,
    Provenance,
    read_merge_manifest,
    read_models_behind,
    read_prediction_manifest,
    write_prediction_manifest,
)
from tiebreak.data.predictions import read_predictions
from tiebreak.errors import UserError
from tiebreak.evaluation.metrics import softmax
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.prediction.finished import read_finished
from tiebreak.prediction.merge import merge, rows_per_second
from tiebreak.prediction.parts import Part, RowKeys, write_part, write_row_keys

VERSION_1 = {
    "parts": "parts-0123456789ab",
    "part_count": 1,
    "blocks": 1,
    "rows": 4,
    "swap": True,
    "adaptive": None,
    "seal": {"model": "m", "table": "t", "settings": "s"},
    "ids": "0d22cbc7e8aeb3ae1f2a7cda0bdc3a77d5b3be7d23fbe2b0e2f4ed2ae7cbd86f",
    "fingerprint": "m",
    "unreadable": [1],
    "reasons": {"1": "test.csv, row 2: response_a: not a JSON array"},
    "truncation": {"max_tokens": 256, "truncation": "spread", "prompt_cap": 256},
    "fold": None,
    "model": "runs/one/model",
    "class_shares": [0.4, 0.35, 0.25],
    "base": "demo-gemma2",
    "in_sample": [],
    "special": {
        "from": "0.1,0.1,0.8",
        "rows": {"empty": [2], "identical": []},
        "outputs": {"empty": [0.1, 0.1, 0.8], "identical": [0.1, 0.1, 0.8]},
    },
    "recipe": "demo-gemma2",
    "recipe_hash": "r",
}
"""prediction.json as version 1 wrote it."""
IDS = ["7", 'a "quoted", id', "é", "10"]


@pytest.fixture
def old_folder(tmp_path):
    """A finished prediction as version 1 left it, with ids.txt and no version; and its logits (2, 4, 3)."""
    from hashlib import sha256

    logits = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    parts = tmp_path / VERSION_1["parts"]
    parts.mkdir()
    ids = "".join(json.dumps(row_id) + "\n" for row_id in IDS).encode()
    (parts / "ids.txt").write_bytes(ids)
    write_row_keys(parts, RowKeys(np.arange(4), np.ones((4, 2), dtype=np.int64), None))
    rows = np.array([3, 1, 0, 2])
    codes = np.array([2, 0, 0, 0], dtype=np.int8)
    part = Part(rows, logits[0, rows], logits[1, rows], codes, np.array([9, 9]), np.array([0.5]))
    write_part(parts, 0, part, Provenance(**VERSION_1["seal"]))
    (tmp_path / "prediction.json").write_text(json.dumps(VERSION_1 | {"ids": sha256(ids).hexdigest()}))
    return tmp_path, logits


def test_a_folder_of_version_1_is_read_and_merged(old_folder):
    folder, logits = old_folder
    manifest = read_prediction_manifest(folder)
    assert isinstance(manifest, PredictionManifest) and manifest.version == 1
    assert manifest.provenance.table == "t" and manifest.degenerate.source == "0.1,0.1,0.8" and manifest.both_orders
    merged = merge(folder, keep_probabilities=True)
    ids, probabilities = read_predictions(folder / "predictions.csv")
    assert ids == IDS and merged.rows == 4 and merged.failed == 2
    expected = (softmax(logits[0]) + softmax(logits[1])[:, SWAPPED_CLASS]) / 2
    expected[[1, 3]], expected[2] = VERSION_1["class_shares"], [0.1, 0.1, 0.8]
    np.testing.assert_allclose(merged.probabilities, expected, rtol=1e-15)
    np.testing.assert_allclose(probabilities, expected, atol=2e-9)
    failed = (folder / "failed.csv").read_text()
    assert "test.csv, row 2" in failed and "10,the model's logits are not finite" in failed
    assert rows_per_second(folder) == 8
    finished = read_finished(folder)
    assert np.flatnonzero(finished.without_logits).tolist() == [1, 3]


def test_a_manifest_written_again_keeps_what_version_1_said(old_folder):
    folder, _ = old_folder
    manifest = read_prediction_manifest(folder)
    write_prediction_manifest(folder, manifest.model_copy(update={"version": 2}))
    again = read_prediction_manifest(folder)
    assert again == manifest.model_copy(update={"version": 2})
    stored = json.loads((folder / "prediction.json").read_text())
    assert stored["provenance"] == VERSION_1["seal"] and "seal" not in stored and stored["reasons"].keys() == {"1"}


def test_an_average_and_a_merge_of_version_1_are_read(old_folder, tmp_path):
    one = tmp_path / "both" / "one"
    one.mkdir(parents=True)
    (one / "prediction.json").write_bytes((old_folder[0] / "prediction.json").read_bytes())
    average = {"models": {"one": "runs/one/model"}, "table": "t", "rows": 4, "swap": True, "adaptive": None}
    (tmp_path / "both" / "prediction.json").write_text(json.dumps(average))
    assert read_prediction_manifest(tmp_path / "both") == AverageManifest(**average)
    assert [manifest.base for manifest in read_models_behind(tmp_path / "both")] == ["demo-gemma2"]
    (tmp_path / "merged.json").write_text('{"rows": 4, "predictions.csv": "abc", "token": "t"}')
    merged = read_merge_manifest(tmp_path)
    assert (merged.file, merged.sha256, merged.rows, merged.seconds) == ("predictions.csv", "abc", 4, None)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"models": 3}', json.dumps(VERSION_1)[:-30], "\udcff"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / "prediction.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"prediction\.json.*predict again"):
        read_prediction_manifest(tmp_path)
    assert read_models_behind(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 10**15},
        {"rows": -1},
        {"part_count": 10**12},
        {"part_count": -1},
        {"parts": ".."},
        {"parts": "/etc"},
        {"parts": "a\0b"},
        {"class_shares": [9, 9, 9]},
        {"class_shares": [-1, 1, 1]},
        {"unreadable": [4]},
        {"unreadable": [-1]},
        {"reasons": {"4": "x"}},
        {"special": {"from": "x", "rows": {"empty": [4]}, "outputs": {"empty": [0.2, 0.3, 0.5]}}},
        {"special": {"from": "x", "rows": {"empty": [1]}, "outputs": {}}},
        {"swap": False, "adaptive": 0.3},
        {"version": 10**30},
        {"models": {}},
        {"models": {"../x": "y"}, "table": "t"},
    ],
    ids=str,
)
def test_what_no_prediction_says_of_itself_is_told(tmp_path, change):
    (tmp_path / "prediction.json").write_text(json.dumps({**VERSION_1, **change}))
    with pytest.raises(UserError, match=r"prediction\.json.*again"):
        read_prediction_manifest(tmp_path)


def test_more_rows_than_the_parts_can_hold_take_no_memory(old_folder):
    folder, *_ = old_folder
    path = folder / "prediction.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": 2**31 - 1}))
    with pytest.raises(UserError, match="too small for the 2,147,483,647 rows"):
        read_finished(folder)
