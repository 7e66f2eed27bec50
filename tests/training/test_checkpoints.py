"""What lies on disk: damage is found, old ones go, two runs in one folder, no room."""

import errno
import json
import random

import pytest
import torch
from safetensors.torch import load_file

from tiebreak.cli import main
from tiebreak.errors import UserError
from tiebreak.training import checkpoints
from tiebreak.training.checkpoints import find_checkpoint
from tiebreak.training.claim import take_over

pytestmark = pytest.mark.slow

CHANGES = [
    "train.batch_size=16",
    "data.max_tokens=128",
    "train.max_steps=4",
    "train.eval_every=3",
    "train.save_every=1",
]
OPTIONS = [part for change in CHANGES for part in ("--set", change)]


@pytest.fixture
def train(sample):
    def train(out, *options):
        return main(["train", "--data", str(sample), "--out", str(out), *OPTIONS, *options])

    return train


def model_of(out):
    return load_file(out / "model" / "adapter_model.safetensors")


def test_a_flipped_byte_in_any_file_is_found_and_an_older_checkpoint_used(train, tmp_path, capsys):
    out, chance = tmp_path / "run", random.Random(0)
    assert train(out, "--set", "train.keep=9") == 0
    expected = model_of(out)
    newest, passed = find_checkpoint(out / "checkpoints")
    assert newest.name == "step-00000004" and passed == []
    files = sorted(path.name for path in newest.iterdir())
    parts = ["optimizer-00000-of-00001.safetensors", "weights-00000-of-00001.safetensors"]
    assert files == ["cursor.json", "manifest.json", *parts]
    for name in files:
        whole = (newest / name).read_bytes()
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            (newest / name).write_bytes(damaged)
            found, passed = find_checkpoint(out / "checkpoints")
            assert found.name == "step-00000003", f"a flipped bit in {name} was not found"
            assert passed[0].startswith("step-00000004 was passed over")
        (newest / name).write_bytes(whole)
        (newest / name).rename(out / name)
        assert find_checkpoint(out / "checkpoints")[0].name == "step-00000003", f"{name} is missing"
        (out / name).rename(newest / name)
    (newest / "weights-00000-of-00001.safetensors").write_bytes(b"")
    assert train(out, "--resume", "auto", "--set", "train.keep=9") == 0
    text = capsys.readouterr().out
    assert "step-00000004 was passed over: weights-00000-of-00001.safetensors differs from its manifest" in text
    assert "resumed from step-00000003" in text
    for name, tensor in model_of(out).items():
        assert torch.equal(tensor, expected[name]), name


def test_the_newest_and_the_best_are_kept_and_nothing_else(train, tmp_path):
    out = tmp_path / "run"
    assert train(out, "--set", "train.keep=1", "--set", "train.lr=1e-9", "--set", "train.warmup=0.9") == 0
    best = json.loads((out / "metrics.json").read_text())["best_step"]
    assert {path.name for path in (out / "checkpoints").iterdir()} == {f"step-{step:08d}" for step in {best, 4}}


@pytest.mark.parametrize("sweeps", [False, True], ids=["while it is written", "and its beginning swept away"])
def test_a_later_run_in_the_same_folder_fences_the_earlier_one_off(sweeps, train, tmp_path, monkeypatch, capsys):
    """As when a requeued job starts beside the cut-off ranks of its first life."""
    out, honest = tmp_path / "run", checkpoints.save_file

    def other_run_starts(tensors, path):
        if "step-00000003" in str(path):
            take_over(out)
            if sweeps:
                checkpoints.sweep(out / "checkpoints")
        honest(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", other_run_starts)
    assert train(out, "--set", "train.keep=9") == 2
    assert "was taken over by a later run (process " in capsys.readouterr().err
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
    assert not (out / "model").exists()


def test_the_claim_of_the_latest_holds(tmp_path):
    first = take_over(tmp_path)
    first.check()
    second = take_over(tmp_path)
    second.check()
    with pytest.raises(UserError, match="taken over by a later run"):
        first.check()


def test_without_room_the_run_says_so_and_the_same_command_goes_on(train, tmp_path, monkeypatch, capsys):
    out, honest = tmp_path / "run", checkpoints.save_file

    def full(tensors, path):
        if "step-00000003" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        honest(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    assert train(out) == 2
    message = capsys.readouterr().err
    assert "the checkpoint could not be written" in message and "No space left on device" in message
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
    monkeypatch.undo()
    assert train(out, "--resume", "auto") == 0
    assert "resumed from step-00000002" in capsys.readouterr().out


def test_half_written_files_of_a_killed_run_are_swept(train, tmp_path):
    out = tmp_path / "run"
    assert train(out) == 0
    (out / "checkpoints" / ".tmp-step-00000009-abc").mkdir()
    (out / ".tmp-metrics.json-17").write_text("{")
    assert train(out, "--resume", "auto") == 0
    assert not list(out.rglob(".tmp-*"))


def test_a_damaged_checkpoint_is_out_of_the_way_and_a_damaged_best_one_is_not_taken(train, tmp_path):
    out = tmp_path / "run"
    assert train(out, "--set", "train.keep=9") == 0
    whole = out / "checkpoints"
    newest = find_checkpoint(whole)[0]
    best = checkpoints.load_cursor(newest).best_step
    (checkpoints.folder_of(whole, best) / "cursor.json").write_text("[]")
    found, passed = find_checkpoint(whole)
    assert found is not None and found.name < checkpoints.folder_of(whole, best).name and passed
    checkpoints.set_aside(whole, found)
    assert not checkpoints.folder_of(whole, best).exists() and list(whole.glob("damaged-step-*"))
    for path in whole.glob("step-*"):
        (path / "manifest.json").write_text("{}")
    assert find_checkpoint(whole)[0] is None
