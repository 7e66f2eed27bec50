"""Logs of runs and model cards that a report reads."""

from pathlib import Path

from collecting import Make, Part
from harness import Words, World

PART = Part("logs")

LOG = '{"step": 1, "loss": 1.1, "lr": 0.001, "grad_norm": 1.0, "tokens": 9, "seconds": 0.1}'


def log(*lines: str | bytes) -> Make:
    """Training curves of a run folder with this log."""

    def make(folder: Path, _: World) -> Words:
        (folder / "run").mkdir()
        given = [line if isinstance(line, bytes) else line.encode() for line in lines]
        (folder / "run/log.jsonl").write_bytes(b"\n".join(given) + b"\n")
        return ["report", "--runs", "run", "--out", "r"]

    return make


for label, line in {
    "nested deep": '{"step":' * 100_000 + "}",
    "a list": "[1}",
    "an infinite step": LOG.replace(": 1,", ": 1e400,"),
    "a step of 400 digits": LOG.replace(": 1,", f": {10**400},"),
    "a step below 0": LOG.replace(": 1,", ": -1,"),
    "a step of a word": LOG.replace(": 1,", ': "one",'),
    "a loss of a word": LOG.replace("1.1", '"low"'),
    "a loss of a list": LOG.replace("1.1", "[1]"),
    "a loss of NaN": LOG.replace("1.1", "NaN"),
    "a rate of 1e308": LOG.replace("0.001", "1e308"),
    "seconds of true": LOG.replace("0.1}", "true}"),
    "tokens of an object": LOG.replace(": 9", ": {}"),
    "a key twice": LOG.replace("{", '{"loss": 3, '),
    "no step": '{"loss": 1.0}',
    "bytes": b"\xfe\xff{}",
}.items():
    PART.add("logs of runs", label, log(LOG, line, LOG.replace(": 1,", ": 2,")), "log.jsonl")
PART.add(
    "logs of runs", "a line that was cut", log(LOG, LOG[:40], LOG.replace(": 1,", ": 2,")), check=lambda f, _: curves(f)
)


def curves(folder: Path) -> None:
    assert "run" in (folder / "r/index.html").read_text()


for label, content in {"binary": bytes(range(256)), "without its marks": b"# card", "8 MB": b"a" * (8 << 20)}.items():

    def carded(folder: Path, world: World, content: bytes = content) -> Words:
        for name in ("t.csv", "own"):
            world.copy(name, folder)
        world.copy("judge/model", folder, "m")
        (folder / "m/README.md").write_bytes(content)
        return ["report", "own", "--labels", "t.csv", "--model", "m", "--out", "r"]

    PART.add("cards", label, carded, "README.md")
