"""The notebooks run from their first cell to their last, show what they say, and are stored without outputs."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
STARTS = ("if ON_KAGGLE:\n    RECIPE", "prediction = None", "if prediction is None")


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The outputs of a notebook's cells, in order, run in a kernel of its own; a cell that fails is raised."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(folder / "jupyter"))  # nothing of the user's is read or written
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, resources=resources, coalesce_streams=True).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("name", ["first_hour", "kaggle"])
def test_notebooks_are_stored_without_outputs(name: str):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert [cell for cell in cells if cell.outputs or cell.execution_count is not None or cell.metadata] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and notebook.cells[0].cell_type == "markdown"
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {"first_hour", "kaggle"}


@pytest.mark.parametrize("name", ["first_hour", "kaggle"])
def test_how_a_notebook_is_started_and_started_over_stands_where_a_reader_looks(name: str):
    first, second, *_ = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    pages = ["README.md", "docs/first-hour/laptop.md", "docs/first-hour/kaggle.md"]
    for text in (first.source, *((ROOT / page).read_text(encoding="utf-8") for page in pages)):
        assert "pip install jupyterlab" in text and "jupyter lab notebooks/" in text
    assert f"runs/{name}" in first.source and f"runs/{name}" in second.source
    assert ("START_OVER = True" if name == "first_hour" else "To start anew, delete") in first.source
    ignored = subprocess.run(["git", "check-ignore", f"notebooks/runs/{name}/x"], cwd=ROOT, check=False)
    assert ignored.returncode in (0, 128), "128: an unpacked archive, which is no repository"


def test_the_wheels_of_the_page_are_those_that_the_notebook_installs():
    page = (ROOT / "docs/first-hour/kaggle.md").read_text(encoding="utf-8")
    notebook = (NOTEBOOKS / "kaggle.ipynb").read_text(encoding="utf-8")
    assert "\npip wheel --wheel-dir wheels --constraint constraints.txt .\n" in page
    assert "--find-links /kaggle/input/tiebreak-wheels tiebreak" in page and 'INPUT / \\"tiebreak-wheels\\"' in notebook


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_mistake_on_the_road_to_kaggle_is_the_error_of_its_cell(ranks: int, tmp_path: Path, monkeypatch, capfd):
    cells = nbformat.read(NOTEBOOKS / "kaggle.ipynb", as_version=4).cells
    (source,) = (cell.source for cell in cells if "def tiebreak_command" in cell.source)
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    names: dict[str, Any] = {"os": os, "subprocess": subprocess, "sys": sys}
    exec(ast.unparse(function), names)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r"^tiebreak: error.*absent\.csv: no such file") as told:
        names["tiebreak_command"]("train", "--data", "absent.csv", "--out", "judge", ranks=ranks)
    assert "\n" not in str(told.value) and ("torch.distributed" in capfd.readouterr().out) == (ranks > 1)


def test_cells_after_a_failed_training_end_at_once(monkeypatch):
    """The folder may hold the judge of an earlier run, which nobody asked for."""
    cells = [cell.source for cell in nbformat.read(NOTEBOOKS / "kaggle.ipynb", as_version=4).cells]
    train, predict, submit = (next(text for text in cells if text.startswith(start)) for start in STARTS)
    names: dict[str, Any] = {"ON_KAGGLE": False, "JUDGE": None, "WORK": Path("runs"), "TABLES": Path("in"), "GPUS": 0}

    def fail(*words: object, ranks: int = 1) -> None:
        raise RuntimeError("tiebreak: error: as it happens")

    names["tiebreak_command"] = fail
    for cell, message in (
        (train, "as it happens"),
        (predict, "the training above has failed"),
        (submit, "no prediction"),
    ):
        with pytest.raises(RuntimeError, match=message):
            exec(cell, names)


@pytest.mark.processes
@pytest.mark.slow
def test_the_first_hour_trains_distils_compares_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    outputs = execute("first_hour", tmp_path, monkeypatch)
    text = text_of(outputs)
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3 and kinds.count("text/html") >= 4
    assert "Verdict(winner='a'" in text and "Verdict(winner='b'" in text, "the helpful answer wins in both places"
    assert "gap closed" in text and "Bayes" in text and "95 % interval" in text
    assert text.count("100%|") == 3, "a bar for each training, at its end"
    assert (tmp_path / "runs" / "first_hour" / "report" / "index.html").is_file()


@pytest.mark.processes
@pytest.mark.slow
def test_the_road_to_kaggle_ends_with_a_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = text_of(execute("kaggle", tmp_path, monkeypatch))
    work = tmp_path / "runs" / "kaggle"
    submission, test = pd.read_csv(work / "submission.csv"), pd.read_csv(work / "input" / "test.csv")
    assert list(submission) == ["id", "winner_model_a", "winner_model_b", "winner_tie"]
    assert submission["id"].tolist() == test["id"].tolist()
    assert "bad row" in text and "held-out rows" in text and "Traceback" not in text
