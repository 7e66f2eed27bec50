"""Who is at fault when nobody gets on."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm

from tiebreak.cluster.watchdog import Heartbeat, describe


def signs(*places, counts=None):
    counts = counts or [7] * len(places)
    return [Heartbeat(f"n{k}", count, *place) for k, (place, count) in enumerate(zip(places, counts, strict=True))]


def test_a_rank_without_signs_is_named():
    at = (12, "computing")
    first, second = signs(at, at, at), signs(at, at, at, counts=[9, 7, 9])
    assert describe(first, second) == "no sign of life from rank 1 (n1, last at step 12, computing)"
    first[2] = second[2] = None
    assert describe(first, second).endswith("rank 1 (n1, last at step 12, computing), rank 2 (never heard of)")


def test_of_living_ranks_those_furthest_behind_are_named():
    places = [(12, "computing"), (12, "reading rows"), (12, "computing")]
    told = describe(signs(*places), signs(*places, counts=[9, 9, 9]))
    assert told == "rank 1 (n1, last at step 12, reading rows); the others wait at step 12, computing"


def test_if_all_stand_at_the_same_place_it_is_the_network():
    places = [(3, "saving")] * 2
    assert "a collective hangs" in describe(signs(*places), signs(*places, counts=[9, 9]))


def test_many_silent_ranks_are_counted():
    places = [(3, "computing")] * 100
    assert "and 92 more" in describe(signs(*places), signs(*places))


def steps_of(run: Path) -> int:
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.processes
def test_a_stopped_rank_is_named_and_the_job_ends_but_not_where_all_are_stopped_for_a_while(sample, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    out = tmp_path / "run"
    changes = ["train.timeout_s=4", "train.epochs=99", "train.batch_size=16", "data.max_tokens=128"]
    command = [sys.executable, "src/train.py", "--data", sample, "--out", out]
    command += [part for change in changes for part in ("--set", change)]
    ranks = []
    for rank in ("0", "1"):
        settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"} | meeting
        ranks.append(warm.Popen(command, env=os.environ | settings, stderr=subprocess.PIPE, text=True))
    try:
        deadline = time.monotonic() + 400

        def reach(steps: int) -> None:
            while steps_of(out) < steps:
                assert time.monotonic() < deadline and ranks[0].poll() is None
                time.sleep(0.1)

        reach(3)
        for number in (
            signal.SIGSTOP,
            signal.SIGCONT,
        ):  # as Slurm suspends a job, for longer than a rank may stand still
            for rank in ranks:
                rank.send_signal(number)
            time.sleep(6 if number == signal.SIGSTOP else 0)
        reach(steps_of(out) + 3)
        time.sleep(1)  # signs are left every 0.4 s: one of a step is there
        ranks[1].send_signal(signal.SIGSTOP)
        _, errors = ranks[0].communicate(timeout=200)
    finally:
        for rank in ranks:
            rank.kill()
        ranks[1].communicate()
    assert ranks[0].returncode == 1
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert "no progress for 4 s: no sign of life from rank 1 (" in errors
    found = re.search(r"last at step (\d+), (computing|evaluating|saving)", errors)
    assert found, errors
    assert 1 <= int(found[1]) <= steps[-1] + 1, "ranks leave their signs now and then, not at every step"
