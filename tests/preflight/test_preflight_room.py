"""Memory, disk, versions and tables: each failure's sentence."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiebreak.cli import main
from tiebreak.cluster import machine
from tiebreak.config import load_recipe
from tiebreak.models.architectures import ARCHITECTURES
from tiebreak.models.demo import demo_folder
from tiebreak.preflight import room, tables, versions
from tiebreak.preflight.memory import GIB, estimate
from tiebreak.preflight.room import bytes_written, check_disk, check_memory
from tiebreak.preflight.tables import check_tables
from tiebreak.preflight.versions import check_versions, pinned, requirements

GEMMA = load_recipe("gemma2-9b")
NEEDS = estimate(GEMMA)


@pytest.mark.parametrize(
    ("there", "verdict"), [(NEEDS.gib * 0.88, "FAIL"), (NEEDS.gib * 1.05, "note"), (NEEDS.gib * 1.2, "ok")]
)
def test_memory_of_a_gpu_against_the_estimate_and_its_error(there, verdict):
    """The error is 10 %: below it the run cannot fit, within it perhaps."""
    found = check_memory(NEEDS, GEMMA, 1, there)
    assert found.verdict == verdict
    assert ("too little memory" in found.text) == (verdict == "FAIL")


def test_too_little_memory_says_what_to_do(capsys, tmp_path):
    """The base's size is read from its folder."""
    (tmp_path / "config.json").write_text(json.dumps(ARCHITECTURES["google/gemma-2-9b-it"]))
    changes = ["--set", "train.gradient_checkpointing=false", "--gpu-gib", "24"]
    assert main(["preflight", "--recipe", "gemma2-9b", "--model", str(tmp_path), *changes]) == 2
    told = capsys.readouterr().err
    assert "24.0 GiB on a GPU: too little memory" in told
    assert "lower train.tokens_per_micro_batch (8192); train.gradient_checkpointing=true" in told


def test_free_memory_is_what_counts(monkeypatch):
    monkeypatch.setattr(room, "gpu_memory", lambda: [(80 * GIB, 79 * GIB), (80 * GIB, 3 * GIB)])
    found = check_memory(NEEDS, GEMMA, 1, None)
    assert found.failed and "3.0 GiB free on a GPU of 80" in found.text


def test_without_a_gpu_nothing_is_compared_and_that_is_said(monkeypatch):
    monkeypatch.setattr(room, "gpu_memory", list)
    found = check_memory(NEEDS, GEMMA, 1, None)
    assert found.verdict == "note" and "no GPU here to compare with" in found.text
    assert check_memory(None, GEMMA, 1, None).verdict == "note"


def test_the_host_s_memory_is_shared_by_the_ranks_of_a_node(monkeypatch):
    recipe = load_recipe("demo-gemma2", ["model.base=google/gemma-2-2b-it"])
    needs = estimate(recipe, device="cpu")
    monkeypatch.setattr(room, "host_memory", lambda: int(1.5 * needs.gib * GIB))
    assert not check_memory(needs, recipe, 1, None).failed
    found = check_memory(needs, recipe, 2, None)
    assert found.failed and "too little memory" in found.text


def test_offloading_needs_room_on_the_host(monkeypatch):
    recipe = load_recipe("gemma2-9b", ["model.method=full"])
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    needs = estimate(recipe, "zero3", 8, ds={"zero_optimization": zero})
    assert needs.kept == 0 and needs.host > 9.24e9 * 16 / 8
    monkeypatch.setattr(room, "host_memory", lambda: 64 * GIB)
    found = check_memory(needs, recipe, 8, 80.0)
    assert found.failed and "go to the host, which has 8.0 for each: too little memory" in found.text


def test_limits_of_slurm_count(monkeypatch):
    free = machine.host_memory()
    assert free > 1 << 20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
    assert machine.host_memory() == 512 << 20 < free


def test_gpus_are_asked_of_the_driver(monkeypatch, tmp_path):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho '81559, 80000'\necho '81559, 300'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.gpu_memory() == [(81559 << 20, 80000 << 20), (81559 << 20, 300 << 20)]
    script.write_text('#!/bin/sh\ntest "$*" = "${*% -i 1}" && exit 9\necho \'81559, 300\'\n')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.gpu_memory() == [(81559 << 20, 300 << 20)], "others may be another job's"
    script.write_text("#!/bin/sh\necho 'No devices were found'\n")
    assert machine.gpu_memory() == []


def statvfs(free=1 << 40, inodes=1 << 20):
    return lambda path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_files=1 << 24, f_favail=inodes)


