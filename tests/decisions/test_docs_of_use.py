"""The worked examples of the pages on using a judge: every command runs, and prints what the page shows."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tiebreak.cli import main

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["decide.md", "leaderboard.md", "bench.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_example_of_a_page_prints_what_it_shows(page, tmp_path, monkeypatch, capsys):
    text = (DOCS / page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    shown = "".join(block for language, block in FENCED.findall(text) if language == "console")
    steps = [step.partition("\n") for step in shown.removeprefix("$ ").split("\n$ ")]
    assert len(steps) >= 3
    for command, _, expected in steps:
        program, *words = shlex.split(command)
        if program != "tiebreak":
            subprocess.run(command, shell=True, check=True)
            continue
        assert main(words) == 0, command
        told = capsys.readouterr()
        if expected.strip():
            assert told.out.rstrip() == expected.rstrip(), command
