"""A briefly trained judge and a table to predict."""

import pytest

from tiebreak.cli import main
from tiebreak.sample.generator import write_sample


@pytest.fixture(scope="session")
def model(sample, tmp_path_factory):
    """A run folder of a briefly trained judge."""
    out = tmp_path_factory.mktemp("model") / "run"
    changes = ["--set", "train.max_steps=12", "--set", "train.batch_size=16", "--set", "data.max_tokens=128"]
    assert main(["train", "--recipe", "demo-llama2", "--data", str(sample), "--out", str(out), *changes]) == 0
    return out


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "test.csv"
    write_sample(path, 150, seed=8, profile="short")
    return path
