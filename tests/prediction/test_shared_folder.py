"""Invariant 5: the same table, whoever computes it, whatever dies, is damaged or fills up meanwhile."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import command, finish, start, undisturbed

from tiebreak.cli import main
from tiebreak.data.prediction_manifest import read_prediction_manifest
from tiebreak.data.predictions import read_predictions
from tiebreak.prediction.parts import part_path, read_part, write_part

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def expected(model, table, tmp_path_factory):
    """The predictions of one undisturbed process, and its folder."""
    out = tmp_path_factory.mktemp("expected") / "one"
    undisturbed(model, table, out)
    with open(table, newline="", encoding="utf-8") as file:
        assert read_predictions(out / "predictions.csv")[0] == [row["id"] for row in csv.DictReader(file)]
    return (out / "predictions.csv").read_bytes(), out


@pytest.mark.processes
def test_invariant_5_every_id_gets_exactly_one_row_whatever_the_ranks_and_shards(run, model, table, expected, tmp_path):
    """The same bytes from two, three and four processes that know nothing of each other, and from torchrun."""
    for count in (2, 3, 4):
        out = tmp_path / str(count)
        finish([start(model, table, out, machine=f"machine {k}") for k in range(count)], out)
        assert (out / "predictions.csv").read_bytes() == expected[0]
        assert not list(out.rglob("*.lease"))
    launcher = ["torchrun", "--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    run(*launcher, "src/predict.py", *command(model, table, tmp_path / "torchrun")[1:])
    assert (tmp_path / "torchrun" / "predictions.csv").read_bytes() == expected[0]


@pytest.mark.processes
def test_processes_that_are_killed_at_random_leave_the_same_table(run):
    """The whole of it is `python tests/prediction/chaos.py --kills 200`."""
    told = run(sys.executable, "tests/prediction/chaos.py", "--kills", 8, "--rows", 100, timeout=900).stdout
    assert "8 kills, " in told and " 0 parts written again" in told


def test_bad_parts_are_reported_and_computed_again_and_good_ones_are_not(model, table, expected, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(expected[1], out)
    (parts,) = out.glob("parts-*")
    provenance = read_prediction_manifest(out).provenance
    path = [part_path(parts, index) for index in range(5)]
    path[0].write_bytes(path[0].read_bytes()[:-40])
    content = bytearray(path[1].read_bytes())
    content[content.index(read_part(path[1], provenance).logits.tobytes()) + 5] ^= 1
    path[1].write_bytes(content)
    part = read_part(path[2], provenance)
    write_part(parts, 2, part, provenance.model_copy(update={"model": "of a stranger"}))
    shutil.copy(path[4], path[3])
    kept = path[4].stat().st_mtime_ns

    assert main(["merge", str(out)]) == 2
    told = capsys.readouterr().err
    assert "4 parts cannot be used" in told and "part-0000002.npz: of another model" in told
    assert main(command(model, table, out)) == 0
    told = capsys.readouterr().out
    for index in (0, 1, 2, 3):
        assert f"part-000000{index}.npz: " in told
    assert told.count("computed again") == 4
    assert (out / "predictions.csv").read_bytes() == expected[0]
    assert path[4].stat().st_mtime_ns == kept, "a finished part was computed again"


def test_missing_parts_and_ids_are_made_again(model, table, expected, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(expected[1], out)
    (parts,) = out.glob("parts-*")
    for index in range(0, 10, 2):
        part_path(parts, index).unlink()
    (parts / "ids.jsonl").write_text('"1"\n')
    (out / "predictions.csv").unlink()
    assert main(command(model, table, out)) == 0
    assert (out / "predictions.csv").read_bytes() == expected[0]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 64 KiB, or where none may be mounted, one limited by a quota of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: " + mounted.stderr.decode().strip())
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_stops_with_a_sentence_and_the_command_continues_after_room_is_made(
    model, table, expected, small_disk: Path, capsys
):
    out = small_disk / "out"
    assert main(command(model, table, out)) == 2
    told = capsys.readouterr().err
    assert "No space left on device; make room and run the same command again" in told
    assert str(out) in told and "Traceback" not in told
    done = {path: path.stat().st_mtime_ns for path in out.glob("parts-*/part-*.npz")}
    assert done and not list(out.rglob("*.lease")) and not list(out.rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert main(command(model, table, out)) == 0
    assert (out / "predictions.csv").read_bytes() == expected[0]
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())


def test_two_orders_of_the_same_rows_are_each_others_mean(expected):
    whole = read_predictions(expected[1] / "predictions.csv")[1]
    orders = [read_predictions(expected[1] / f"predictions_{name}.csv")[1] for name in ("ab", "ba")]
    # Nine decimals are written.
    np.testing.assert_allclose(np.mean(orders, axis=0), whole, atol=2e-9)
