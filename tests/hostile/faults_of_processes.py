"""Signals, kills and pauses; two commands at once; folders and tables that change under a command; clocks."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from fault_commands import COMMANDS, OUTPUT
from fault_harness import DONE, INTERRUPTED, MISTAKE, STOPPED, Fault, Place, Result, variables
from faults_of_folders import start_over_if_told

RUNS = ("train", "predict", "distill", "folds", "ladder", "pipeline", "report", "baseline")
CHAINS = ("folds", "ladder", "pipeline")
SLOW = {"predict.tokens_per_block": 1}
WAIT_S = 30.0


def until(place: Place, pid: int, seen, act) -> None:
    """Act once something is seen, unless the command ends before."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        if seen(place):
            act(place, pid)
            return
        time.sleep(0.002)


def after(place: Place, pid: int, seconds: float, act) -> None:
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        act(place, pid)


def send(place: Place, pid: int, number: int, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, number)


def twice(place: Place, pid: int) -> None:
    send(place, pid, signal.SIGINT)
    time.sleep(0.05)
    send(place, pid, signal.SIGINT)


def pause(place: Place, pid: int, seconds: float) -> None:
    send(place, pid, signal.SIGSTOP, group=True)
    time.sleep(seconds)
    send(place, pid, signal.SIGCONT, group=True)


def has(pattern: str):
    return lambda place: bool(list(place.folder.glob(pattern)))


