"""The tutorial's notebook runs from its first cell to its last, on a model of random weights."""

import shutil

import pytest
from torch import nn

from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.evaluation import evaluate_grid
from mutualnet_det.runtime.pretrained import load_pretrained
from mutualnet_det.slimmable import Calibrations

NOTEBOOK = "docs/tutorials/quickstart.ipynb"


@pytest.fixture
def quickstart(model_folder, tmp_path):
    """What ``make quickstart`` leaves, made in seconds."""
    trained = load_pretrained(model_folder, device="cpu")
    cfg, model = trained.cfg, trained.model
    # Masks that fill their boxes: an export is compared with the model pixel by pixel.
    nn.init.constant_(model.roi_heads.mask_head.predictor.bias, 9.0)
    calibrations = Calibrations(model)
    points = list(trained.calibrations)
    evaluate_grid(cfg, model, calibrations, points, tmp_path / "grid", calibrate=True)
    checkpointer = MutualCheckpointer(model, cfg, str(tmp_path))
    checkpointer.save("model_final", calibrations=calibrations.state_dict())
    shutil.copy(model_folder / "config.yaml", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_runs(quickstart, tiny_shapes, request, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    path = request.config.rootpath / NOTEBOOK
    shutil.copytree(tiny_shapes[2], tmp_path / "datasets" / "shapes" / "val")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
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


def test_what_is_stored_names_no_folder_of_a_machine(request):
    text = (request.config.rootpath / NOTEBOOK).read_text(encoding="utf-8")
    assert "site-packages" not in text  # as warnings of libraries do
