"""Jobs in containers, by stand-ins that check their words; a site's own file; jobs whose shape cannot work."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from minicluster import LIMIT_S, ROOT, Cluster
from scenarios import TINY, Work, changes, losses

pytestmark = [pytest.mark.processes, pytest.mark.timeout(LIMIT_S)]
APPTAINER = """#!/bin/bash
# apptainer exec --bind SRC:DST,... --pwd DIR IMAGE COMMAND...
echo "apptainer $*" >>"$SAID"
[[ "$1 $2 $4" == "exec --bind --pwd" && $3 == "$5:$5"* && -d $5 && $6 == *.sif ]] || exit 99
exec "${@:7}"
"""
SRUN = """#!/bin/bash
# srun of a cluster with pyxis: its options are known, and the rest is srun's own.
words=()
for word in "$@"; do
  case $word in
    --container-*=*) echo "$word" >>"$SAID" ;;
    *) words+=("$word") ;;
  esac
done
exec %s "${words[@]}"
"""


@pytest.fixture
def stand_ins(tmp_path) -> dict[str, str]:
    """The environment of a cluster with both."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"apptainer": APPTAINER, "srun": SRUN % shutil.which("srun")}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SAID": str(tmp_path / "said")}


def test_ranks_run_in_an_image_of_apptainer_or_of_pyxis(cluster: Cluster, tmp_path, stand_ins):
    work, said = Work(cluster, tmp_path), Path(stand_ins["SAID"])
    job = work.submit("train_llama", "sif", 1, changes(*TINY), CONTAINER="/images/judge.sif", **stand_ins)
    assert "done: " in job.end() and len(losses(job.out)) == 4
    assert said.read_text().startswith(f"apptainer exec --bind {ROOT}:{ROOT} --pwd {ROOT} /images/judge.sif ")
    said.unlink()
    image = {"CONTAINER": "registry#judge:1", "CONTAINER_MOUNTS": "/models,/data"}
    job = work.submit("train_llama", "pyxis", 1, changes(*TINY), **image, **stand_ins)
    assert "done: " in job.end() and len(losses(job.out)) == 4
    assert said.read_text().splitlines() == [
        "--container-image=registry#judge:1",
        f"--container-mounts={ROOT}:{ROOT},/models:/models,/data:/data",
        f"--container-workdir={ROOT}",
    ]
    job = work.submit("train_llama", "other", 1, [], CONTAINER="x", CONTAINER_BY="podman", **stand_ins)
    assert "CONTAINER_BY=podman: set it to apptainer, singularity or pyxis" in job.end("FAILED")


def test_a_sites_own_file_is_read_before_anything_else(tmp_path):
    home = tmp_path / "home"
    shutil.copytree(ROOT / "launch", home / "launch")
    (home / "slurm").mkdir()
    shutil.copy(ROOT / "slurm" / "site.sh.example", home / "slurm" / "site.sh")
    script = '. launch/slurm_site.sh; echo "${ALONE[@]}"'

    def alone(**environment: str) -> str:
        command = ["bash", "-euc", script]
        return subprocess.check_output(command, cwd=home, env=os.environ | environment, text=True).strip()

    assert alone(PYTHON="") == ".venv/bin/python"  # the example, as it stands, changes nothing
    with open(home / "slurm" / "site.sh", "a") as file:
        file.write("PYTHON=/opt/conda/bin/python\n")
    assert alone(PYTHON="") == "/opt/conda/bin/python"


def test_jobs_of_a_shape_that_cannot_work_say_so(cluster: Cluster, tmp_path):
    batch = tmp_path / "batch.sh"
    batch.write_text(f"#!/bin/bash\ncd {ROOT}\n. launch/slurm_env.sh\necho begun\n")
    words = ["sbatch", "--wait", f"--output={tmp_path}/out", "--ntasks=1", "--cpus-per-task=1"]
    cluster.slurm(*words, ":", "--ntasks=1", batch, code=2)
    assert "this is a heterogeneous job (2 parts)" in (tmp_path / "out").read_text()
    cluster.slurm(*words, batch)
    assert "note: 1 CPU for each task" in (tmp_path / "out").read_text()


@pytest.mark.parametrize(
    "shape",
    [["--gpus-per-node=2"], ["--gres=gpu:2"], ["--gpus-per-node=0", "--gpus-per-task=1"]],
    ids=["gpus-per-node", "gres", "gpus-per-task"],
)
def test_every_task_has_a_gpu_however_they_are_asked_for(cluster: Cluster, tmp_path, shape):
    """Beside the line of the batch files, which Slurm merges with the command's words in ways of its own."""
    batch = tmp_path / "batch.sh"
    said = "echo $SLURM_LOCALID of ${CUDA_VISIBLE_DEVICES:-none}"
    (line,) = [
        line for line in (ROOT / "slurm/train_gemma.sbatch").read_text().splitlines() if "--gpus-per-node" in line
    ]
    batch.write_text(f"#!/bin/bash\n{line}\ncd {ROOT}\n. launch/slurm_env.sh\nsrun sh -c '{said}'\n")
    words = ["sbatch", "--wait", f"--output={tmp_path}/out", "--nodes=1", "--cpus-per-task=2"]
    cluster.slurm(*words, "--ntasks-per-node=2", *shape, batch)
    found = sorted((tmp_path / "out").read_text().splitlines())
    one_each = found == ["0 of 0", "1 of 1"]
    assert one_each or found == ["0 of 0,1", "1 of 0,1"], "cluster.machine.own_gpu takes either"
    assert one_each == ("--gpus-per-task=1" in shape)
    cluster.slurm(*words, "--ntasks-per-node=2", batch, code=2)
    assert "2 tasks on each node, and 1 GPU: a task is a rank, and needs one" in (tmp_path / "out").read_text()
