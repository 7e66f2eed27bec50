"""Places that cannot be written to: one sentence for every command."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tiebreak.cli import main
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.files import new_folder, open_atomically
from tiebreak.labels import CLASSES
from tiebreak.preflight.room import check_cache, check_disk
from tiebreak.storage import cache_folder, explain, explain_shortage, make_folder
from tiebreak.tables.table import read_table

NOWHERE = "/proc/nowhere"
"""Not to be made by anyone, root included: ENOENT of its root."""


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """A folder on a read-only file system; only root can make one."""
    folder = tmp_path_factory.mktemp("read_only")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no read-only file system can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_what_was_to_be_written_is_named_with_what_to_do(code, monkeypatch, tmp_path):
    monkeypatch.setenv("TIEBREAK_CACHE", str(tmp_path / "cache"))
    full = code not in (errno.EROFS, errno.EACCES)
    for path, advice in ((tmp_path / "run" / "x", "--out"), (tmp_path / "cache" / "tokens", "TIEBREAK_CACHE")):
        told = str(explain(OSError(code, os.strerror(code), str(path))))
        assert str(path) in told and os.strerror(code) in told and "\n" not in told
        assert ("make room" if full else advice) in told
    assert "None" not in str(explain(OSError(errno.ENOSPC, "No space left on device")))


def test_errors_that_are_not_the_place_s_stay_what_they_are():
    assert explain(OSError("an error of a library")) is None
    assert explain(FileNotFoundError(errno.ENOENT, "No such file or directory", "/somewhere")) is None
    copied = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    assert "No space left" in str(explain(copied))


def test_a_path_of_any_length_makes_a_short_message():
    with pytest.raises(UserError, match="File name too long") as error:
        make_folder(Path("x" * 5000))
    assert len(str(error.value)) < 400


def test_a_folder_that_cannot_be_made(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    for made in (path, path / "below", Path(NOWHERE) / "x"):
        with pytest.raises(UserError, match=r"cannot be written.*--out"):
            make_folder(made)
    with pytest.raises(UserError, match="cannot be written"), new_folder(path / "below"):
        pass


def test_messages_name_the_file_and_not_its_temporary_name(tmp_path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(OSError) as error, open_atomically(tmp_path / "t.csv"):
        pass
    assert error.value.filename == str(tmp_path / "t.csv") and not list(tmp_path.glob(".tmp*"))


def test_no_home_folder(monkeypatch):
    monkeypatch.delenv("TIEBREAK_CACHE")
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UserError, match="set TIEBREAK_CACHE"):
        cache_folder()
    assert check_cache()[0].failed


@pytest.mark.parametrize("place", [NOWHERE, "{read_only}"])
def test_every_command_that_writes_says_so_in_one_sentence(place, request, sample, tmp_path, capsys):
    out = place.format(read_only=request.getfixturevalue("read_only")) if "{" in place else place
    header = ",".join(["id", *CLASSES])
    ids = [pair.id for pair in read_table(sample).pairs]
    (tmp_path / "p.csv").write_text(f"{header}\n" + "".join(f"{row_id},0.5,0.2,0.3\n" for row_id in ids))
    predictions = [str(tmp_path / "p.csv")]
    for words in (
        ["sample", "--rows", "10", "--out", f"{out}/s.csv"],
        ["train", "--recipe", "demo-llama2", "--data", str(sample), "--out", f"{out}/run"],
        ["check", str(sample), "--out", f"{out}/c.txt"],
        ["baseline", str(sample), "--folds", "2", "--out", f"{out}/b"],
        ["ensemble", *predictions * 2, "--out", f"{out}/e.csv"],
        ["report", *predictions, "--labels", str(sample), "--out", f"{out}/r", "--resamples", "100"],
        ["attack", "--data", str(sample), "--out", f"{out}/a.csv"],
        ["pipeline", "--recipe", "demo", "--data", str(sample), "--test", str(sample), "--out", f"{out}/chain"],
    ):
        assert main(words) == 2, words
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and out in told and "cannot be written" in told and "--out" in told, (words, told)


@pytest.mark.parametrize("place", [NOWHERE, "{read_only}"])
def test_a_cache_that_cannot_be_written(place, request, sample, tmp_path, capsys, monkeypatch):
    cache = place.format(read_only=request.getfixturevalue("read_only")) if "{" in place else place
    monkeypatch.setenv("TIEBREAK_CACHE", f"{cache}/c")
    for recipe, base in (("demo-llama2", "demo-llama2"), ("demo-deberta", "demo-deberta-random")):
        out = ["--out", str(tmp_path / "run")]
        assert main(["train", "--recipe", recipe, "--model", base, "--data", str(sample), *out]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and f"{cache}/c" in told and "set TIEBREAK_CACHE" in told, told
        assert "hub" not in told
    found = check_cache()
    assert found[0].failed and "TIEBREAK_CACHE" in found[0].text


def test_the_preflight_writes_and_removes_a_file(read_only, tmp_path, monkeypatch):
    recipe = load_recipe("demo-llama2")
    for out in (f"{NOWHERE}/run", f"{read_only}/run"):
        found = check_disk(Path(out), None, recipe, 1)
        assert found.failed and "--out" in found.text
    monkeypatch.setenv("TIEBREAK_CACHE", str(read_only))  # there, so perhaps complete
    assert check_cache()[0].verdict == "note"
    monkeypatch.setenv("TIEBREAK_CACHE", str(tmp_path / "new"))
    assert check_cache() == [] and list(tmp_path.iterdir()) == []


def test_a_folder_that_went_and_memory_that_ran_out_are_told(tmp_path):
    told = explain(FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "gone" / "file")))
    assert str(tmp_path / "gone") in str(told)
    assert "memory" in str(explain_shortage(MemoryError()))
    for text in ("error return without exception set", "libtorch.so: failed to map: Cannot allocate memory"):
        assert "memory ran out" in str(explain_shortage(SystemError(text)))
    told = str(explain_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ...")))
    assert "GPU" in told and "train.tokens_per_micro_batch" in told and "Tried" not in told
    assert "ulimit -u" in str(explain_shortage(RuntimeError("can't start new thread")))
    assert explain_shortage(RuntimeError("an error of ours")) is None
