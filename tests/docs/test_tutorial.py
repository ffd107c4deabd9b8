"""The tutorial's notebook runs from its first cell to its last, on a model of random weights."""

import shutil

import pytest

from mutualnet_det.evaluation import evaluate_grid
from mutualnet_det.runtime.pretrained import load_pretrained

NOTEBOOK = "docs/tutorials/quickstart.ipynb"


@pytest.fixture
def quickstart(model_folder, tmp_path):
    """What ``make quickstart`` leaves, made in seconds."""
    folder = shutil.copytree(model_folder, tmp_path / "quickstart")
    trained = load_pretrained(folder, device="cpu")
    evaluate_grid(
        trained.cfg,
        trained.model,
        trained.calibrations,
        list(trained.calibrations),
        folder / "grid",
    )
    return folder


@pytest.mark.slow
def test_the_notebook_runs(quickstart, request, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    path = request.config.rootpath / NOTEBOOK
    monkeypatch.setenv("QUICKSTART", str(quickstart))
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    notebook = nbformat.read(path, as_version=4)

    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "Query table of" in printed
    assert "deadlines held" in printed
    assert "# Operating point" in printed  # the export's card
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