def kill_a_rank(place: Place, pid: int, number: int = signal.SIGKILL) -> None:
    """One of two: the second child of the launcher."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if children:
        send(place, int(children[-1]), number)


def remove(place: Place, pid: int, name: str) -> None:
    shutil.rmtree(place / name, ignore_errors=True)


def move_away(place: Place, pid: int, name: str) -> None:
    (place / name).rename(place / f"{name}-moved")


def move_back(place: Place, name: str) -> None:
    if (place / f"{name}-moved").exists():
        (place / f"{name}-moved").rename(place / name)


def other_table(place: Place, pid: int) -> None:
    shutil.copy(place / "e.csv", place / "t.csv")


def put_back(place: Place, name: str = "t.csv") -> None:
    shutil.copy(place.home / "inputs" / name, place / name)


def begin_anew(place: Place, name: str, command: str) -> None:
    """The table as it was, and no output: only what the cache keeps is left of the first run."""
    put_back(place, name)
    shutil.rmtree(place / OUTPUT[command], ignore_errors=True)


def change_while_read(place: Place, name: str, call: int) -> None:
    """The table changes between two openings of it."""
    import builtins

    real, left = builtins.open, [call]

    def opened(file, *arguments, **options):
        if isinstance(file, (str, os.PathLike)) and os.path.basename(os.fspath(file)) == name:
            left[0] -= 1
            if left[0] == 0:
                lines = Path(name).read_text().splitlines(keepends=True)
                Path(name).write_text("".join([lines[0], *lines[:0:-1]]))
        return real(file, *arguments, **options)

    builtins.open = opened


def beside(place: Place, words: list[str]) -> None:
    """Another process runs the same command in the same folder."""
    with open(place.folder.parent / "other.out", "wb") as output:
        place.other = subprocess.Popen(
            [sys.executable, "-m", "tiebreak", *words],
            cwd=place.folder,
            env=variables(place, {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_for_other(place: Place, codes: tuple[int, ...] = (DONE, MISTAKE)) -> None:
    place.other.wait(timeout=90)


def other_ended_well(place: Place, result: Result) -> str:
    code = place.other.wait(timeout=90)
    text = (place.folder.parent / "other.out").read_text(errors="replace")
    if "Traceback" in text or code not in (DONE, MISTAKE) or (code == MISTAKE and result.code != DONE):
        return f"the other process: exit code {code}: {text[-300:]}"
    return ""


def faults() -> list[Fault]:
    chance = random.Random(5)
    found: list[Fault] = []
    for command in RUNS:
        for name, number, codes in (
            ("SIGINT", signal.SIGINT, (DONE, INTERRUPTED, STOPPED)),
            ("SIGTERM", signal.SIGTERM, (DONE, STOPPED, -signal.SIGTERM, 143)),
            ("SIGUSR2", signal.SIGUSR2, (DONE, STOPPED, -signal.SIGUSR2)),
            ("SIGHUP", signal.SIGHUP, (DONE, STOPPED, -signal.SIGHUP, INTERRUPTED)),
        ):
            for k in range(4 if name in ("SIGINT", "SIGTERM") else 1):
                group = name == "SIGINT" and k % 2 == 0
                seconds = chance.uniform(0.02, 1.5 if command not in CHAINS else 5.0)
                act = partial(send, number=number, group=group)
                found.append(
                    Fault(
                        f"{name}/{k} {'terminal' if group else 'process'}/{command}",
                        command,
                        codes=codes,
                        during=partial(after, seconds=seconds, act=act),
                    )
                )
        for k, seconds in enumerate((0.02, 0.1, 0.3, 0.8, 1.6, 3.0)):
            if command in ("train", "check", "report", "pipeline"):
                for name, number in (("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM)):
                    found.append(
                        Fault(
                            f"{name} during start/{k}/{command}",
                            command,
                            cold=True,
                            codes=(DONE, STOPPED, INTERRUPTED, -number, 143),
                            during=partial(
                                after,
                                seconds=seconds + chance.uniform(0, 0.2),
                                act=partial(send, number=number, group=name == "SIGINT"),
                            ),
                        )
                    )
        found.append(
            Fault(
                f"two SIGINTs/{command}",
                command,
                codes=(DONE, INTERRUPTED, STOPPED),
                during=partial(after, seconds=chance.uniform(0.2, 1.2), act=twice),
            )
        )
        for k in range(3):
            seconds = chance.uniform(0.05, 1.5 if command not in CHAINS else 5.0)
            found.append(
                Fault(
                    f"SIGKILL/{k}/{command}",
                    command,
                    codes=(DONE, -signal.SIGKILL),
                    during=partial(after, seconds=seconds, act=partial(send, number=signal.SIGKILL, group=True)),
                )
            )
        found.append(
            Fault(
                f"vanished input/{command}",
                command,
                codes=(DONE, MISTAKE, 1),
                during=partial(
                    after,
                    seconds=0.15,
                    act=partial(move_away, name="e.csv" if command in ("predict", "report") else "t.csv"),
                ),
                heal=partial(move_back, name="e.csv" if command in ("predict", "report") else "t.csv"),
            )
        )
        if command not in ("report", "baseline"):  # which are done as soon as they are seen
            first = OUTPUT[command].split("/")[0]
            for k, pattern in enumerate((first, f"{first}/*", f"{first}/*/*")):
                found.append(
                    Fault(
                        f"output removed/{k}/{command}",
                        command,
                        codes=(DONE, MISTAKE, 1),
                        during=partial(until, seen=has(pattern), act=partial(remove, name=first)),
                        compare=True,
                        heal=partial(start_over_if_told, command=command),
                    )
                )
    for command in ("train", "predict"):
        for name, number in (("SIGKILL", signal.SIGKILL), ("SIGTERM", signal.SIGTERM), ("SIGSEGV", signal.SIGSEGV)):
            for k in range(2):
                found.append(
                    Fault(
                        f"a rank dies, {name}/{k}/{command}",
                        command,
                        ranks=2,
                        limit_s=120,
                        exact=command != "train",
                        codes=(DONE, 1, 2, STOPPED),
                        during=partial(
                            after, seconds=chance.uniform(0.1, 1.5), act=partial(kill_a_rank, number=number)
                        ),
                    )
                )
        found.append(
            Fault(
                f"two at once/{command}",
                command,
                begin=partial(beside, words=COMMANDS[command][0]),
                codes=(DONE, MISTAKE),
                check=other_ended_well,
                heal=wait_for_other,
            )
        )
    for command in ("folds", "pipeline", "report"):
        found.append(
            Fault(
                f"two at once/{command}",
                command,
                begin=partial(beside, words=COMMANDS[command][0]),
                codes=(DONE, MISTAKE, 1),
                check=other_ended_well,
                heal=wait_for_other,
            )
        )
    words = [*COMMANDS["predict"][0], "--set", "predict.lease_s=2"]
    for k in range(3):
        found.append(
            Fault(
                f"SIGSTOP longer than the lease/{k}/predict",
                "predict",
                words,
                codes=(DONE,),
                begin=partial(beside, words=words),
                during=partial(after, seconds=chance.uniform(0.1, 1.0), act=partial(pause, seconds=6.0)),
                check=other_ended_well,
                heal=wait_for_other,
            )
        )
    for command, name in (("train", "t.csv"), ("predict", "e.csv"), ("baseline", "t.csv"), ("report", "e.csv")):
        for call in (1, 2, 3):
            found.append(
                Fault(
                    f"input changes while it is read/{call}/{command}",
                    command,
                    codes=(DONE, MISTAKE),
                    inside=partial(change_while_read, name=name, call=call),
                    heal=partial(begin_anew, name=name, command=command),
                    first_too=False,
                    always={"TIEBREAK_CACHE": "{folder}/cache"},
                )
            )
    return found
