"""The environment, the folder that a command is run in, its streams, its limits, its locale."""

import os
import resource
import sys
from functools import partial

from fault_commands import COMMANDS, OUTPUT
from fault_harness import DONE, MISTAKE, Fault, Place, Result

QUICK = ("train", "predict", "report", "baseline", "check", "folds", "ensemble")
RANKS: dict[str, dict[str, str | None]] = {
    "RANK=x": {"RANK": "x"},
    "RANK alone": {"RANK": "0"},
    "RANK beyond": {"RANK": "5", "WORLD_SIZE": "2"},
    "RANK=-1": {"RANK": "-1", "WORLD_SIZE": "2"},
    "RANK without address": {"RANK": "0", "WORLD_SIZE": "2"},
    "WORLD_SIZE=0": {"RANK": "0", "WORLD_SIZE": "0"},
    "WORLD_SIZE=1e9": {"RANK": "0", "WORLD_SIZE": "1e9"},
    "LOCAL_RANK=x": {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "x"},
    "MASTER_PORT=x": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
    "MASTER_PORT beyond": {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"},
    "SLURM_PROCID=x": {"SLURM_PROCID": "x", "SLURM_STEP_NUM_TASKS": "2"},
    "SLURM_STEP_NUM_TASKS=x": {"SLURM_STEP_NUM_TASKS": "x"},
    "SLURM tasks alone": {"SLURM_STEP_NUM_TASKS": "3"},
    "unicode digit": {"RANK": "²", "WORLD_SIZE": "2"},
}
HARMLESS: dict[str, dict[str, str | None]] = {
    "SLURM_ARRAY_TASK_ID=x": {"SLURM_ARRAY_TASK_ID": "x"},
    "SLURM_NTASKS_PER_NODE=4(x2)": {"SLURM_NTASKS_PER_NODE": "4(x2)", "SLURM_JOB_ID": "1"},
    "SLURM_MEM_PER_NODE=x": {"SLURM_MEM_PER_NODE": "x"},
    "SLURM_JOB_ID not UTF-8": {"SLURM_JOB_ID": os.fsdecode(b"\xff")},
    "LOCAL_WORLD_SIZE=0": {"LOCAL_WORLD_SIZE": "0"},
    "left from an interactive job": {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
    "WORLD_SIZE alone": {"WORLD_SIZE": "2", "MASTER_ADDR": "x"},
    "no HOME": {"HOME": None},
    "HOME nowhere": {"HOME": "/nonexistent"},
    "no PATH": {"PATH": None},
    "no USER": {"USER": None, "LOGNAME": None},
    "COLUMNS=x": {"COLUMNS": "x"},
    "COLUMNS=1": {"COLUMNS": "1"},
    "TMPDIR nowhere": {"TMPDIR": "/nonexistent"},
    "CUDA_VISIBLE_DEVICES": {"CUDA_VISIBLE_DEVICES": "7,x"},
    "TZ": {"TZ": "Nowhere/Nothing"},
    "MPLBACKEND": {"MPLBACKEND": "TkAgg"},
    "MPLCONFIGDIR": {"MPLCONFIGDIR": "/proc/nowhere"},
    "TERM": {"TERM": "nothing", "FORCE_COLOR": "1"},
}
COLD: dict[str, dict[str, str | None]] = {
    "PYTHONOPTIMIZE=2": {"PYTHONOPTIMIZE": "2"},
    "PYTHONIOENCODING=ascii": {"PYTHONIOENCODING": "ascii"},
    "PYTHONIOENCODING=cp932": {"PYTHONIOENCODING": "cp932"},
    "PYTHONIOENCODING=latin-1": {"PYTHONIOENCODING": "latin-1"},
    "LC_ALL=C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "PYTHONUNBUFFERED": {"PYTHONUNBUFFERED": "1"},
    "PYTHONDONTWRITEBYTECODE": {"PYTHONDONTWRITEBYTECODE": "1"},
    "PYTHONSAFEPATH": {"PYTHONSAFEPATH": "1"},
    "OMP_NUM_THREADS=x": {"OMP_NUM_THREADS": "x"},
    "HOME of a file": {"HOME": "/etc/passwd", "XDG_CACHE_HOME": "/etc/passwd", "HF_HOME": "/etc/passwd"},
}
SHADOWS = ("random", "csv", "json", "logging", "torch", "numpy", "yaml", "string", "signal", "argparse", "dataclasses")
"""Not those that Python itself imports before it comes to us, as types.py, nor tiebreak.py."""


def shadow(place: Place, name: str) -> None:
    (place / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")


def encode(place: Place, encoding: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=encoding)


def close(place: Place, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)


def onto(place: Place, number: int, path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.dup2(descriptor, number)
    os.close(descriptor)


def broken_pipe(place: Place, number: int = 1) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, number)
    os.close(writer)


def limit(place: Place, what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


def result_is_there(command: str):
    """Whatever its exit code: 0 only with a result."""

    def check(place: Place, result: Result) -> str:
        absent = [name for name in COMMANDS[command][1] if not (place / name).is_file()]
        return f"exit code 0 and no {absent[0]}" if result.code == DONE and absent else ""

    return check


def faults() -> list[Fault]:
    found: list[Fault] = []
    for command in QUICK:
        for kind, changes in RANKS.items():
            asks = command in ("train", "predict", "folds")
            found.append(
                Fault(
                    f"ranks, {kind}/{command}",
                    command,
                    environment=changes,
                    codes=(MISTAKE, 1) if command == "folds" else (MISTAKE,) if asks else (DONE, MISTAKE),
                    says="torchrun|srun" if asks else "",
                )
            )
        for kind, changes in HARMLESS.items():
            found.append(Fault(f"environment, {kind}/{command}", command, environment=changes, codes=(DONE,)))
        for kind, changes in COLD.items():
            if command in ("train", "report", "baseline", "check"):
                found.append(
                    Fault(
                        f"interpreter, {kind}/{command}",
                        command,
                        environment=changes,
                        codes=(MISTAKE,) if kind in ("PYTHONOPTIMIZE=2", "OMP_NUM_THREADS=x") else (DONE,),
                        cold=True,
                    )
                )
        for encoding in ("ascii", "cp932", "latin-1"):
            found.append(
                Fault(
                    f"encoding, {encoding}/{command}", command, inside=partial(encode, encoding=encoding), codes=(DONE,)
                )
            )
        for numbers in ((0,), (1,), (2,), (1, 2), (0, 1, 2)):
            found.append(
                Fault(
                    f"closed streams {numbers}/{command}",
                    command,
                    inside=partial(close, numbers=numbers),
                    codes=(DONE,),
                )
            )
        found.append(
            Fault(
                f"stdout full/{command}",
                command,
                inside=partial(onto, number=1, path="/dev/full"),
                codes=(DONE, MISTAKE, 1),
                says="stdout|standard output|output",
                check=result_is_there(command),
            )
        )
        found.append(
            Fault(f"stderr full/{command}", command, inside=partial(onto, number=2, path="/dev/full"), codes=(DONE,))
        )
        found.append(
            Fault(
                f"broken pipe/{command}",
                command,
                inside=broken_pipe,
                codes=(DONE, MISTAKE, 1),
                check=result_is_there(command),
            )
        )
        found.append(
            Fault(
                f"broken pipes both/{command}",
                command,
                inside=lambda place: (broken_pipe(place), broken_pipe(place, 2)),
                codes=(DONE, MISTAKE, 1),
                check=result_is_there(command),
            )
        )
        for kind, what, most in (
            ("40 files", resource.RLIMIT_NOFILE, 40),
            ("12 files", resource.RLIMIT_NOFILE, 12),
            ("files of 1 kB", resource.RLIMIT_FSIZE, 1_000),
            ("files of 60 kB", resource.RLIMIT_FSIZE, 60_000),
        ):
            found.append(
                Fault(
                    f"limit, {kind}/{command}",
                    command,
                    inside=partial(limit, what=what, most=most),
                    codes=(DONE, MISTAKE, 1) if command == "folds" else (DONE, MISTAKE),
                    check=result_is_there(command),
                )
            )
    for name in SHADOWS:
        for command in ("check", "train", "folds") if name in ("random", "csv") else ("check",):
            found.append(
                Fault(
                    f"a user's {name}.py/{command}", command, begin=partial(shadow, name=name), cold=True, codes=(DONE,)
                )
            )
    for command in ("train", "predict", "check", "baseline"):
        found.append(
            Fault(
                f"memory, 700 MB/{command}",
                command,
                cold=True,
                shell='ulimit -v 700000; "$@"',
                codes=(DONE, MISTAKE, 1),
                says="",
                check=result_is_there(command),
            )
        )
    for command in ("check", "predict", "train"):
        found.append(
            Fault(
                f"working folder is gone/{command}",
                command,
                cold=True,
                shell='mkdir gone && cd gone && rmdir ../gone && "$@"',
                codes=(MISTAKE,),
            )
        )
    found += [*pipes(), *odd_names()]
    return found


def odd_names() -> list[Fault]:
    """Tables and outputs whose names are not UTF-8, or odd in other ways."""
    found = []
    for kind, name in (
        ("not UTF-8", os.fsdecode(b"\xff\xe9")),
        ("out not UTF-8", os.fsdecode(b"\xff\xe9")),
        ("spaces", " a  b "),
        ("a dash", "-x"),
        ("signs", "a=b,c;d&e"),
    ):
        for command in (*QUICK, "pipeline", "decide", "export", "ladder"):

            def begin(place: Place, name: str = name) -> None:
                for table in ("t.csv", "e.csv"):
                    (place / f"{name}{table}").write_bytes((place / table).read_bytes())

            words = [f"./{name}{word}" if word in ("t.csv", "e.csv") else word for word in COMMANDS[command][0]]
            if "--out" in words and kind != "not UTF-8":
                words[words.index("--out") + 1] = f"./{name}{OUTPUT[command]}"

            before = "" if kind == "not UTF-8" else name

            def check(place: Place, result: Result, name: str = before, command: str = command) -> str:
                absent = [one for one in COMMANDS[command][1] if not (place / f"{name}{one}").is_file()]
                return f"no {absent[0]}" if absent else ""

            found.append(
                Fault(
                    f"odd names, {kind}/{command}",
                    command,
                    words,
                    begin=begin,
                    codes=(MISTAKE,) if kind == "out not UTF-8" else (DONE,),
                    check=None if kind == "out not UTF-8" else check,
                    compare=False,
                )
            )
    return found


def pipes() -> list[Fault]:
    """Commands before `| head -1`, as users type them."""
    found = []
    for command in ("train", "predict", "check", "report", "folds"):
        found.append(
            Fault(
                f"| head -1/{command}",
                command,
                cold=True,
                shell='"$@" | head -1; exit ${PIPESTATUS[0]}',
                codes=(DONE, MISTAKE, 1),
                check=result_is_there(command),
            )
        )
    for words in (["recipes"], ["--help"], ["train", "--help"], ["env"], ["weights"]):
        found.append(
            Fault(
                f"| head -1/{' '.join(words)}",
                "check",
                words,
                cold=True,
                shell='"$@" | head -1; exit ${PIPESTATUS[0]}',
                codes=(DONE,),
                compare=False,
            )
        )
        found.append(
            Fault(
                f"stdout full/{' '.join(words)}",
                "check",
                words,
                inside=partial(onto, number=1, path="/dev/full"),
                codes=(MISTAKE, 1),
                compare=False,
            )
        )
    return found
