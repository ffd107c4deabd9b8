"""The grid of a classifier: accuracies by hand, costs, resuming."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from torch import nn

from mutualnet_det.calibration import calibrate_points
from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.data.check import check_datasets
from mutualnet_det.data.shapes.classes import VARIANT, generate_classes
from mutualnet_det.data.views import resize_image
from mutualnet_det.evaluation import Grid, evaluate_grid
from mutualnet_det.evaluation import classification as classification_module
from mutualnet_det.evaluation.progress import ProgressError
from mutualnet_det.modeling.build import build_network
from mutualnet_det.modeling.classifier import network_of
from mutualnet_det.runtime import QueryTable
from mutualnet_det.slimmable import Calibrations, OperatingPoint

POINTS = [OperatingPoint(0.25, 32), OperatingPoint(0.5, 48), OperatingPoint(1.0, 64)]


@pytest.fixture
def cfg(tmp_path):
    """20 generated images of 9 classes, at up to 64 px."""
    folder = generate_classes(VARIANT, str(tmp_path / "data"), 20, 0)
    name = f"tiny_classes_{tmp_path.name}"
    cfg = load_config(
        "configs/pretrain_shapes.yaml",
        [
            *("MODEL.DEVICE", "cpu", "MUTUALNET.RESOLUTIONS", "(64, 48, 32)"),
            *("DATASETS.IMAGE_FOLDERS", str([[name, folder]])),
            *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"),
            *("MUTUALNET.CALIBRATION.NUM_IMAGES", "8"),
            *("MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE", "6"),
        ],
    )
    # A class without an image is an error, and there are few.
    for class_ in (tmp_path / "data").iterdir():
        if class_.is_dir() and not any(class_.iterdir()):
            (tmp_path / "data" / "plain_circle").mkdir(exist_ok=True)
            source = next((tmp_path / "data").glob("*/*.jpg"))
            (class_ / f"more_{class_.name}.jpg").write_bytes(source.read_bytes())
    check_datasets(cfg)
    yield cfg
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    nn.init.normal_(model.backbone.classifier[1].weight)  # scores that differ between images
    return model


@pytest.fixture
def calibrations(cfg, model):
    calibrations = Calibrations(network_of(model))
    calibrate_points(cfg, model, calibrations, POINTS)
    return calibrations


def test_accuracies_are_those_of_the_predictions(cfg, model, calibrations, tmp_path):
    grid = evaluate_grid(cfg, model, calibrations, POINTS, tmp_path / "grid")
    assert [row.point for row in grid.rows] == POINTS and grid.kinds == ("class",)
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    for row in grid.rows:
        with open(tmp_path / "grid" / "predictions" / f"{row.point}.csv") as file:
            lines = list(csv.DictReader(file))
        assert [line["file_name"] for line in lines] == [r["file_name"] for r in records]
        best = [[int(label) for label in line["top5"].split()] for line in lines]
        labels = [record["label"] for record in records]
        top1 = sum(label == ranked[0] for label, ranked in zip(labels, best, strict=True))
        top5 = sum(label in ranked for label, ranked in zip(labels, best, strict=True))
        assert row.scores["class"]["top1"] == pytest.approx(100 * top1 / len(records))
        assert row.scores["class"]["top5"] == pytest.approx(100 * top5 / len(records))
        assert all(len(set(ranked)) == 5 for ranked in best)
    assert len({row.scores["class"]["top5"] for row in grid.rows}) > 1


def test_predictions_are_the_networks_on_one_image(cfg, model, calibrations, tmp_path):
    """Batches, and the crop and resize before them, do not change what is predicted."""
    evaluate_grid(cfg, model, calibrations, POINTS[:1], tmp_path / "grid")
    with open(tmp_path / "grid" / "predictions" / f"{POINTS[0]}.csv") as file:
        lines = list(csv.DictReader(file))
    for line in lines[::5]:
        image = torch.as_tensor(read_image(line["file_name"], "RGB").copy()).permute(2, 0, 1)
        view = resize_image(resize_image(image, (64, 64)), (32, 32))
        with torch.no_grad(), calibrations.at(POINTS[0]):
            expected = model.logits([{"image": view}])[0].topk(5).indices.tolist()
        assert [int(label) for label in line["top5"].split()] == expected


def test_files_read_back(cfg, model, calibrations, tmp_path):
    grid = evaluate_grid(cfg, model, calibrations, POINTS, tmp_path / "grid")
    assert Grid.load(tmp_path / "grid" / "grid.json") == grid
    table = QueryTable.load(tmp_path / "grid" / "query_table.json")
    assert table == grid.query_table() and table.metric == "top1"
    entry = table.entries[0]
    assert entry.top5 >= entry.top1 and entry.box_ap is None
    assert set(json.loads((tmp_path / "grid" / "query_table.json").read_text())["entries"][0]) == {
        *("width", "resolution", "gflops", "latency", "top1", "top5")
    }
    with open(tmp_path / "grid" / "grid.csv") as file:
        row = next(csv.DictReader(file))
    assert float(row["gflops"]) == float(row["gflops_network"]) == grid.rows[0].gflops
    assert {"class_top1", "class_top5"} <= row.keys() and "box_AP" not in row
    for name in ("accuracy_against_gflops.png", "heat_map.png"):
        assert (tmp_path / "grid" / "figures" / name).stat().st_size > 5000


def test_a_killed_evaluation_is_continued(cfg, model, calibrations, tmp_path, monkeypatch):
    monkeypatch.setattr(classification_module, "IMAGES_AT_ONCE", 4)
    whole = evaluate_grid(cfg, model, calibrations, POINTS, tmp_path / "whole")
    original = classification_module.ClassificationTask.run
    calls = SimpleNamespace(count=0)

    def killed(self, *args):
        calls.count += 1
        if calls.count == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(classification_module.ClassificationTask, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_grid(cfg, model, calibrations, POINTS, tmp_path / "grid")
    again = evaluate_grid(cfg, model, calibrations, POINTS, tmp_path / "grid", resume=True)
    assert [row.scores for row in again.rows] == [row.scores for row in whole.rows]
    for point in POINTS:
        files = [tmp_path / n / "predictions" / f"{point}.csv" for n in ("whole", "grid")]
        assert files[0].read_text() == files[1].read_text()


def test_batches_may_be_larger_than_what_detectors_hold_at_once(
    cfg, model, calibrations, tmp_path, monkeypatch
):
    monkeypatch.setattr(classification_module, "IMAGES_AT_ONCE", 4)
    sizes = set()
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda batch: (sizes.add(len(batch)), logits(batch))[1])
    evaluate_grid(cfg, model, calibrations, POINTS[:1], tmp_path / "grid")
    assert max(sizes) == cfg.MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE == 6


def test_batches_are_whole(cfg, model):
    def at_once(size):
        cfg.MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE = size
        task = classification_module.ClassificationTask(cfg, model, cfg.DATASETS.TEST[0])
        return task.images_at_once

    cfg.defrost()
    assert [at_once(size) for size in (1, 24, 64, 256)] == [64, 48, 64, 256]


def test_images_that_have_changed_are_not_continued_with(cfg, model, calibrations, tmp_path):
    evaluate_grid(cfg, model, calibrations, POINTS[:1], tmp_path / "grid")
    evaluate_grid(cfg, model, calibrations, POINTS[:1], tmp_path / "grid", resume=True)
    path = Path(DatasetCatalog.get(cfg.DATASETS.TEST[0])[3]["file_name"])
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ProgressError, match="differs in images"):
        evaluate_grid(cfg, model, calibrations, POINTS[:1], tmp_path / "grid", resume=True)


def test_a_point_outside_the_range_is_named(cfg, model, calibrations, tmp_path):
    with pytest.raises(ConfigError, match="0.10x32: width 0.1 is outside"):
        evaluate_grid(cfg, model, calibrations, [OperatingPoint(0.1, 32)], tmp_path)
