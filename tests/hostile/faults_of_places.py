"""Disks that are full, quotas, places that cannot be written to, paths that are none, outputs over inputs."""

import errno
import os
import shutil
import socket
import subprocess
from functools import partial
from pathlib import Path

from fault_commands import COMMANDS, OUTPUT, SET
from fault_harness import DONE, MISTAKE, Fault, Place, Result, can_mount

SMALL, ROOMY = "24k", "64m"
CANNOT = "cannot be (written|made|read)|No space|Read-only|make room|Quota"
READERS = {
    "check": ["check", "{}"],
    "convert": ["convert", "{}", "--out", "v.csv"],
    "baseline": ["baseline", "{}"],
    "predict": ["predict", "--model", "judge", "--data", "{}", "--out", "p"],
    "labels": ["predict", "--model", "judge", "--data", "e.csv", "--labels", "{}", "--out", "p"],
    "valid": ["train", "--recipe", "demo-deberta", "--data", "t.csv", "--valid", "{}", "--out", "run", *SET],
    "recipe": ["train", "--recipe", "{}", "--data", "t.csv", "--out", "run"],
    "model": ["predict", "--model", "{}", "--data", "e.csv", "--out", "p"],
    "base": ["train", "--recipe", "demo-deberta", "--model", "{}", "--data", "t.csv", "--out", "run", *SET],
    "ds": ["train", "--recipe", "demo-deberta", "--data", "t.csv", "--ds", "{}", "--out", "run", *SET],
    "teachers": ["distill", "--data", "t.csv", "--teachers", "{}", "--out", "d", *SET],
    "extra": ["distill", "--data", "t.csv", "--teachers", "bayes", "--extra", "{}", "--out", "d", *SET],
    "ladder": ["ladder", "{}", "--data", "t.csv", "--out", "l"],
    "pipeline": ["pipeline", "--recipe", "{}", "--out", "c"],
    "test": ["pipeline", "--recipe", "chain.yaml", "--data", "t.csv", "--test", "{}", "--out", "c"],
    "judges": ["report", "{}", "--labels", "e.csv", "--out", "r"],
    "report-labels": ["report", "given", "--labels", "{}", "--out", "r"],
    "runs": ["report", "--runs", "{}", "--out", "r"],
    "card": ["report", "given", "--labels", "e.csv", "--model", "{}", "--out", "r", "--resamples", "100"],
    "ensemble": ["ensemble", "given", "{}", "--out", "mean.csv"],
    "fit": ["ensemble", "given", "other", "--fit", "{}", "--out", "mean.csv"],
    "merge": ["merge", "{}"],
    "adapters": ["merge-adapters", "{}", "lora", "--out", "m"],
    "export": ["export", "{}", "--merged", "--out", "x"],
    "decide": ["decide", "{}", "--calibrate", "e.csv", "--out", "k"],
    "calibrate": ["decide", "given", "--calibrate", "{}", "--out", "k"],
    "leaderboard": ["leaderboard", "--data", "{}", "--out", "w"],
    "bench": ["bench", "{}", "--model", "judge"],
    "compare": ["compare", "{}", "given", "--model", "judge"],
    "best-of": ["best-of", "{}", "--model", "judge"],
}
"""Each place where a command reads a path; `{}` stands for it."""


APART = ("decide over its predictions", "leaderboard over a prediction")
"""What these leave has other names, so that they may stand beside."""


def no_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(here)


PATHS = {
    "absent": "nowhere.csv",
    "empty": "",
    "too long": "x" * 5_000 + ".csv",
    "long name": "y" * 300 + ".csv",
    "link loop": "loop.csv",
    "dangling link": "dangling.csv",
    "folder": "folder.csv",
    "below a file": "t.csv/below.csv",
    "endless": "/dev/zero",
    "pipe": "pipe.csv",
    "socket": "socket.csv",
    "not UTF-8": os.fsdecode(b"\xff\xfe.csv"),
    "unreadable memory": "/proc/self/mem",
}


def begin_paths(place: Place) -> None:
    (place / "loop.csv").symlink_to("loop.csv")
    (place / "dangling.csv").symlink_to("nowhere.csv")
    (place / "folder.csv").mkdir()
    no_pipe(place / "pipe.csv")
    a_socket(place / "socket.csv")


def mount(place: Place, options: str, name: str = "disk") -> None:
    (place / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place / name)], check=True)


def remount(place: Place, options: str, name: str = "disk") -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place / name)], check=True)


def moved(command: str, folder: str) -> list[str]:
    """The command with its output below a folder."""
    words = list(COMMANDS[command][0])
    words[words.index("--out") + 1] = f"{folder}/{OUTPUT[command]}"
    return words


