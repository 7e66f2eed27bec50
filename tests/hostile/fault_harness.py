"""Inject a fault into a command, look at what its user sees, and run the same command again.

A command is forked from this process, which has imported everything already (tests/warm.py), unless what is tried is
its start. It runs in a folder of its own, with its own copies of the inputs, so that a fault spoils nothing else.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import warm  # noqa: E402

LIMIT_S = 60.0
patience = 1.0
"""Time limits are multiplied by this: more on a machine that does other work."""
DONE, MISTAKE, STOPPED, INTERRUPTED = 0, 2, 75, 130
ONCE = ("merge-adapters", "export")
"""What refuses a folder that is there, so that a second run would only say so."""
SENTENCE = re.compile(r"^tiebreak: \S", re.MULTILINE)
RAW_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass
class Place:
    """Where one fault is tried: the folder that the command runs in, and its inputs beside."""

    folder: Path
    home: Path
    other: subprocess.Popen | None = None
    """Another process that runs beside the command."""

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def damage(self, name: str, content: bytes) -> None:
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(content)


@dataclass(frozen=True)
class Result:
    """What the user saw of one command."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return self.out + self.err


Step = Callable[[Place], None]


def nothing(place: Place) -> None:
    """No step."""


@cache
def can_mount() -> bool:
    """Whether this user may mount, without which some faults cannot be made."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


@dataclass(frozen=True)
class Fault:
    """A fault, and what must come of it.

    Attributes:
        name: unique; `kind/what/command`.
        command: a name of `fault_commands.COMMANDS`.
        words: of the command in place of its own.
        begin: prepares the folder. inside: in the process before the command.
        during: while it runs, with its pid. heal: takes the fault away before the same command is run again.
        codes: exit codes that are right. says: what its output must hold, a pattern; with code 2 a sentence of one
            line must be there too. again: words of the second run, where the first tells the user to change them.
        environment: variables; None takes one away. cold: whether a new interpreter is needed.
        ranks: processes, as torchrun starts them. options: of that interpreter.
        check: what else must hold after the first run; returns what is wrong, or nothing.
        compare: whether the second run must end with the undisturbed result; exact: byte for byte, else it must only
            be there, as after another number of ranks; first_too: the first run as well, where it ends with 0.
        always: variables of both runs. needs: whether it can be tried here.
    """

    name: str
    command: str
    words: Sequence[str] | None = None
    begin: Step = nothing
    inside: Step = nothing
    during: Callable[[Place, int], None] | None = None
    heal: Step = nothing
    codes: tuple[int, ...] = (MISTAKE,)
    says: str = ""
    again: Sequence[str] | None = None
    environment: dict[str, str | None] = field(default_factory=dict)
    cold: bool = False
    ranks: int = 0
    shell: str = ""
    check: Callable[[Place, Result], str] | None = None
    compare: bool = True
    exact: bool = True
    first_too: bool = True
    always: dict[str, str | None] = field(default_factory=dict)
    limit_s: float = LIMIT_S
    needs: Callable[[], bool] = lambda: True


@dataclass
class Verdict:
    """What came of a fault."""

    told: bool
    survived: bool
    equal: bool
    lost: bool
    traceback: bool
    hang: bool
    wrong: list[str]
    results: list[Result]

    @property
    def fine(self) -> bool:
        return not self.wrong


def variables(place: Place, changes: dict[str, str | None]) -> dict[str, str]:
    """The environment of a command."""
    found = {**os.environ, "TIEBREAK_CACHE": str(place.home / "cache"), "PYTHONPATH": str(ROOT / "src")}
    for name, value in changes.items():
        found.pop(name, None)
        if value is not None:
            found[name] = value.format(folder=place.folder, home=place.home)
    return found


def run(fault: Fault, place: Place, words: Sequence[str], faulty: bool) -> Result:
    """Run the command once, with the fault or without; killed, with all that it started, when its time is up."""
    outputs = [place.folder.parent / f"{place.folder.name}.{name}" for name in ("out", "err")]
    environment = variables(place, fault.always | (fault.environment if faulty else {}))
    started = time.monotonic()
    if faulty and (fault.cold or fault.shell):
        pid = _start_cold(fault, place, words, environment, outputs)
    else:
        pid = _fork(fault, place, words, environment, outputs, faulty)
    if faulty and fault.during is not None:
        fault.during(place, pid)
    code = _wait(pid, started + patience * fault.limit_s)
    out, err = (path.read_bytes().decode(errors="replace") for path in outputs)
    return Result(code, out, err, time.monotonic() - started)


def _start_cold(fault: Fault, place: Place, words: Sequence[str], environment: dict, outputs: list[Path]) -> int:
    command = [sys.executable, "-m", "tiebreak", *words]
    if fault.shell:  # TIEBREAK stands for the command
        command = ["bash", "-c", fault.shell, "bash", *command]
    with open(outputs[0], "wb") as out, open(outputs[1], "wb") as err:
        process = subprocess.Popen(
            command, cwd=place.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
    process.returncode = 0  # waited for below, not by its own destructor
    return process.pid


def _fork(
    fault: Fault, place: Place, words: Sequence[str], environment: dict, outputs: list[Path], faulty: bool
) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in ((0, Path(os.devnull)), (1, outputs[0]), (2, outputs[1])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            descriptor = os.open(path, flags, 0o644)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), encoding="utf-8", errors="strict")  # noqa: SIM115
        raw = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115
        sys.stderr = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
        os.chdir(place.folder)
        os.environ.clear()
        os.environ.update(environment)
        if fault.ranks:
            warm.launch(fault.ranks)
        if faulty:
            fault.inside(place)
        warm.execute(True, list(words))
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        warm.end(code)
    finally:
        os._exit(120)  # as Python ends when its streams cannot be written to


def _wait(pid: int, deadline: float) -> int | None:
    """The exit code, negative for a signal; None if it was killed at the deadline."""
    code: int | None = None
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # and what it left behind
    if code is None:
        os.waitpid(pid, 0)
    return code


def judge(fault: Fault, place: Place, own: Sequence[str], calm: Path, results: Sequence[str]) -> Verdict:
    """Try a fault: what the user saw, and whether the same command then gives the undisturbed result.

    Args:
        fault: to inject.
        place: an empty folder with the inputs.
        own: words of the command.
        calm: the folder of the undisturbed run.
        results: the files that it leaves, by name below the folder.
    """
    words = fault.words if fault.words is not None else own
    fault.begin(place)
    first = run(fault, place, words, faulty=True)
    verdict = Verdict(False, False, False, False, False, first.code is None, [], [first])
    verdict.told = bool(SENTENCE.search(first.text)) or (not fault.says and first.code != MISTAKE)
    if first.code is None:
        verdict.wrong.append(f"hangs: not done after {patience * fault.limit_s:.0f} s")
    elif first.code not in fault.codes:
        verdict.wrong.append(f"exit code {first.code}, not {' or '.join(map(str, fault.codes))}")
    if first.code == MISTAKE and not SENTENCE.search(first.text):
        verdict.wrong.append("code 2 without a sentence")
    if fault.says and not re.search(fault.says, first.text, re.DOTALL | re.IGNORECASE):
        verdict.told = False
        verdict.wrong.append(f"nothing said like {fault.says!r}")
    if "Traceback (most recent call last)" in first.text or "Exception ignored" in first.text:
        verdict.traceback = True
        verdict.wrong.append("traceback")
    if (controls := set(RAW_CONTROL.findall(first.text))) and "wandb" not in fault.name:  # which colours its own lines
        verdict.wrong.append(f"control characters {controls}")
    if fault.check is not None and (found := fault.check(place, first)):
        verdict.lost = True
        verdict.wrong.append(found)
    same = differences(place.folder, calm, results, fault.exact)
    if first.code == DONE and fault.compare and fault.first_too:
        verdict.survived = not same
        if same:
            verdict.lost = True
            verdict.wrong.append(f"silently: exit code 0, yet {same}")
    fault.heal(place)
    if fault.compare and verdict.survived and fault.command in ONCE:
        verdict.equal = True
    elif fault.compare:
        second = run(fault, place, fault.again if fault.again is not None else words, faulty=False)
        verdict.results.append(second)
        same = differences(place.folder, calm, results, fault.exact)
        verdict.equal = second.code == DONE and not same
        if not verdict.equal:
            verdict.lost = True
            verdict.wrong.append(f"run again: exit code {second.code}, {same or 'the same result'}")
            verdict.hang |= second.code is None
            verdict.traceback |= "Traceback" in second.text
    return verdict


def differences(folder: Path, calm: Path, results: Sequence[str], exact: bool = True) -> str:
    """Which results are not those of the undisturbed run, byte for byte; empty where all are."""
    told = []
    for name in results:
        ours, theirs = folder / name, calm / name
        if not ours.is_file():
            told.append(f"{name} is absent")
        elif exact and ours.read_bytes() != theirs.read_bytes():
            told.append(f"{name} differs")
    return ", ".join(told)
