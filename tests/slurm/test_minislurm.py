"""The small cluster itself."""

import subprocess
import time

import pytest
from minicluster import MINISLURM, ROOT, cluster_of

pytestmark = pytest.mark.slow


def down_nodes(cluster) -> set[str]:
    return set(cluster.slurm("sinfo", "-h", "-N", "-t", "down", "-o", "%N").split())


def test_clusters_coexist_with_and_without_namespaces(tmp_path):
    with (
        cluster_of(tmp_path / "one", 3) as one,
        cluster_of(tmp_path / "two", 2) as two,
        cluster_of(tmp_path / "three", 2, MINISLURM_MODE="loopback") as three,
    ):
        assert sorted(one.slurm("srun", "-N3", "hostname").split()) == ["n1", "n2", "n3"]
        assert sorted(two.slurm("srun", "-N2", "hostname").split()) == ["n1", "n2"]
        words = ["srun", "-N2", "--gpus-per-node=1", "sh", "-c", "echo $SLURMD_NODENAME:$CUDA_VISIBLE_DEVICES"]
        assert sorted(three.slurm(*words).split()) == ["n1:0", "n2:0"]
        assert "needs namespaces" in three("cut", "n1", code=1)
        assert one("env") == f"export SLURM_CONF={tmp_path}/one/slurm.conf\n"
        assert "already up" in one("up")
        assert "n3" in one("status")
        two.slurm("sbatch", "--hold", "--output=/dev/null", "--wrap", "true")
        assert two("down") == f"2 nodes are down; jobs that ended with them: 1; Slurm's logs: {tmp_path}/two\n"
        assert two("down") == f"not up: {tmp_path}/two\n"
    assert "not up" in one("status", code=1)


def test_faults_are_seen_by_slurm_and_heal(folder):
    with cluster_of(folder, 3, MINISLURM_TIMEOUT="3") as cluster:
        cluster("kill", "n1")
        cluster("poweroff", "n2")
        cluster("cut", "n3")
        deadline = time.monotonic() + 200
        while down_nodes(cluster) != {"n1", "n2", "n3"}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for node in ("n1", "n2", "n3"):
            cluster("heal", node)
        while "down" in (status := cluster.slurm(MINISLURM, "status", code=None)) or "*" in status.replace("main*", ""):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(cluster.slurm("srun", "-N3", "hostname").split()) == 3
        assert "n1 to n3" in cluster("kill", "n4", code=1)


def test_a_folder_with_something_else_in_it_is_left_alone(folder):
    folder.mkdir()
    (folder / "thesis.tex").touch()
    with pytest.raises(AssertionError, match="holds something else"), cluster_of(folder, 3):
        pass
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_help_is_the_head_of_the_file():
    done = subprocess.run([MINISLURM], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for verb in ("install", "up [NODES]", "env", "status", "down", "kill NODE", "poweroff NODE", "cut", "heal"):
        assert f"minislurm {verb}" in done.stderr.replace('eval "$(', "")
    asked = subprocess.run([MINISLURM, "--help"], capture_output=True, text=True, check=True)
    assert (asked.stdout, asked.stderr) == (done.stderr, "")


def test_a_jobs_hostfile_and_meeting_place(cluster, tmp_path):
    script = tmp_path / "meet.sh"
    script.write_text(
        "#!/bin/bash\nlaunch/hostfile.sh\n. launch/slurm_env.sh\n"
        "echo $MASTER_ADDR $GLOO_SOCKET_IFNAME $NCCL_SOCKET_IFNAME $MASTER_PORT\n"
    )
    options = ["--wait", "--exclusive", "--nodes=2", "--ntasks-per-node=2", f"--chdir={ROOT}"]
    job = cluster.slurm("sbatch", "--parsable", *options, f"--output={tmp_path / 'out'}", script).strip()
    first, second, meeting = (tmp_path / "out").read_text().splitlines()
    assert first.endswith(" slots=2") and second.endswith(" slots=2") and first != second
    assert meeting == f"{first.split()[0]} eth0 eth0 {20000 + int(job) * 17}"
