"""Nodes that do not come, do not answer or disagree about the time are named; the sums are checked."""

import json
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from tiebreak.cli import main
from tiebreak.cluster import meeting
from tiebreak.cluster.meeting import ClockServer, Node, meet, probe, probe_all
from tiebreak.cluster.ranks import Ranks
from tiebreak.config import load_recipe
from tiebreak.errors import UserError
from tiebreak.models.demo import demo_folder
from tiebreak.models.folder import MANIFEST_FILE
from tiebreak.preflight import network
from tiebreak.preflight.findings import FAIL, Finding, as_rows
from tiebreak.preflight.network import clock_finding, exchange

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def master(monkeypatch):
    """The environment of a job of two ranks whose first is this process."""
    for name in ("RANK", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port := free_port()))
    return port


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ("2(x2)", r"n2 \(ranks 2, 3\) did not sign in"),
        ("1,3", r"n2 \(ranks 2, 3\) did not"),
        (None, r"^ranks 2, 3 did"),
    ],
)
def test_an_unreachable_node_is_named_in_time(tasks, sentence, master, monkeypatch, tmp_path):
    """Four ranks on two nodes, of which the first has come; Slurm knows where the others are."""
    if tasks:
        script = tmp_path / "scontrol"
        script.write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    started = time.monotonic()
    neighbour = threading.Thread(target=sign_in, args=(master, 1))
    neighbour.start()
    with pytest.raises(UserError, match=sentence) as error:
        meet(Ranks(0, 4, 0), timeout_s=1)
    neighbour.join()
    assert "the other 2 ranks did" in str(error.value)
    assert time.monotonic() - started < 5


def sign_in(port: int, rank: int) -> dist.Store:
    tcp = dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5))
    store = dist.PrefixStore("preflight-0", tcp)
    store.set(f"here-{rank}", "other")
    store.add("here", 1)
    return store


@pytest.mark.slow
def test_a_first_node_that_cannot_be_reached_is_named(master):
    with pytest.raises(UserError, match=rf"{platform.node()} \(rank 1\) cannot reach 127.0.0.1:{master}, where rank 0"):
        meet(Ranks(1, 2, 0), timeout_s=1)


def test_clocks_are_compared_by_a_call():
    """On one machine the clocks are one: the difference is within its own error bound, and a shifted clock is seen."""
    answering = ClockServer()
    node = Node(1, "n2", "127.0.0.1", answering.port)
    ahead, error = probe(node)
    assert abs(ahead) <= error < 1
    answering.close()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as caller:
                caller.sendall(struct.pack("!d", time.time() + 90))

        threading.Thread(target=answer, daemon=True).start()
        silent, clocks = probe_all([node, Node(2, "n3", "127.0.0.1", server.getsockname()[1])], own_rank=1)
    assert silent == []
    assert clocks["n3"][0] == pytest.approx(90, abs=1)
    found = clock_finding(clocks)
    assert found.failed and f"n3 is {clocks['n3'][0]:+.3f} s off" in found.text and "set the clocks" in found.text
    assert clock_finding({"n2": (-2.5, 0.001)}).verdict == "note"
    assert clock_finding({"n2": (0.01, 0.001), "n3": (-0.02, 0.001)}).text.startswith("n3 is -0.020 s off")


def test_a_node_that_does_not_answer_is_named_from_where(monkeypatch):
    monkeypatch.setattr(meeting, "PROBE_S", 0.2)
    silent, clocks = probe_all([Node(4, "n5", "127.0.0.1", free_port())], own_rank=0)
    assert silent == [f"n5 cannot be reached from {platform.node()} (127.0.0.1: Connection refused)"]
    assert clocks == {}


