"""Changes of model folders, for the cases of judges, adapters and bases."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collecting import Make, edit_json, read_rows
from harness import Outcome, Words, World

Change = Callable[[Path], Any]


def judge(change: Change, *words: str, name: str = "judge", sealed: bool = False) -> Make:
    """A judge's model folder `m`, changed; predicts the world's table unless other words are given.

    Its manifest holds no hashes, as in folders of earlier versions, unless it is `sealed`: a stranger writes his own.
    """

    def make(folder: Path, world: World) -> Words:
        world.copy(f"{name}/model", folder, "m")
        world.copy("test.csv", folder)
        world.copy("pred/predictions.csv" if name == "judge" else "lpred/predictions.csv", folder, "wanted.csv")
        if not sealed:
            edit_json(folder / "m/tiebreak.json", lambda content: content.pop("files", None) and None)
        change(folder / "m")
        return words or ["predict", "--model", "m", "--data", "test.csv", "--out", "p"]

    return make


def adapter(change: Change, *words: str, sealed: bool = False) -> Make:
    return judge(change, *words, name="lora", sealed=sealed)


def base(change: Change, command: str = "train") -> Make:
    """A base to train over: the demo model's folder, changed."""

    def make(folder: Path, world: World) -> Words:
        from tiebreak.models.demo import demo_path

        shutil.copytree(demo_path("demo-deberta"), folder / "m")
        world.copy("t.csv", folder)
        change(folder / "m")
        words = [command, "--recipe", "demo-deberta", "--data", "t.csv", "--model", "./m", "--set", "train.max_steps=1"]
        return [*words, "--out", "run"]

    return make


def same_as_world(folder: Path, _: Outcome) -> None:
    """What does not count changes nothing: the probabilities are those of the judge as it was saved."""
    found, wanted = read_rows(folder / "p/predictions.csv"), read_rows(folder / "wanted.csv")
    assert [row["id"] for row in found] == [row["id"] for row in wanted], "other ids"
    for row, other in zip(found, wanted, strict=True):
        for name in ("winner_model_a", "winner_model_b", "winner_tie"):
            assert abs(float(row[name]) - float(other[name])) < 1e-5, (row, other)


def trained(folder: Path, _: Outcome) -> None:
    assert (folder / "run/model/model.safetensors").is_file(), "no model"


def config(**fields: Any) -> Change:
    return lambda folder: edit_json(folder / "config.json", lambda content: {**content, **fields})


def manifest(**fields: Any) -> Change:
    return lambda folder: edit_json(folder / "tiebreak.json", lambda content: {**content, **fields})


def written(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def recipe(path: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        def edit(content: Any) -> None:
            inner = content["recipe"]
            *parents, last = path.split(".")
            for parent in parents:
                inner = inner[parent]
            inner[last] = value

        edit_json(folder / "tiebreak.json", edit)

    return change


def header(change: Callable[[dict[str, Any]], Any], name: str = "model.safetensors") -> Change:
    """Another header of a safetensors file over the same data."""

    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        told = json.loads(content[8 : 8 + length])
        changed = change(told)
        new = json.dumps(told if changed is None else changed).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])

    return edit


def tensors(change: Callable[[dict[str, Any]], Any], name: str = "model.safetensors") -> Change:
    """Other tensors in a whole safetensors file."""

    def edit(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        held = load_file(folder / name)
        change(held)
        save_file(held, folder / name, metadata={"format": "pt"})

    return edit


def removed(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def index(names: Callable[[str], str], keep: bool = False) -> Change:
    """Weights by an index, each tensor in the file that `names` gives it."""

    def edit(folder: Path) -> None:
        with open(folder / "model.safetensors", "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            held = [name for name in json.loads(file.read(length)) if name != "__metadata__"]
        content = {"metadata": {"total_size": 1}, "weight_map": {name: names(name) for name in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        if keep:
            (folder / "m1.safetensors").write_bytes((folder.parent / "outside.safetensors").read_bytes())

    return edit
