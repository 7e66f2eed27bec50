"""Hostile inputs as data, run and judged: each is told in one sentence with exit code 2, or gives the right result.

A case writes its files into a folder of its own and names the words of one command. What is to come out stands in
the case: words that the message must hold, a check of the result, or both, where either will do.
"""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
import warm  # noqa: E402

SECONDS, MEMORY = 60.0, 3 << 30
"""For one case; memory is beyond what the imports take."""
LONGEST_MESSAGE = 3_000
VERDICTS = ("right", "told", "unclear", "partial", "silent wrong", "hang", "traceback")
GOOD = VERDICTS[:2]
RESULTS = ("model", "predictions.csv", "index.html", "decisions.csv", "leaderboard.csv", "submission.csv", "model.onnx")
"""What a command leaves in its --out when it is done."""
_start = threading.Lock()
Words = Sequence[object]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    seconds: float
    timed_out: bool = False

    @property
    def message(self) -> str:
        """The error message, or nothing."""
        return self.err.rpartition("tiebreak: error: ")[2] if "tiebreak: error: " in self.err else ""


@dataclass(frozen=True)
class World:
    """Good material, made once: see `build_world`."""

    folder: Path

    def copy(self, name: str, to: Path, new: str | None = None) -> Path:
        """Copy a file or folder of the world into a case's folder."""
        source, target = self.folder / name, to / (new or name)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return target


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        make: fills the case's folder and returns the words of the command, without `tiebreak`.
        says: words that the message of an error holds; with `check` alone no error is right.
        check: of the result, raises AssertionError; without it only an error is right.
        heavy: whether a model is loaded or trained.
    """

    part: str
    kind: str
    name: str
    make: Callable[[Path, World], Words]
    says: tuple[str, ...] = ()
    check: Callable[[Path, Outcome], None] | None = None
    heavy: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.says and self.check is None:
            raise TypeError(f"{self.name}: a case without an expectation cannot fail")


@dataclass(frozen=True)
class Judgement:
    """What became of a case."""

    case: Case
    verdict: str
    why: str
    outcome: Outcome


def execute(words: Words, folder: Path, seconds: float = SECONDS, memory: int | None = MEMORY, **more: str) -> Outcome:
    """Run `tiebreak WORDS` in a folder, forked from the warm process, within bounds."""
    command = [sys.executable, "-m", "tiebreak", *map(str, words)]
    with _start:
        warm.understand(command, dict(os.environ))  # which starts the warm process, if it does not run
        started = time.monotonic()
        process = warm.Popen(
            command,
            cwd=folder,
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if memory is not None:
            used = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(process.pid, resource.RLIMIT_AS, (used + memory, used + memory))
    timed_out = False
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    texts = [stream.decode(errors="replace") for stream in (out, err)]
    return Outcome(process.returncode, *texts, time.monotonic() - started, timed_out)


def run_case(case: Case, world: World, folder: Path) -> Judgement:
    """Make a case's files, run it, and judge what came out."""
    folder.mkdir(parents=True)
    words = list(case.make(folder, world))
    before = _contents(folder)
    outcome = execute(words, folder, TIEBREAK_CACHE=str(world.folder / "cache"), **case.environment)
    verdict, why = _judge(case, folder, words, before, outcome)
    return Judgement(case, verdict, why, outcome)


