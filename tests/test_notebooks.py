"""The notebooks run from their first cell to their last, show what they say, and are stored without outputs."""

from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


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