def test_what_fails_on_another_node_is_told_with_its_name(master):
    """Two ranks in two threads, as on two nodes; the second has found its memory too small."""
    ranks = [Ranks(0, 2, 0), Ranks(1, 2, 0)]
    own = [[Finding("memory", "fits")], [Finding("memory", "too little memory", FAIL), Finding("versions", "as here")]]
    found: list = [None, None]

    def look(k: int) -> None:
        store = meet(ranks[k], 10)
        found[k] = exchange(store, ranks[k], own[k])
        if k == 0:  # it holds the store: the other reads first
            other.join()

    other = threading.Thread(target=look, args=(1,))
    other.start()
    look(0)
    assert as_rows(found[0]) == as_rows(found[1]), "every rank knows"
    by_check = [(row.check, row.verdict) for row in found[0]]
    assert by_check == [("memory", "ok"), ("memory", "FAIL"), ("nodes", "ok")]
    assert found[0][1].text == f"on {platform.node()}: too little memory"
    assert "2 ranks on" in found[0][2].text


def test_a_name_that_leads_to_loopback_is_reported(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(network.socket, "gethostbyname", lambda name: "127.0.1.1")
    (found,) = network._names_of_this_node()
    assert found.failed and "leads to 127.0.1.1: set GLOO_SOCKET_IFNAME" in found.text
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert network._names_of_this_node() == []


@pytest.mark.processes
def test_two_ranks_look_and_add(run):
    demo_folder("demo-llama2")
    launcher = ["torchrun", "--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    done = run(*launcher, "-m", "tiebreak", "preflight", "--recipe", "demo-llama2", "--timeout", 60, cold=True)
    rows = [line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    wanted = ["check", "recipe", "data", "model", "tokenizer", "memory", "disk", "versions", "nodes", "all-reduce"]
    assert [row for row in rows if row in wanted] == wanted
    assert re.search(r"all-reduce +right on 2 ranks, \d+\.\d+ GB/s a rank", done.stdout)
    assert done.stdout.count("check  ") == 1, "rank 0 alone speaks"


@pytest.mark.parametrize("command", ["train", "predict"])
def test_a_run_looks_first_where_it_is_told_to(command, tmp_path, monkeypatch, capsys):
    """As under the files in slurm/: in the same process, and it stops before anything is read or made."""
    out = tmp_path / "out"
    options = [command, "--out", str(out), "--data", str(tmp_path / "absent.csv")]
    if command == "predict":
        settings = {"recipe": load_recipe("demo-llama2").model_dump(mode="json"), "baselines": {}}
        (tmp_path / MANIFEST_FILE).write_text(json.dumps(settings))
        options += ["--model", str(tmp_path)]
    monkeypatch.setenv("TIEBREAK_PREFLIGHT", "1")
    assert main(options) == 2
    told = capsys.readouterr().err
    assert "the preflight failed (TIEBREAK_PREFLIGHT=0 skips it)" in told and "absent.csv: no such file" in told
    assert not out.exists()
    monkeypatch.setenv("TIEBREAK_PREFLIGHT", "0")
    assert main(options) == 2
    assert "the preflight failed" not in capsys.readouterr().err


def test_the_files_for_slurm_ask_for_it():
    text = (ROOT / "launch" / "slurm_env.sh").read_text()
    assert re.search(r"^export TIEBREAK_PREFLIGHT=\$\{TIEBREAK_PREFLIGHT:-1\}$", text, re.M)


def test_it_imports_no_torch_without_a_launcher():
    """It answers on a login node in a second; torch alone takes longer."""
    code = "import sys; from tiebreak.cli import main; main(['preflight', '--recipe', 'demo-llama2']); "
    done = subprocess.run(
        [sys.executable, "-c", code + "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "the network is not checked" in done.stdout


@pytest.mark.processes
def test_every_rank_ends_with_code_2(master, tmp_path):
    """Two processes, as of srun --kill-on-bad-exit, which asks the others to end at the first that fails."""
    command = [sys.executable, "-m", "tiebreak", "preflight", "--recipe", "demo-llama2", "--data", "/nowhere.csv"]
    ours = os.environ | {"WORLD_SIZE": "2", "PYTHONPATH": str(ROOT / "src")}
    ranks = [
        subprocess.Popen(command, env=ours | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    while all(rank.poll() is None for rank in ranks):
        time.sleep(0.005)
    for rank in ranks:
        rank.terminate()
    assert [rank.wait(timeout=120) for rank in ranks] == [2, 2]
    assert "/nowhere.csv: no such file" in ranks[0].stderr.read()
    assert ranks[1].stderr.read() == "", "rank 0 alone speaks"