def _judge(case: Case, folder: Path, words: list[object], before: dict[str, str], outcome: Outcome) -> tuple[str, str]:
    last = " ".join(outcome.err.split())[-300:]
    if outcome.timed_out:
        return "hang", f"{outcome.seconds:.0f} s: {last}"
    if outcome.code not in (0, 2) or "Traceback (most recent call last)" in outcome.err + outcome.out:
        return "traceback", f"exit code {outcome.code}: {last}"
    if outcome.code == 0:
        if case.check is None:
            return "silent wrong", f"exit code 0: {' '.join(outcome.out.split())[-200:]} {last}"
        try:
            case.check(folder, outcome)
        except Exception as error:  # a result that cannot even be read is none
            return "silent wrong", f"{type(error).__name__}: {error}"
        return "right", ""
    if not case.says:
        return "silent wrong", f"refused: {last}"
    message = outcome.message
    said = f"{message}\n{outcome.out}" if words[0] == "check" else message  # which prints what it finds
    if absent := [word for word in case.says if word.casefold() not in said.casefold()]:
        return "unclear", f"does not say {absent}: {message[:400]!r}"
    if len(message) > LONGEST_MESSAGE or any(not c.isprintable() and c != "\n" for c in message):
        return "unclear", f"{len(message)} characters: {message[:200]!r}"
    return _judge_remains(folder, words, before)


def _judge_remains(folder: Path, words: list[object], before: dict[str, str]) -> tuple[str, str]:
    """After an error: the inputs as they were, and no output that looks done."""
    after = _contents(folder)
    if changed := [name for name, digest in before.items() if after.get(name) != digest]:
        return "partial", f"changed: {changed[:3]}"
    if remains := [name for name in after if ".tmp-" in name]:
        return "partial", f"left: {remains[:3]}"
    if "--out" in words[:-1]:
        out = folder / str(words[words.index("--out") + 1])[:200]
        for path in [out] if out.suffix else [out / name for name in RESULTS]:
            if path.exists() and path.relative_to(folder).as_posix() not in before and not _was_folder(path, before):
                return "partial", f"wrote {path.name}"
    return "told", ""


def _was_folder(path: Path, before: dict[str, str]) -> bool:
    return path.is_dir() and any(f"/{path.name}/" in f"/{name}" for name in before)


def _contents(folder: Path) -> dict[str, str]:
    """A hash of each file below a folder, and where links lead, by name."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            key = path.relative_to(folder).as_posix().encode(errors="backslashreplace").decode()
            if path.is_symlink():
                found[key] = os.readlink(path)
            elif path.is_file() and path.stat().st_size < 1 << 26:
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run_all(cases: Sequence[Case], world: World, scratch: Path, jobs: int) -> list[Judgement]:
    """Run cases side by side, each in a folder of its own that goes when its verdict is good."""

    def run(numbered: tuple[int, Case]) -> Judgement:
        folder = scratch / f"{numbered[0]:04d}"
        judged = run_case(numbered[1], world, folder)
        if judged.verdict in GOOD:
            shutil.rmtree(folder, ignore_errors=True)
        return judged

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, enumerate(cases)))


def build_world(folder: Path, adapters: bool = True) -> World:
    """Tables, tiny judges (one of them of adapters, if asked for) and their predictions, unless they are there."""
    world = World(folder)
    made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if (folder / "done").is_file() and (folder / "done").read_text() == made_by:
        return world
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    short = ["--set", "train.max_steps=2", "--set", "data.max_tokens=96", "--set", "train.batch_size=8"]
    commands = [
        "sample --rows 60 --profile short --out t.csv".split(),
        "sample --rows 40 --seed 1 --profile short --no-labels --out test.csv".split(),
        ["train", "--recipe", "demo-deberta", "--data", "t.csv", "--out", "judge", *short],
        ["train", "--recipe", "demo-llama2", "--data", "t.csv", "--out", "lora", "--valid", "none", *short],
        "predict --model judge --data test.csv --out pred".split(),
        "predict --model judge --data t.csv --out own".split(),
        "predict --model lora --data test.csv --out lpred".split(),
        "attack --data t.csv --out attacked.csv".split(),
    ]
    for command in (each for each in commands if adapters or "lora" not in each):
        done = execute(command, folder, 400.0, None, TIEBREAK_CACHE=str(folder / "cache"))
        if done.code:
            raise RuntimeError(f"{command}: exit code {done.code}\n{done.err[-2000:]}")
    (folder / "done").write_text(made_by)
    return world
