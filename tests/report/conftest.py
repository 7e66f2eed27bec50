"""A demo model's real predictions: in both orders, in one, and of the attacked table."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tiebreak.cli import main
from tiebreak.sample.generator import write_sample


@dataclass(frozen=True)
class Judged:
    """A run, a labelled table, prediction folders of it (both orders, one order), and of its attacked copy."""

    run: Path
    table: Path
    swapped: Path
    plain: Path
    attacked: Path


@pytest.fixture(scope="session")
def judged(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("judged")
    found = Judged(*(folder / name for name in ("run", "table.csv", "swapped", "plain", "attacked")))
    changes = ["--set", "train.max_steps=24", "--set", "train.batch_size=16", "--set", "data.max_tokens=128"]
    assert main(["train", "--recipe", "demo-llama2", "--data", str(sample), "--out", str(found.run), *changes]) == 0
    write_sample(found.table, 150, seed=8, profile="short")
    assert main(["attack", "--data", str(found.table), "--out", str(folder / "attacked.csv")]) == 0
    predict = ["predict", "--model", str(found.run), "--data"]
    assert main([*predict, str(found.table), "--out", str(found.swapped), "--swap"]) == 0
    assert main([*predict, str(found.table), "--out", str(found.plain)]) == 0
    assert main([*predict, str(folder / "attacked.csv"), "--out", str(found.attacked), "--swap"]) == 0
    return found
