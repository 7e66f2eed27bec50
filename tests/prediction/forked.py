"""Processes that predict into one folder, forked from this one, which has imported everything."""

import contextlib
import io
import os
import signal
import time
from pathlib import Path

import peft  # noqa: F401  # imported before forking

from tiebreak import leases
from tiebreak.cli import main
from tiebreak.prediction import models  # noqa: F401

LEASE_S = 0.6
DEADLINE_S = 120


def start(model: Path, table: Path, out: Path, machine: str | None = None, extra: tuple[str, ...] = ()) -> int:
    """The pid of a process that predicts; `machine` is where it claims to be."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(out.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if machine is not None:
        leases._machine = lambda: machine
    code = 1
    try:
        code = main([*command(model, table, out), *extra])
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


def command(model: Path, table: Path, out: Path) -> list[str]:
    changes = ["--set", f"predict.lease_s={LEASE_S}", "--set", "predict.tokens_per_block=400"]
    return ["predict", "--model", str(model), "--data", str(table), "--out", str(out), "--swap", *changes]


def undisturbed(model: Path, table: Path, out: Path) -> float:
    """Predict in this process; its seconds. Forked processes must find the tokens: they cannot tokenise."""
    began = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(command(model, table, out)) == 0
    return time.monotonic() - began


def ended(pids: list[int], within: float) -> dict[int, int]:
    """The exit codes of those that ended within so many seconds; it returns early when all have."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + within
    while len(codes) < len(pids) and time.monotonic() < deadline:
        for pid in set(pids) - set(codes):
            if (status := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(status[1])
        time.sleep(0.005)
    return codes


def finish(pids: list[int], out: Path) -> None:
    """Wait for all; each must end well."""
    codes = ended(pids, DEADLINE_S)
    for pid in set(pids) - set(codes):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        codes[pid] = -1
    text = out.with_suffix(".txt").read_text()[-3000:]
    assert set(codes.values()) == {0}, f"exit codes {list(codes.values())} (-1: hung)\n{text}"
