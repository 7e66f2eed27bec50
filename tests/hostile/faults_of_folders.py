"""Outputs that are there already: damaged, half, stale, or another command's."""

import json
import random
import re
import shutil
from functools import partial
from pathlib import Path

from fault_commands import COMMANDS, OUTPUT, with_output
from fault_harness import DONE, MISTAKE, Fault, Place, Result

DAMAGES: dict[str, bytes | None] = {
    "absent": None,
    "empty": b"",
    "bytes": b"\xfe\xff\x00garbage\n",
    "a list": b"[]",
    "an empty object": b"{}",
    "a number": b"5",
    "null": b"null",
    "NaN": b'{"a": NaN}',
}
HALF, FLIPPED, FOLDER, TYPES, DEEP = "half", "a byte flipped", "a folder", "other types", "nested deeply"
UNDER = {
    "train": "run/**/*", "predict": "p/**/*", "pipeline": "c/**/*", "folds": "f/**/*", "ladder": "l/**/*",
    "report": "r/*", "ensemble": "mean*", "baseline": "b/*", "merge": "given/**/*", "decide": "k/*", "bench": "n/*",
    "leaderboard": "w/*",
}  # fmt: skip
KEPT = (".png", "tokenizer.json", "tokenizer_config.json", "README.md", "config.json", ".svg")
"""Files whose damage is of a model folder (corpus.py), or of a picture."""


def damage(place: Place, name: str, how: str) -> None:
    path = place / name
    if how == HALF:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == FLIPPED:
        content = bytearray(path.read_bytes() or b"x")
        content[len(content) * 2 // 3] ^= 0x11
        path.write_bytes(bytes(content))
    elif how == FOLDER:
        path.unlink()
        path.mkdir()
    elif how == TYPES:
        path.write_text(json.dumps(retyped(json.loads(path.read_text()))))
    elif how == DEEP:
        path.write_text('{"a":' * 5_000 + "1" + "}" * 5_000)
    elif DAMAGES[how] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGES[how])


def retyped(content: object) -> object:
    """The same keys with values of other types."""
    if isinstance(content, dict):
        return {key: retyped(value) for key, value in content.items()}
    return {str: 5, int: "x", float: ["x"], bool: {}, list: "x", type(None): [1]}[type(content)]


