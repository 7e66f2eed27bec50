"""The worked example of docs/export.md runs."""

import re
import shlex
from pathlib import Path

import pytest

from tiebreak.cli import main
from tiebreak.data.predictions import read_predictions

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCK, OUTPUT = re.findall(r"^```\n(.*?)^```$", PAGE.partition("<!-- run by")[2], re.S | re.M)[:2]


@pytest.mark.slow
def test_the_example_of_the_page(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tiebreak.report.curves.leave_curves", lambda folder: None)  # nobody looks at them
    for line in BLOCK.splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
        if " export " in line:
            printed = "\n".join(capfd.readouterr().out.splitlines()[-3:])
    assert len(read_predictions(tmp_path / "predicted" / "predictions.csv")[0]) == 120
    shape = [re.sub(r"[\d.,e+-]+", "#", text) for text in (printed, OUTPUT)]
    assert shape[0].splitlines() == shape[1].splitlines()
    numbers = [[float(n) for n in re.findall(r"\d+\.\d{5}", text)] for text in (printed, OUTPUT)]
    assert numbers[0][0] == pytest.approx(numbers[1][0], abs=0.05)  # a change of the demo base moves it a little
