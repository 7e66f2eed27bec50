"""Shared by the tests of training runs."""

import json
from pathlib import Path

SHORT = ["--set", "train.batch_size=16", "--set", "train.eval_every=4", "--set", "data.max_tokens=128"]


def set_(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def steps_of(folder: Path) -> list[dict]:
    """The records of a run's steps."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "loss" in record]