def begin(place: Place, command: str, name: str, how: str, undone: tuple[str, ...] = ()) -> None:
    with_output(command)(place)
    for one in undone:
        for path in list(place.folder.glob(one)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    damage(place, name, how)


def start_over(place: Place, command: str) -> None:
    """What the message asks for: another --out, or the old output moved away."""
    first = Path(OUTPUT.get(command, "given")).parts[0]
    for path in [place / first, *place.folder.glob(f"{first}.json")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in ("t.csv", "e.csv"):
        shutil.copy(place.home / "inputs" / name, place / name)
    for name in ("judge", "given", "other"):
        if not (place.home / "inputs" / name).is_dir():
            continue
        shutil.rmtree(place / name, ignore_errors=True)
        shutil.copytree(place.home / "inputs" / name, place / name)


UNDONE = {
    "train": ("run/metrics.json", "run/model"), "predict": ("p/merged.json", "p/predictions.csv"),
    "folds": ("f/predictions.csv", "f/metrics.json"), "ladder": ("l/metrics.json",),
    "pipeline": ("c/submission.csv", "c/metrics.json"),
}  # fmt: skip
"""What is taken away so that the command has something left to do."""


def damaged(home: Path) -> list[Fault]:
    """Every file that a command leaves, damaged in some ways; then the same command again."""
    found = []
    for command, pattern in UNDER.items():
        seen: set[str] = set()
        for path in sorted(path for path in (home / "calm").glob(pattern) if path.is_file()):
            file = str(path.relative_to(home / "calm"))
            alike = re.sub(r"fold-\d|[0-9a-f]{12}|step-\d+|part-\d+|^l/\d-.", "#", file)
            if path.name.endswith(KEPT) or (alike in seen and "step-00000002" not in file):
                continue
            seen.add(alike)
            ways = [*DAMAGES, HALF, FOLDER, FLIPPED] + ([TYPES, DEEP] if path.suffix == ".json" else [])
            if command in ("pipeline", "folds", "ladder"):
                ways = random.Random(file).sample(ways, 3)
            for how in ways:
                done, undone = _damaged(command, file, how), _damaged(command, file, how, UNDONE.get(command, ()))
                gone = any(file == one or file.startswith(f"{one}/") for one in UNDONE.get(command, ()))
                found += [done] if gone or command not in UNDONE else [random.Random(file + how).choice((done, undone))]
    return found


def _damaged(command: str, file: str, how: str, undone: tuple[str, ...] = ()) -> Fault:
    return Fault(
        f"damaged{', unfinished' if undone else ''}, {how}/{file}/{command}",
        command,
        begin=partial(begin, command=command, name=file, how=how, undone=undone),
        codes=(DONE, MISTAKE),
        heal=partial(start_over_if_told, command=command),
    )


def cache_damaged(home: Path) -> list[Fault]:
    """Every file of the token cache, damaged; then made anew."""
    found = []
    for command in ("train", "predict"):
        names = ("cache.json", "state.json", "dataset_info.json", "data-00000-of-00001.arrow", "skipped_rows.jsonl")
        for name in names:
            for how in (*DAMAGES, HALF, FLIPPED, FOLDER, *([TYPES] if name.endswith("json") else [])):

                def spoil(place: Place, name: str = name, how: str = how) -> None:
                    shutil.copytree(place.home / "cache", place / "cache")
                    for path in place.folder.glob(f"cache/tokens/*/{name}"):
                        damage(place, str(path.relative_to(place.folder)), how)

                found.append(
                    Fault(f"token cache, {how}/{name}/{command}", command, begin=spoil, codes=(DONE, MISTAKE),
                          environment={"TIEBREAK_CACHE": "{folder}/cache"})
                )  # fmt: skip
    return found


def more_words(command: str, *words: str) -> list[str]:
    return [*COMMANDS[command][0], *words]


def other_words(command: str, old: str, new: str) -> list[str]:
    return [new if word == old else word for word in COMMANDS[command][0]]


def changed(name: str, old: str, new: str):
    """A step: the file of the user's with another content."""

    def change(place: Place) -> None:
        path = place / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def shorter(place: Place, name: str = "t.csv") -> None:
    """The table without its last row, and other winners."""
    shutil.copy(place / "e.csv", place / name)


def other_judge(place: Place) -> None:
    shutil.rmtree(place / "judge")
    shutil.copytree(place / "taught-0", place / "judge")


def other_predictions(place: Place) -> None:
    shutil.copy(place / "other" / "predictions.csv", place / "given" / "predictions.csv")


def stale() -> list[Fault]:
    """Another command, or other inputs, into an output that is there: refused, or made anew, never passed off."""
    no = lambda place: None  # noqa: E731
    cases = [
        ("folds", more_words("folds", "--set", "train.lr=5.0e-3"), no),
        ("folds", other_words("folds", "demo-deberta", "demo-deberta-siamese"), no),
        ("folds", more_words("folds", "--swap"), no),
        ("folds", more_words("folds", "--model", "demo-deberta-random"), no),
        ("folds", other_words("folds", "2", "3"), no),
        ("folds", other_words("folds", "t.csv", "e.csv"), no),
        ("folds", COMMANDS["folds"][0], shorter),
        ("ladder", more_words("ladder", "--set", "train.lr=5.0e-3"), no),
        ("ladder", other_words("ladder", "0/2", "1/2"), no),
        ("ladder", COMMANDS["ladder"][0], changed("ladder.yaml", "1.0e-4", "7.0e-3")),
        ("ladder", COMMANDS["ladder"][0], shorter),
        ("pipeline", COMMANDS["pipeline"][0], changed("chain.yaml", "max_steps=2", "max_steps=1")),
        ("pipeline", COMMANDS["pipeline"][0], shorter),
        ("pipeline", other_words("pipeline", "e.csv", "t.csv"), no),
        ("predict", COMMANDS["predict"][0], other_judge),
        ("predict", more_words("predict", "--swap"), no),
        ("predict", more_words("predict", "--set", "data.max_tokens=32"), no),
        ("predict", other_words("predict", "e.csv", "t.csv"), no),
        ("predict", COMMANDS["predict"][0], partial(take_table, of="t.csv", name="e.csv")),
        ("train", more_words("train", "--set", "train.lr=5.0e-3"), no),
        ("train", more_words("train", "--fold", "0/2"), no),
        ("train", COMMANDS["train"][0], shorter),
        ("distill", COMMANDS["distill"][0], other_teacher),
        ("distill", other_words("distill", "t.csv", "e.csv"), no),
        ("report", COMMANDS["report"][0], other_predictions),
        ("ensemble", COMMANDS["ensemble"][0], other_predictions),
        ("baseline", COMMANDS["baseline"][0], shorter),
    ]  # fmt: skip
    found = []
    for k, (command, words, change) in enumerate(cases):

        def start(place: Place, command: str = command, change=change) -> None:
            with_output(command)(place)
            change(place)

        def check(place: Place, result: Result, command: str = command) -> str:
            stale = [name for name in COMMANDS[command][1] if (place / name).is_file()
                     and (place / name).read_bytes() == (place.home / "calm" / name).read_bytes()]  # fmt: skip
            return f"exit code 0 with what was there before: {stale}" if result.code == DONE and stale else ""

        for undone in ((), UNDONE.get(command, ())):

            def start_undone(place: Place, start=start, undone=undone) -> None:
                start(place)
                for one in undone:
                    path = place / one
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

            name = f"stale{', unfinished' if undone else ''}/{k} {getattr(change, '__name__', 'table')}/{command}"
            if undone or not UNDONE.get(command) or True:
                found.append(
                    Fault(name, command, words, begin=start_undone, codes=(DONE, MISTAKE), check=check, compare=False)
                )
            if not UNDONE.get(command):
                break
    return found


def take_table(place: Place, of: str, name: str) -> None:
    shutil.copy(place / of, place / name)


def other_teacher(place: Place) -> None:
    """The teachers' predictions were made anew, by another judge."""
    for k in (0, 1):
        shutil.rmtree(place / f"taught-{k}" / "oof")
        shutil.copytree(place / "given", place / f"taught-{k}" / "oof")


def leftovers() -> list[Fault]:
    """Outputs of another run, of which a part is left."""

    def checkpoints_alone(place: Place) -> None:
        shutil.copytree(place / "judge", place / "run")
        for path in (place / "run").iterdir():
            if path.name != "checkpoints":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def model_alone(place: Place) -> None:
        shutil.copytree(place / "taught-0" / "model", place / "run" / "model")
        shutil.copy(place / "taught-0" / "metrics.json", place / "run" / "metrics.json")

    def of_other_run(place: Place) -> None:
        shutil.copytree(place.home / "calm" / "run", place / "run")
        shutil.rmtree(place / "run" / "checkpoints")
        shutil.copytree(place / "lora" / "checkpoints", place / "run" / "checkpoints")

    def temporary(place: Place) -> None:
        with_output("train")(place)
        (place / "run" / "checkpoints" / ".tmp-step-00000009-x").mkdir()
        (place / "run" / ".tmp-log.jsonl-1-ab").write_text("x")
        (place / "run" / "checkpoints" / "step-00000009").write_text("a file")
        (place / "run" / "checkpoints" / "step-x").mkdir()
        (place / "run" / "checkpoints" / "step-99999999").mkdir()

    def claim_of_another(place: Place) -> None:
        with_output("train")(place)
        (place / "run" / "claim.json").write_text('{"token": "x"}')

    return [
        Fault(f"leftovers, {function.__name__}/train", "train", begin=function, codes=(DONE, MISTAKE),
              heal=partial(start_over_if_told, command="train"))
        for function in (checkpoints_alone, model_alone, of_other_run, temporary, claim_of_another)
    ]  # fmt: skip


def faults(home: Path) -> list[Fault]:
    return [*damaged(home), *cache_damaged(home), *stale(), *leftovers()]


def start_over_if_told(place: Place, command: str) -> None:
    """Do as the message says: choose another --out."""
    place_err = (place.folder.parent / f"{place.folder.name}.err").read_text(errors="replace")
    if "tiebreak: error" in place_err:
        start_over(place, command)
