"""The commands that faults are injected into, at their smallest, and what each leaves."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import yaml
from fault_harness import DONE, Fault, Place, run

TINY = ["train.max_steps=2", "train.save_every=1", "train.batch_size=8", "data.max_tokens=64"]
SET = [word for change in TINY for word in ("--set", change)]
TRAINED = {"recipe": "demo-deberta", "set": TINY}
CHAIN = {"folds": 2, "teachers": {"one": TRAINED}, "student": {"recipe": "distill-demo", "set": TINY}}
LADDER = {"variants": {"a": TRAINED, "b": {"recipe": "demo-deberta", "set": [*TINY, "train.lr=1.0e-4"]}}}
MODEL = "model/model.safetensors"

COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "train": (
        ["train", "--recipe", "demo-deberta", "--data", "t.csv", "--out", "run", "--resume", "auto", *SET],
        [f"run/{MODEL}", "run/metrics.json"],
    ),
    "distill": (
        ["distill", "--recipe", "distill-demo", "--data", "t.csv", "--teachers", "one=taught-0/oof,taught-1/oof",
         "--out", "d", "--resume", "auto", *SET],
        [f"d/{MODEL}", "d/metrics.json"],
    ),
    "folds": (
        ["folds", "--recipe", "demo-deberta", "--data", "t.csv", "--folds", "2", "--out", "f", *SET],
        ["f/predictions.csv", "f/metrics.json"],
    ),
    "ladder": (
        ["ladder", "ladder.yaml", "--data", "t.csv", "--fold", "0/2", "--out", "l"],
        ["l/0-a/held-out/predictions.csv", "l/1-b/held-out/predictions.csv"],
    ),
    "pipeline": (
        ["pipeline", "--recipe", "chain.yaml", "--data", "t.csv", "--test", "e.csv", "--out", "c"],
        ["c/submission.csv", "c/student/test/predictions.csv"],
    ),
    "predict": (["predict", "--model", "judge", "--data", "e.csv", "--out", "p"], ["p/predictions.csv"]),
    "merge": (["merge", "given"], ["given/predictions.csv"]),
    "ensemble": (["ensemble", "given", "other", "--out", "mean.csv"], ["mean.csv", "mean.csv.json"]),
    "report": (
        ["report", "given", "--labels", "e.csv", "--out", "r", "--resamples", "100"],
        ["r/metrics.json", "r/index.html"],
    ),
    "baseline": (
        ["baseline", "t.csv", "--folds", "2", "--out", "b"],
        ["b/prior.csv", "b/length.csv", "b/tfidf+length.csv", "b/tfidf+numbers.csv", "b/boosted.csv"],
    ),
    "check": (["check", "t.csv", "--out", "c.txt"], ["c.txt"]),
    "convert": (["convert", "t.csv", "--out", "v.csv"], ["v.csv"]),
    "sample": (["sample", "--rows", "40", "--profile", "short", "--out", "s.csv"], ["s.csv"]),
    "attack": (["attack", "--data", "e.csv", "--out", "a.csv"], ["a.csv"]),
    "merge-adapters": (["merge-adapters", "lora", "--out", "m", "--into-base"], ["m/model.safetensors"]),
    "decide": (
        ["decide", "given", "--calibrate", "e.csv", "--agree", "0.5", "--out", "k"],
        ["k/decisions.csv"],
    ),
    "leaderboard": (["leaderboard", "--data", "e.csv", "--out", "w"], ["w/leaderboard.json"]),
    "export": (
        ["export", "lora", "--merged", "--data", "e.csv", "--out", "x", "--tolerance", "9", "--agreement", "0"],
        ["x/model.safetensors"],
    ),
    "bench": (["bench", "bar.json", "--model", "judge", "--out", "n"], ["n/items.csv"]),
}  # fmt: skip
OUTPUT = {name: words[words.index("--out") + 1] for name, (words, _) in COMMANDS.items() if "--out" in words}
TRAIN = ["train", "--recipe", "demo-deberta", "--data", "t.csv"]
PREDICT = ["predict", "--data", "e.csv", "--model"]
MADE: dict[str, list[str]] = {
    "t.csv": ["sample", "--rows", "48", "--seed", "3", "--profile", "short", "--out", "t.csv"],
    "e.csv": ["sample", "--rows", "32", "--seed", "4", "--profile", "short", "--out", "e.csv"],
    "judge": [*TRAIN, *SET, "--out", "judge"],
    "lora": ["train", "--recipe", "demo-llama2", "--data", "t.csv", "--out", "lora", *SET],
    "given": [*PREDICT, "judge", "--out", "given"],
    "other": [*PREDICT, "judge", "--set", "data.max_tokens=32", "--out", "other"],
    "taught-0": [*TRAIN, "--fold", "0/2", "--out", "taught-0", *SET],
    "taught-1": [*TRAIN, "--fold", "1/2", "--out", "taught-1", *SET],
    "taught-0/oof": ["predict", "--model", "taught-0", "--data", "t.csv", "--fold", "0/2", "--out", "taught-0/oof"],
    "taught-1/oof": ["predict", "--model", "taught-1", "--data", "t.csv", "--fold", "1/2", "--out", "taught-1/oof"],
}
"""How the inputs are made that are not written by hand, in this order."""
ALONE = {
    **dict.fromkeys(("train", "folds", "baseline", "check", "convert", "sample"), ("t.csv", "e.csv")),
    **dict.fromkeys(("predict", "bench"), ("t.csv", "e.csv", "judge")),
    **dict.fromkeys(("merge", "ensemble", "report", "decide"), ("t.csv", "e.csv", "judge", "given", "other")),
}
"""The inputs that these commands need; the others are given all."""


def build(home: Path, commands: Collection[str] = tuple(COMMANDS)) -> Path:
    """Make the inputs of some commands, and run these undisturbed; returns the folder of those runs."""
    inputs, calm = home / "inputs", home / "calm"
    inputs.mkdir(parents=True)
    rows = [
        {"input": f"is it {k}?", "output_1": f"it is {k}.", "output_2": "no.", "label": 1 + k % 2} for k in range(8)
    ]
    (inputs / "bar.json").write_text(json.dumps(rows))
    (inputs / "chain.yaml").write_text(yaml.safe_dump(CHAIN))
    (inputs / "ladder.yaml").write_text(yaml.safe_dump(LADDER))
    needed = {name for command in commands for name in ALONE.get(command, MADE)}
    for name in (name for name in MADE if name in needed):
        succeed(Place(inputs, home), MADE[name])
    shutil.copytree(inputs, calm)
    for name in commands:
        words, results = COMMANDS[name]
        text = succeed(Place(calm, home), words)
        assert not (absent := [each for each in results if not (calm / each).is_file()]), (name, absent, text)
    return calm


def succeed(place: Place, words: Sequence[str]) -> str:
    """Run a command undisturbed; what it printed."""
    done = run(Fault("calm", "calm"), place, words, faulty=False)
    assert done.code == DONE, (words, done.code, done.text)
    return done.text


def place_for(fault: Fault, home: Path) -> Place:
    """A new folder with its own copies of the inputs."""
    folder = home / f"cases-{os.getpid()}" / fault.name.replace("/", "~").replace(" ", "-")[:150]
    shutil.copytree(home / "inputs", folder, copy_function=shutil.copy)
    return Place(folder, home)


def with_output(name: str) -> Callable[[Place], None]:
    """A step that puts the undisturbed run's output of a command into the folder, to go on from."""

    def begin(place: Place) -> None:
        first = Path(OUTPUT.get(name, "given")).parts[0]
        source = place.home / "calm" / first
        if source.is_dir():
            shutil.copytree(source, place / first, dirs_exist_ok=True)
        else:
            for file in source.parent.glob(f"{first}*"):
                shutil.copy(file, place / file.name)

    return begin
