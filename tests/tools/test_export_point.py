"""The command line of tools/export_point.py."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.evaluation import Grid
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.results import GridRow
from mutualnet_det.modeling.build import build_network
from mutualnet_det.runtime import Latency, QueryEntry, QueryTable
from mutualnet_det.runtime.export import ExportError
from mutualnet_det.runtime.pretrained import PredictorError
from mutualnet_det.runtime.sources import SourceError
from mutualnet_det.slimmable import Calibrations, OperatingPoint
from tools import export_point as tool

LISTED, UNLISTED = OperatingPoint(0.25, 32), OperatingPoint(0.5, 32)


def make_grid(model):
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 44.4) | {"per_class": {}}
    cost = Cost({"backbone": 7.5}, {"mask_head": 0.0}, 30, {"backbone": 10})
    rows = tuple(
        GridRow(point, cost, 5.0, {"CPU": Latency(1.0, 2.0)}, {"box": metrics, "mask": None})
        for point in (LISTED, UNLISTED)
    )
    return Grid(rows, {"weights_fingerprint": model, "dataset": "tiny_shapes", "device": "CPU"})


@pytest.fixture(scope="module")
def folder(make_training_cfg, tmp_path_factory):
    """An untrained model with two calibrated points; a grid of both, a table of one."""
    folder = tmp_path_factory.mktemp("model")
    cfg = make_training_cfg(folder)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    calibrations = Calibrations(model)
    random = torch.Generator().manual_seed(0)
    batch = [{"image": torch.randint(0, 256, (3, 64, 64), generator=random)} for _ in range(2)]
    for point in (LISTED, UNLISTED):
        calibrations.calibrate(point, [batch])
    checkpointer = MutualCheckpointer(model, cfg, str(folder))
    checkpointer.save("model_final", calibrations=calibrations.state_dict())
    entries = (QueryEntry(LISTED, gflops=7.5, latency={"CPU": Latency(1, 2)}, box_ap=44.4),)
    table = QueryTable(entries, "box_ap", calibrations.fingerprint(), "tiny_shapes")
    (folder / "query_table.json").write_text(table.to_json())
    (folder / "grid").mkdir()
    make_grid(calibrations.fingerprint()).save(folder / "grid")
    return folder


@pytest.fixture
def run(folder, tmp_path):
    def run(*arguments, point=str(UNLISTED), format="detectron2", output=tmp_path / "export"):
        command = [str(folder), "--point", point, "--format", format, "--output", str(output)]
        tool.main(tool.parse_args([*command, *arguments]))
        return output

    return run


def test_writes_a_folder_and_says_how_well_it_agrees(run, capsys):
    output = run("--images", "3")
    shown = capsys.readouterr().out
    assert "on 3 images: boxes within" in shown and f"Written to {output}" in shown
    assert {x.name for x in output.iterdir()} == {"README.md", "config.yaml", "model.pth"}
    # From the grid: the table does not have the point.
    assert "44.4 % on tiny_shapes" in (output / "README.md").read_text()


def test_compares_on_the_images_of_a_folder(run, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for index in range(3):
        pixels = np.full((40, 50, 3), 60 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{index}.png")
    (tmp_path / "images/notes.txt").write_text("no image")
    run("--image-folder", str(tmp_path / "images"))
    assert "on 3 images" in capsys.readouterr().out


def test_a_target_that_exists_is_refused_before_the_model_is_read(run, tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        run("--image-folder", "nowhere")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((), {"point": "0.3x32"}, PredictorError, r"0\.30x32 is not calibrated"),
        (("--image-folder", "nowhere"), {}, SourceError, "no file or folder nowhere"),
    ],
)
def test_errors_leave_nothing(run, tmp_path, arguments, options, error, message):
    with pytest.raises(error, match=message):
        run(*arguments, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_grid_of_other_weights_is_refused(run, folder, tmp_path):
    path = folder / "grid/grid.json"
    text = path.read_text()
    content = json.loads(text)
    content["run"]["weights_fingerprint"] = "c0ffee" * 8
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(PredictorError, match=r"grid\.json is of other weights .*c0ffee"):
            run()
    finally:
        path.write_text(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point": "half"}, "--point"),
        ({"format": "caffe"}, "invalid choice: 'caffe'"),
    ],
)
def test_wrong_arguments(run, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(**arguments)
    assert message in capsys.readouterr().err