def test_too_little_disk(monkeypatch, tmp_path, capsys):
    demo_folder("demo-llama2")  # built at its first use; before, its size is not known
    monkeypatch.setattr(os, "statvfs", statvfs(free=1 << 20))
    out = tmp_path / "runs" / "new"
    assert main(["preflight", "--recipe", "demo-llama2", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert f"disk: {tmp_path}: 0.0 GiB free" in told and "too little disk: make room" in told
    assert not out.exists(), "nothing is made"


def test_checkpoints_that_make_way_count_as_room(monkeypatch, tmp_path):
    """A requeued job on a nearly full disk goes on."""
    monkeypatch.setattr(os, "statvfs", statvfs(free=0))
    needs, out = bytes_written(int(NEEDS.trained / 4), GEMMA), tmp_path / "run"
    assert check_disk(out, NEEDS, GEMMA, 1).failed
    checkpoint = out / "checkpoints" / "step-00000001" / "weights.safetensors"
    checkpoint.parent.mkdir(parents=True)
    with open(checkpoint, "wb") as file:
        file.truncate(needs)
    assert not check_disk(out, NEEDS, GEMMA, 1).failed


def test_a_full_disk_is_told_even_where_the_model_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "statvfs", statvfs(free=1 << 20))
    assert check_disk(tmp_path, None, GEMMA, 1).failed
    monkeypatch.setattr(os, "statvfs", statvfs())
    found = check_disk(tmp_path, None, GEMMA, 1)
    assert found.verdict == "note" and "whose size is not known" in found.text


def test_too_few_inodes(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "statvfs", statvfs(inodes=20))
    found = check_disk(tmp_path, NEEDS, GEMMA, 8)
    assert found.failed and "20 inodes free" in found.text
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**vars(statvfs(inodes=0)(path)) | {"f_files": 0}))
    assert not check_disk(tmp_path, NEEDS, GEMMA, 8).failed, "a file system that does not count them"


def test_a_checkpoint_s_size_is_weights_and_two_moments():
    """A run's folder holds keep + best + the one under way, each 12 bytes a weight, and two models of 4."""
    recipe = load_recipe("gemma2-9b", ["train.keep=3"])
    assert bytes_written(1_000, recipe) - bytes_written(0, recipe) == 1_000 * (12 * 5 + 8)


def test_supported_versions_are_those_of_pyproject():
    names = " ".join(requirements())
    assert "torch>=" in names and "flash-attn>=2.6.3; extra == 'gpu'" in requirements()
    assert pinned().keys() >= set(versions.NAMED)
    found = check_versions("cpu")
    assert not found.failed and all(name in found.text for name in versions.NAMED)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [("4.44.2", "transformers 4.44.2 is not supported (>="), (None, "transformers is not installed, supported is >=")],
)
def test_a_wrong_version(there, sentence, monkeypatch, capsys):
    real = versions.importlib.metadata.version

    def version(name):
        if name != "transformers":
            return real(name)
        if there is None:
            raise versions.importlib.metadata.PackageNotFoundError
        return there

    monkeypatch.setattr(versions.importlib.metadata, "version", version)
    assert main(["preflight", "--recipe", "demo-llama2"]) == 2
    assert sentence in capsys.readouterr().err


def test_versions_beyond_the_tested_ones_and_a_missing_extra_are_notes(monkeypatch):
    monkeypatch.setattr(versions, "requirements", lambda: ["torch>=2.13", "nowhere-attn>=1; extra == 'gpu'"])
    monkeypatch.setattr(versions, "pinned", lambda: {"torch": "2.12.9"})
    found = check_versions("cuda")
    assert found.verdict == "note"
    assert "torch is tested at 2.12.9" in found.text and "nowhere-attn is not installed" in found.text
    assert "nowhere" not in check_versions("cpu").text


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.csv", None, "no such file"),
        ("empty.csv", "", "the file is empty"),
        ("odd.csv", "id,prompt\n1,x\n", "missing column"),
        ("t.csv", "id,prompt,response_a,response_b\n1,a,b,c\n", "no label column (read are winner, "),
        (
            "some.csv",
            "id,prompt,response_a,response_b,winner\n1,a,b,c,\n",
            "1 bad row, the first: some.csv, row 1 (id 1): no label",
        ),
        ("t.xlsx", "x", "unknown format"),
    ],
)
def test_unreadable_data(name, content, sentence, tmp_path, capsys):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert main(["preflight", "--recipe", "demo-llama2", "--data", str(path)]) == 2
    assert f"data: {path}" in (told := capsys.readouterr().err) and sentence in told


def test_a_table_is_hashed_and_read_for_a_while_only(sample, monkeypatch):
    digest = hashlib.sha256(Path(sample).read_bytes()).hexdigest()[:12]
    assert check_tables([sample], "fail").text == f"{sample}: 400 rows read, sha256 {digest}"
    monkeypatch.setattr(tables, "READ_S", 0.0)
    assert check_tables([sample], "fail").text == f"{sample}: first 1 row read, sha256 {digest}"


def test_bad_rows_that_may_be_skipped_are_a_note(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,prompt,response_a,response_b,winner\n1,a,b,c,model_a\n2,a,b,c,nobody\n")
    assert check_tables([path], "fail").failed
    assert check_tables([path], "skip").verdict == "note"


def test_extra_tables_need_no_labels(tmp_path, capsys, monkeypatch, sample):
    monkeypatch.chdir(tmp_path)  # short names, which no line of the table breaks
    extra, labelled = Path("extra.csv"), Path("absent.csv")
    extra.write_text("id,prompt,response_a,response_b\n1,a,b,c\n")
    monkeypatch.setenv("TIEBREAK_PREFLIGHT", "1")
    words = ["distill", "--recipe", "demo-deberta", "--teachers", "bayes", "--extra", str(extra)]
    assert main([*words, "--data", str(labelled), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert ": 1 row read" in told.out
    assert "absent.csv: no such file" in told.err and "no label" not in told.err
