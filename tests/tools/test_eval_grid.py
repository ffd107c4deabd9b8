"""The command line of tools/eval_grid.py."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from mutualnet_det import add_mutualnet_config
from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.config import load_config
from mutualnet_det.evaluation import Grid
from mutualnet_det.evaluation import grid as grid_module
from mutualnet_det.slimmable import OperatingPoint
from tools import eval_grid as tool

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "quickstart_shapes.yaml"


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.MUTUALNET.RESOLUTIONS = (96, 64)
    return cfg


def parsed(*arguments):
    return tool.parse_args(["--config-file", "cfg.yaml", *arguments])


def points_of(cfg, *arguments):
    return [str(point) for point in tool.chosen_points(parsed(*arguments), cfg)]


def test_default_is_the_grid_of_the_config(cfg):
    assert points_of(cfg)[:3] == ["0.25x64", "0.25x96", "0.50x64"]
    assert len(points_of(cfg)) == 8


def test_points(cfg):
    assert points_of(cfg, "--points", "1.0x96", ".5x64") == ["1.00x96", "0.50x64"]


def test_widths_and_resolutions(cfg):
    assert points_of(cfg, "--widths", "0.3", "--resolutions", "70", "80") == [
        "0.30x70",
        "0.30x80",
    ]
    assert points_of(cfg, "--widths", "0.3") == ["0.30x64", "0.30x96"]
    assert len(points_of(cfg, "--resolutions", "80")) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["--points", "0.5x64", "MODEL.WEIGHTS", "x.pth", "SEED", "3"],
        ["--points", "0.5x64", "--resume", "MODEL.WEIGHTS", "x.pth", "SEED", "3"],
        ["--points", "0.5x64", "--output", "somewhere", "MODEL.WEIGHTS", "x.pth", "SEED", "3"],
    ],
)
def test_overrides_after_a_list(arguments):
    args = parsed(*arguments)
    assert args.points == [OperatingPoint(0.5, 64)]
    assert args.opts == ["MODEL.WEIGHTS", "x.pth", "SEED", "3"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--points", "0.5x64", "--widths", "0.5"], "give no --widths"),
        (["--points", "0.5"], "'0.5' is not an operating point"),
        (["--points", "MODEL.WEIGHTS", "x.pth"], "--points needs at least one value"),
        (["--widths", "0.5x64"], "--widths"),
        (["MODEL.WEIGHTS", "x.pth", "--points", "0.5x64"], "--points must come before"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert message in capsys.readouterr().err


@pytest.fixture
def run(tmp_path):
    """Runs the tool on an untrained quick-start model and three images, from ``tmp_path``."""
    output = tmp_path / "output"
    data = {"images": [], "annotations": [], "categories": []}
    for id_ in (1, 2, 3):
        Image.new("RGB", (80, 64), (40 * id_, 90, 90)).save(tmp_path / f"{id_}.png")
        data["images"].append({"id": id_, "file_name": f"{id_}.png", "height": 64, "width": 80})
        data["categories"].append({"id": id_, "name": f"class {id_}"})
        box = [10, 10, 30, 20]
        polygon = [[10, 10, 40, 10, 40, 30, 10, 30]]
        data["annotations"].append(
            {"id": id_, "image_id": id_, "category_id": id_, "bbox": box, "area": 600}
            | {"iscrowd": 0, "segmentation": polygon}
        )
    (tmp_path / "data.json").write_text(json.dumps(data))
    name = f"tool_test_{tmp_path.name}"
    declared = [[name, str(tmp_path / "data.json"), str(tmp_path)]]
    common = [
        *("OUTPUT_DIR", str(output), "DATASETS.COCO_FORMAT", str(declared)),
        *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"),
        *("MUTUALNET.CALIBRATION.NUM_IMAGES", "3"),
    ]
    cfg = load_config(str(CONFIG), common)
    output.mkdir()
    torch.manual_seed(0)
    MutualCheckpointer(build_model(cfg), cfg, str(output)).save("model_final")

    def run(*arguments, overrides=()):
        config = ["--config-file", str(CONFIG), "--points", "0.25x64", "1.0x64"]
        tool.main(tool.parse_args([*config, *arguments, *common, *overrides]))

    yield run
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)


def test_from_a_checkpoint_to_the_query_table(run, tmp_path, capsys, monkeypatch):
    run()
    output = tmp_path / "output"
    shown = capsys.readouterr().out
    assert (output / "grid" / "query_table.txt").read_text().strip() in shown
    assert str(output / "grid") in shown
    grid = Grid.load(output / "grid" / "grid.json")
    assert [str(row.point) for row in grid.rows] == ["0.25x64", "1.00x64"]
    assert grid.run["weights"] == str(output / "model_final.pth")
    before = (output / "grid" / "grid.json").stat().st_mtime_ns
    assert "Classes" not in capsys.readouterr().out
    run("--resume", "--classes")
    assert "Classes at " in capsys.readouterr().out
    assert (output / "grid" / "grid.json").stat().st_mtime_ns == before

    # Another evaluation takes the calibrations of the first, and needs no training images.
    def refuse(*args, **kwargs):
        raise AssertionError("calibrated a second time")

    monkeypatch.setattr(grid_module, "calibration_images", refuse)
    monkeypatch.setattr(grid_module, "calibrate_points", refuse)
    run()
    assert (output / "grid" / "grid.json").stat().st_mtime_ns > before


def test_other_weights_and_output(run, tmp_path):
    other = (tmp_path / "output" / "model_final.pth").rename(tmp_path / "other.pth")
    run("--output", str(tmp_path / "o"), overrides=("MODEL.WEIGHTS", str(other)))
    # --resume alone would look for the last checkpoint in OUTPUT_DIR, which is not there.
    run("--resume", "--output", str(tmp_path / "o"), overrides=("MODEL.WEIGHTS", str(other)))
    assert Grid.load(tmp_path / "o" / "grid.json").run["weights"] == str(other)


def test_bad_requests_stop_before_anything_is_computed(run, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*0\.50x500"):
        run("--points", "0.5x500")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*file"):
        run("--output", str(tmp_path / "file"))
    with pytest.raises(SystemExit, match=r"error: .*nowhere\.pth"):
        run(overrides=("MODEL.WEIGHTS", "nowhere.pth"))
    with pytest.raises(SystemExit, match="error: --num-gpus is 0; expected at least 1"):
        run("--num-gpus", "0")