class Quota:
    """After some bytes nothing more can be written: a quota, as `os.fsync` and `write` tell it."""

    def __init__(self, code: int, calls: int) -> None:
        self.code, self.calls = code, calls

    def __call__(self, place: Place) -> None:
        real, left = os.fsync, [self.calls]

        def fsync(descriptor: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(self.code, os.strerror(self.code))
            real(descriptor)

        os.fsync = fsync


def over_input(name: str, path: str, command: str, words: list[str], linked: bool = False) -> Fault:
    """A command whose output is one of its inputs: refused, and the input stays as it was."""

    def begin(place: Place) -> None:
        if linked:
            (place / "also.csv").symlink_to(path)

    def check(place: Place, result: Result) -> str:
        before, now = place.home / "inputs" / path, place / path
        return "" if now.is_file() and now.read_bytes() == before.read_bytes() else f"the input {path} was overwritten"

    codes = (DONE, MISTAKE) if name in APART else (MISTAKE,)
    return Fault(f"output over input/{name}", command, words, begin=begin, check=check, compare=False, codes=codes)


def outputs_over_inputs() -> list[Fault]:
    given = {
        "check": ("t.csv", ["check", "t.csv", "--out", "t.csv"]),
        "check test": ("e.csv", ["check", "t.csv", "--test", "e.csv", "--out", "e.csv"]),
        "convert": ("t.csv", ["convert", "t.csv", "--out", "t.csv"]),
        "attack": ("e.csv", ["attack", "--data", "e.csv", "--out", "e.csv"]),
        "ensemble": ("given/predictions.csv", ["ensemble", "given", "other", "--out", "given/predictions.csv"]),
        "ensemble fit": ("e.csv", ["ensemble", "given", "other", "--fit", "e.csv", "--out", "e.csv"]),
        "ensemble of a folder": ("given/predictions.csv", ["ensemble", "given", "other", "--out", "given"]),
        "best-of": ("t.csv", ["best-of", "t.csv", "--model", "judge", "--out", "t.csv"]),
        "bench pairs": ("e.csv", ["bench", "e.csv", "--model", "judge", "--pairs", "e.csv"]),
        "predict over a run": ("judge/metrics.json",
            ["predict", "--model", "judge", "--data", "e.csv", "--labels", "auto", "--out", "judge"]),
        "predict over a model": ("judge/model/tiebreak.json",
            ["predict", "--model", "judge", "--data", "e.csv", "--labels", "auto", "--out", "judge/model"]),
        "train into a prediction": ("given/predictions.csv",
            ["train", "--recipe", "demo-deberta", "--data", "t.csv", "--out", "given", *SET]),
        "report over a run": ("judge/metrics.json",
            ["report", "given", "--labels", "e.csv", "--resamples", "100", "--out", "judge"]),
        "folds over a run": ("judge/metrics.json",
            ["folds", "--recipe", "demo-deberta", "--data", "t.csv", "--folds", "2", "--out", "judge", *SET]),
        "ladder over a run": ("judge/metrics.json", ["ladder", "ladder.yaml", "--data", "t.csv", "--out", "judge"]),
        "pipeline over a run": ("judge/metrics.json",
            ["pipeline", "--recipe", "chain.yaml", "--data", "t.csv", "--test", "e.csv", "--out", "judge"]),
        "merge-adapters over a run": ("lora/metrics.json", ["merge-adapters", "lora", "--out", "lora"]),
        "merge-adapters over its model": ("lora/model/tiebreak.json",
            ["merge-adapters", "lora", "--out", "lora/model"]),
        "export over a run": ("lora/metrics.json", ["export", "lora", "--merged", "--data", "e.csv", "--out", "lora"]),
        "export over its model": ("lora/model/tiebreak.json",
            ["export", "lora", "--merged", "--data", "e.csv", "--out", "lora/model"]),
        "decide over its predictions": ("given/predictions.csv",
            ["decide", "given", "--calibrate", "e.csv", "--agree", "0.5", "--out", "given"]),
        "leaderboard over a prediction": ("given/predictions.csv",
            ["leaderboard", "given", "--data", "e.csv", "--out", "given"]),
        "weights": ("judge/model/config.json", ["weights", "deberta-v3-xsmall", "--out", "judge/model"]),
    }  # fmt: skip
    found = [over_input(name, path, "check", words) for name, (path, words) in given.items()]
    found += [
        over_input(f"{name} by a link", path, "check", [("also.csv" if w == path and words[i - 1] == "--out" else w)
                   for i, w in enumerate(words)], linked=True)
        for name, (path, words) in given.items() if name in ("check", "convert", "attack", "ensemble fit")
    ]  # fmt: skip
    tables = ["baseline", "prior.csv", "--folds", "2", "--out", "."]

    def begin(place: Place) -> None:
        shutil.copy(place / "t.csv", place / "prior.csv")

    def check(place: Place, result: Result) -> str:
        same = (place / "prior.csv").read_bytes() == (place / "t.csv").read_bytes()
        return "" if same else "the table was overwritten"

    found.append(Fault("output over input/baseline", "check", tables, begin=begin, check=check, compare=False))

    def begin_other(place: Place) -> None:
        shutil.copy(place / "e.csv", place / "length.csv")

    def check_other(place: Place, result: Result) -> str:
        same = (place / "length.csv").read_bytes() == (place / "e.csv").read_bytes()
        return "" if same else "a table of the user's was overwritten"

    words = ["baseline", "t.csv", "--folds", "2", "--out", "."]
    found.append(
        Fault("output over another/baseline", "check", words, begin=begin_other, check=check_other, compare=False)
    )
    return found


def faults() -> list[Fault]:
    found: list[Fault] = []
    for command in OUTPUT:
        words, first = moved(command, "disk"), Path(OUTPUT[command]).parts[0]

        def linked(place: Place, first: str = first) -> None:
            if not (place / first).exists() and (place / "disk" / first).exists():
                (place / first).symlink_to(place / "disk" / first)
                for beside in (place / "disk").glob(f"{first}*"):
                    if not (place / beside.name).exists():
                        (place / beside.name).symlink_to(beside)

        for kind, options in (("disk full", f"size={SMALL}"), ("read-only", f"ro,size={ROOMY}")):

            def heal(place: Place, first: str = first) -> None:
                remount(place, f"rw,size={ROOMY},nr_inodes=0")
                (place / first).symlink_to(place / "disk" / first)
                (place / f"{first}.json").symlink_to(place / "disk" / f"{first}.json")

            codes = (
                (MISTAKE, 1, DONE) if kind == "disk full" and command in ("pipeline", "folds", "ladder") else (MISTAKE,)
            )
            if kind == "disk full" and command in SMALL_OUTPUTS:
                options = "size=4k,nr_inodes=1"
            found.append(
                Fault(f"{kind}/{command}", command, words, begin=partial(mount, options=options), heal=heal,
                      codes=codes if kind == "disk full" else (MISTAKE,), says=CANNOT, needs=can_mount)
            )  # fmt: skip
        heal_proc = lambda place: None  # noqa: E731
        found.append(
            Fault(f"ENOENT of the root/{command}", command, moved(command, "/proc/nowhere"), says=CANNOT,
                  heal=heal_proc, again=COMMANDS[command][0])
        )  # fmt: skip
        for name, out in (("a file", "t.csv/below"), ("too long", "z" * 300), ("link loop", "loop.csv")):
            found.append(
                Fault(f"output is none, {name}/{command}", command, moved(command, out), begin=begin_paths,
                      again=COMMANDS[command][0])
            )  # fmt: skip
        for code in (errno.EDQUOT, errno.EIO, errno.EROFS):
            found.append(
                Fault(f"{errno.errorcode[code]} while writing/{command}", command, inside=Quota(code, 0),
                      codes=(DONE, MISTAKE) if command == "sample" else (MISTAKE,))  # which streams its rows
            )  # fmt: skip
    for name, words in READERS.items():
        for kind, path in PATHS.items():
            found.append(
                Fault(f"path, {kind}/{name}", "check", [word.replace("{}", path) for word in words],
                      begin=begin_paths, compare=False, limit_s=25)
            )  # fmt: skip
    for command in ("train", "predict"):
        for kind, options in (("disk full", "size=4k"), ("read-only", "ro")):
            found.append(
                Fault(f"cache, {kind}/{command}", command, begin=partial(mount, options=options),
                      environment={"TIEBREAK_CACHE": "{folder}/disk"}, says="TIEBREAK_CACHE|make room",
                      heal=lambda place: remount(place, f"rw,size={ROOMY}"), needs=can_mount)
            )  # fmt: skip
        found.append(
            Fault(f"cache, ENOENT of the root/{command}", command, says="TIEBREAK_CACHE",
                  environment={"TIEBREAK_CACHE": "/proc/nowhere"})
        )  # fmt: skip
    return [*found, *outputs_over_inputs()]


SMALL_OUTPUTS = ("check", "ensemble", "convert", "sample", "attack", "baseline", "decide", "leaderboard", "bench")
