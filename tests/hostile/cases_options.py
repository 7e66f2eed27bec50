"""Options of the commands: numbers without bounds, words of another kind, files in each other's place."""

from pathlib import Path

from collecting import Make, Part, rows
from harness import Words, World

PART = Part("options")
FILES = ("t.csv", "test.csv", "own", "pred")


def words(*command: str) -> Make:
    """A command in a folder with tables and predictions, and the two judges through links."""

    def make(folder: Path, world: World) -> Words:
        for name in FILES:
            world.copy(name, folder)
        for name in ("judge", "lora"):
            (folder / name).symlink_to(world.folder / name)
        return command

    return make


DECIDE = "decide own --calibrate t.csv --out d"
BEST = "t.csv --model judge --out b.csv"
COMMANDS = {
    "sample --out s.csv": {"--rows": ["0", "-1", "1e9", "9999999999999", "ten"], "--rows 5 --seed": ["-1", "9" * 30, "1e400"]},
    "report own --labels t.csv --out r": {
        "--resamples": ["0", "-1", "999999999999", "nan"], "--seed": ["-1", "9" * 40], "--family": [""]},
    "baseline t.csv": {"--folds": ["0", "1", "-1", "999999999999", "nan"], "--classes": ["9"]},
    DECIDE: {"--agree": ["0", "-1", "2", "nan", "1e400"], "--certainty": ["0", "1", "nan", "1.1", "-inf"],
             "--cost": ["nan", "-1", "1e400"], "--calibrate": ["own"]},
    "leaderboard own --data t.csv --out l": {"--least-rows": ["-1", "999999999999", "0"], "--control": ["nothing", "length,length,evil"]},
    "predict --model judge --data test.csv --out p": {
        "--swap": ["adaptive:nan", "adaptive:2", "adaptive:-1", "adaptive:", "sometimes", "adaptive:1e400"],
        "--special": ["nan,0.5,0.5", "1e400,0,0", "-1,1,1", "0.5,0.5", "a,b,c", "0.9,0.9,0.9", ",,", "0,0,1"],
        "--fold": ["0/0", "5/5", "-1/5", "a/b", "0/999999999999", "0/1", "1e9/5", "0/5/5", "\u0663/5"],
        "--labels": ["own", "gone.csv"],
        "--set": ["predict.tokens_per_block=99999999999", "model.lora.r=5000000", "data.max_tokens=1e400"]},
    "train --recipe demo-deberta --data t.csv --out run": {
        "--fold": ["0/0", "7/5", "1/1000000000", "x"], "--valid": ["judge", "gone.csv"], "--ds": ["gone.json", "t.csv"],
        "--model": ["", ".", "..", "/", "t.csv", "~/x", "a/b/c", "-", "own", "judge/model/model.safetensors"]},
    "preflight --recipe demo-deberta --data t.csv": {
        "--nodes": ["0", "-1", "9999999999999", "nan"], "--gpus-per-node": ["0", "9999999999999"],
        "--gpu-gib": ["nan", "-5", "0", "1e400", "inf"], "--timeout": ["nan", "-1", "0", "1e300"],
        "--fake-world": ["0", "-2", "9999999999", "1e3"]},
    "export judge --merged --out o --data t.csv": {
        "--rows": ["0", "-1", "9" * 30], "--tolerance": ["nan", "-1", "1e400"], "--agreement": ["nan", "2", "-1"],
        "--temperature": ["nan", "0", "-1", "1e400"]},
    "folds --recipe demo-deberta --data t.csv --out f": {"--folds": ["0", "1", "-3", "1000000000"]},
    "bench t.csv --pairs b.csv": {"--alike": ["nan", "-1", "2", "1e400"]},
    "ladder demo --data t.csv --out o": {"--fold": ["0/0", "9/5", "0/1000000000"], "--launch": ["'", "nosuchprogram", "\x00"]},
    "ensemble own own --out e.csv --fit t.csv": {"--weights": ["nan", "1"]},
    "distill --data t.csv --out run": {"--teachers": ["gone", "t.csv", "own", "a=", "=b", "own,own", ","]},
    "merge-adapters --out o": {"lora --how": ["factors judge", "updates gone"]},
    "compare a b --model judge/model": {"--prompt x --json --set": ["a"]},
    "weights": {"": ["nope", "..", "../x", "--out", "-"]},
    "recipes": {"": ["nope", "..", "../recipes/demo-deberta", "/etc/passwd", "a\x00b", "", "--set"]},
    "pipeline --recipe demo --out o": {"--fold": ["0/5"], "--split time --fold": ["9/5"], "--stage": ["nope", ""], "--test": ["own"]},
}  # fmt: skip
SAYS = {
    ("baseline", "--classes"): "class",
    ("pipeline", "--test"): "--test",
    ("weights", ""): "weights",
    ("predict", "--set"): "recipe",
    ("compare", "--set"): "--set",
    ("merge-adapters", "--how"): "tiebreak",
}
"""What the message must hold, where that is not the option's name."""
NAMED = {"own,own": "own", ",": "--teachers ,", "-": "-:", "": "empty"}
FOR_FILES = ("--labels", "--valid", "--ds", "--model", "--test", "--teachers", "--calibrate", "")
"""Options whose message names what was given."""
SKIPPED = {("--special", "0,0,1"), ("--family", ""), ("--rows", "9" * 30), ("--timeout", "1e300"), ("--weights", "1")}
"""Not faults."""
for command, options in COMMANDS.items():
    for option, values in options.items():
        for value in values:
            first, last = command.split()[0], (option.split() or [""])[-1]
            if (last, value) in SKIPPED or "\x00" in value:
                continue
            says = (
                SAYS.get((first, last))
                or (NAMED.get(value, value.strip("-=,")) if last in FOR_FILES else last.lstrip("-"))
                or first
            )
            given = [*command.split(), *option.split(), *(value.split() or [value])]
            heavy = first in ("train", "predict", "export", "folds", "distill", "ladder", "pipeline", "merge-adapters")
            PART.add(first, f"{option} {value}"[:60], words(*given), says, heavy=heavy)
for value in ("0.5", "-0.0"):
    PART.add("leaderboard", f"--least-rows {value}", words("leaderboard", "own", "--data", "t.csv", "--out", "l", "--least-rows", value), "least-rows")  # fmt: skip
for command in (
    "attack --data t.csv --out {}",
    "convert t.csv --out {}",
    "sample --rows 3 --out {}",
    "check t.csv --out {}",
):
    for name in ("t.csv/x.csv", "a" * 300 + ".csv", "own"):
        PART.add("--out", f"{command.split()[0]} {name[:20]}", words(*command.format(name).split()), name[:5])
for name, option in {"own/predictions.csv": "ensemble own own --out", "t.csv": "attack --data t.csv --out"}.items():
    PART.add("--out", f"over the input: {option.split()[0]}", words(*option.split(), name), name)
PART.add("--out", "a name that looks like an option", words("convert", "t.csv", "--out=--x.csv"), check=rows("--x.csv", 60))  # fmt: skip
