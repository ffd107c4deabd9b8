"""Evaluating a grid: what is written, and that it survives a kill."""

import contextlib
import csv
import io
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import mutualnet_det.evaluation.cost as cost_module
from mutualnet_det.checkpoint import CheckpointError, read_calibrations
from mutualnet_det.config import ConfigError
from mutualnet_det.data.coco import register_coco
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.evaluation import Grid, evaluate_grid
from mutualnet_det.evaluation import detection as detection_module
from mutualnet_det.evaluation import forward as forward_module
from mutualnet_det.evaluation import grid as grid_module
from mutualnet_det.evaluation import workers as workers_module
from mutualnet_det.evaluation.cost import Cost, count_cost, padded_sizes
from mutualnet_det.evaluation.latency import infer
from mutualnet_det.evaluation.progress import ProgressError
from mutualnet_det.evaluation.rules import CocoRules
from mutualnet_det.evaluation.scoring import AP_METRICS
from mutualnet_det.modeling import MutualRCNN
from mutualnet_det.runtime import QueryTable
from mutualnet_det.slimmable import Calibrations, OperatingPoint, UncalibratedError, width_of

SIZES = [(96, 128), (120, 90), (96, 128), (100, 100), (96, 240)]  # height, width in px
POINTS = [OperatingPoint(w, r) for w in (0.25, 1.0) for r in (64, 96)]
CATEGORIES = (3, 7)
# Forwards at the end, by which peak memory is measured.
MEMORY_FORWARDS = 2 * len(POINTS)


class Oracle(MutualRCNN):
    """
    Sees each object of the test images by its colour, the worse the narrower it is.

    Red is 100 + 10 * class, green 20 * (number of the object + 1).
    """

    forwards = 0
    stop_after = math.inf

    def inference(self, batched_inputs, detected_instances=None, do_postprocess=True):
        if Oracle.forwards >= Oracle.stop_after:
            raise KeyboardInterrupt
        Oracle.forwards += 1
        (image,) = (item["image"].float() for item in batched_inputs)
        self.backbone(self.preprocess_image(batched_inputs).tensor)  # raises if not calibrated
        boxes, classes, scores = [], [], []
        for class_, number in itertools.product(range(2), range(6)):
            is_object = (image[0] - 100 - 10 * class_).abs() < 3
            is_object &= (image[1] - 20 * (number + 1)).abs() < 6
            if is_object.sum() < 10:
                continue
            ys, xs = is_object.nonzero().T
            shrink = (1 - width_of(self).value) * 0.1 * (xs.max() - xs.min())
            boxes.append([xs.min() + shrink, ys.min(), xs.max() + 1 - shrink, ys.max() + 1])
            classes.append(class_)
            scores.append(0.9 - 0.1 * number)
        result = Instances(tuple(image.shape[-2:]))
        result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        result.scores = torch.tensor(scores)
        result.pred_classes = torch.tensor(classes, dtype=torch.int64)
        if self.roi_heads.mask_on:
            result.pred_masks = torch.ones(len(boxes), 1, 28, 28)
        if not do_postprocess:
            return [result]
        item = batched_inputs[0]
        return [{"instances": detector_postprocess(result, item["height"], item["width"])}]


@pytest.fixture(autouse=True)
def fresh_oracle():
    Oracle.forwards, Oracle.stop_after = 0, math.inf


class QuickCounter:
    """Costs without counting, for tests of something else."""

    def __init__(self, model):
        self.width = width_of(model).value

    def count(self, sizes, num_proposals):
        cost = self.width * math.prod(sizes[0]) / 1e9
        gflops = dict.fromkeys(("backbone", "neck", "rpn", "box_head"), cost)
        parameters = dict.fromkeys((*gflops, "mask_head"), int(1000 * self.width))
        return Cost(gflops, {"mask_head": cost}, num_proposals, parameters)


@pytest.fixture
def quick(monkeypatch):
    """No counting and no pictures."""
    monkeypatch.setattr(cost_module, "CostCounter", QuickCounter)
    monkeypatch.setattr(detection_module, "write_figures", lambda *args: None)


@pytest.fixture
def dataset(tmp_path):
    """Images with coloured boxes; one without objects, annotation ids from 0, a crowd."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for image_id, (height, width) in enumerate(SIZES, start=10):
        pixels = np.full((height, width, 3), 30, np.uint8)
        for number in range(0 if image_id == 13 else 3):
            class_ = int(rng.integers(2))
            w, h = (int(v) for v in rng.integers(18, 30, 2))
            x, y = number * (width // 3), int(rng.integers(0, height - h))
            w = min(w, width // 3 - 2)
            pixels[y : y + h, x : x + w] = (100 + 10 * class_, 20 * (number + 1), 200)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": CATEGORIES[class_],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(image_id == 14 and number == 0),
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id}.png")
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width}
        )
    categories = [{"id": id_, "name": f"class {id_}"} for id_ in CATEGORIES]
    json_file = tmp_path / "instances.json"
    json_file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    name = f"grid_test_{tmp_path.name}"
    register_coco(name, str(json_file), str(tmp_path / "images"))
    yield name
    DatasetCatalog.remove(name)


@pytest.fixture
def asked(monkeypatch):
    """The groups of points that were calibrated, one after the other: on noise, to be quick."""
    groups = []

    def calibrate(cfg, model, calibrations, points, images):
        groups.append(points)
        calibrate_on_noise(model, calibrations, points)

    monkeypatch.setattr(grid_module, "calibration_images", lambda cfg: [])
    monkeypatch.setattr(grid_module, "calibrate_points", calibrate)
    return groups


def calibrate_on_noise(model, calibrations, points):
    for point in points:
        batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        calibrations.calibrate(point, [batch], model.backbone)


@pytest.fixture
def setting(make_slimmable_config, make_model, dataset, asked):
    """cfg, model and calibrations; of ``points`` they are there, as in a checkpoint."""

    def make(*overrides, points=()):
        cfg = make_slimmable_config(
            *("DATASETS.TEST", (dataset,), "INPUT.FORMAT", "RGB", *overrides)
        )
        model = make_model(cfg)
        model.__class__ = Oracle
        calibrations = Calibrations(model)
        calibrate_on_noise(model, calibrations, points)
        return cfg, model, calibrations

    return make


def evaluate(setting, output, points=POINTS, **kwargs):
    return evaluate_grid(*setting, points, output, **{"calibrate": True, **kwargs})


def by_hand(folder, point, iou_type):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "ground_truth.json"))
        detections = truth.loadRes(str(folder / "detections" / f"{point}.{iou_type}.json"))
        evaluation = COCOeval(truth, detections, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value < 0 else value * 100 for value in evaluation.stats[:6]]


def contents(folder):
    """All that must not depend on an interruption; times of course do."""
    grid = json.loads((folder / "grid.json").read_text())
    for row in grid["rows"]:
        del row["latency"]
    detections = {p.name: p.read_bytes() for p in (folder / "detections").iterdir()}
    return grid, detections, (folder / "ground_truth.json").read_bytes()


def test_ap_equals_pycocotools_by_hand(quick, setting, tmp_path):
    grid = evaluate(setting(), tmp_path / "grid")
    rows = json.loads((tmp_path / "grid" / "grid.json").read_text())["rows"]
    for row, point in zip(rows, POINTS, strict=True):
        assert (row["width"], row["resolution"]) == point
        for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
            metrics = [row[kind][metric] for metric in AP_METRICS]
            assert metrics == by_hand(tmp_path / "grid", point, iou_type)
    # The data set has no large object, and the oracle is the better the wider it is.
    assert all(row["box"]["APl"] is None for row in rows)
    assert rows[-1]["box"]["AP"] > rows[0]["box"]["AP"] > 0 and rows[0]["mask"]["AP"] > 0
    assert rows[0]["box"]["per_class"].keys() == {"class 3", "class 7"}
    assert Grid.load(tmp_path / "grid" / "grid.json") == grid


def test_ap_equals_detectron2s_evaluator(quick, setting, tmp_path, dataset):
    cfg, model, calibrations = made = setting()
    point = OperatingPoint(0.5, 80)
    grid = evaluate(made, tmp_path / "grid", [point])
    mapper = DatasetMapper(
        is_train=False, augmentations=[T.ResizeShortestEdge(80, 160)], image_format="RGB"
    )
    ids = json.loads((tmp_path / "instances.json").read_text())
    for annotation in ids["annotations"]:
        annotation["id"] += 1  # the evaluator would not see a match with annotation 0
    (tmp_path / "instances.json").write_text(json.dumps(ids))
    evaluator = COCOEvaluator(dataset, ("bbox", "segm"), False, use_fast_impl=False)
    with calibrations.at(point):
        loader = build_detection_test_loader(
            DatasetCatalog.get(dataset), mapper=mapper, num_workers=0
        )
        results = inference_on_dataset(model, loader, evaluator)
    for kind, expected in (("box", results["bbox"]), ("mask", results["segm"])):
        for metric in AP_METRICS:
            actual = grid.rows[0].scores[kind][metric]
            assert (math.nan if actual is None else actual) == pytest.approx(
                expected[metric], nan_ok=True
            )


def test_costs_are_those_of_the_images(setting, tmp_path):
    cfg, model, calibrations = made = setting()
    grid = evaluate(made, tmp_path / "grid")
    row = grid.rows[1]
    assert row.point == OperatingPoint(0.25, 96)
    with calibrations.at(row.point):
        expected = count_cost(model, padded_sizes(SIZES, 96, 160, model.backbone), 20)
    assert row.cost == expected
    assert row.gflops == pytest.approx(expected.total(12 / 5))  # 12 objects on 5 images
    assert grid.rows[0].gflops < row.gflops < grid.rows[3].gflops


def test_tables(setting, tmp_path):
    grid = evaluate(setting(), tmp_path / "grid")
    with open(tmp_path / "grid" / "grid.csv") as file:
        rows = list(csv.DictReader(file))
    for text, row in zip(rows, grid.rows, strict=True):
        assert (float(text["width"]), int(text["resolution"])) == row.point
        assert float(text["gflops"]) == row.gflops
        parts = [float(text[f"gflops_{p}"]) for p in ("backbone", "neck", "rpn")]
        assert parts == [row.cost.gflops[p] for p in ("backbone", "neck", "rpn")]
        assert int(text["parameters"]) == sum(row.cost.parameters.values())
        ((device, latency),) = row.latency.items()
        assert device == grid.run["device"]
        assert float(text[f"p50_ms on {device}"]) == row.milliseconds == latency.p50 > 0
        assert float(text[f"p95_ms on {device}"]) == latency.p95 >= latency.p50
        assert float(text[f"memory_mib on {device}"]) == latency.memory > 0
        assert float(text["mask_AP75"]) == row.scores["mask"]["AP75"] and text["box_APl"] == ""
    table = QueryTable.load(tmp_path / "grid" / "query_table.json")
    assert table == grid.query_table() and table.model == setting()[2].fingerprint()
    assert table.classes == ("class 3", "class 7")  # by the model's number, not the data set's
    assert (tmp_path / "grid" / "query_table.txt").read_text() == f"{table}\n"
    pictures = {path.name for path in (tmp_path / "grid" / "figures").iterdir()}
    assert pictures == {"ap_against_gflops.png", "heat_map.png", "detections.png"}
    assert not (tmp_path / "grid" / "progress").exists()


def test_each_image_is_decoded_once(quick, setting, tmp_path, monkeypatch):
    read = []

    def reading(record, image_format):
        read.append(record["file_name"])
        return original(record, image_format)

    original = forward_module.read_record
    monkeypatch.setattr(forward_module, "read_record", reading)
    evaluate(setting(), tmp_path / "grid")
    assert len(read) == len(set(read)) == len(SIZES)


def test_latency_is_without_the_first_forward_after_a_change(quick, setting, tmp_path, monkeypatch):
    last = []

    def timed(model, image):
        width = width_of(model).value  # differs between two points that follow each other
        milliseconds = 2.0 if last[-1:] == [width] else 100.0
        last.append(width)
        return infer(model, image), milliseconds

    monkeypatch.setattr(detection_module, "timed", timed)
    grid = evaluate(setting(), tmp_path / "grid")
    assert [row.latency[grid.run["device"]].p95 for row in grid.rows] == [2.0] * len(POINTS)


def test_calibrates_only_what_is_missing(quick, setting, asked, tmp_path):
    evaluate(setting(points=POINTS[:1]), tmp_path / "grid")
    assert asked == [[POINTS[2]], [POINTS[1], POINTS[3]]]  # those of a resolution together


def test_training_images_are_asked_for_only_to_calibrate_and_before_anything_is_written(
    quick, setting, asked, tmp_path, monkeypatch
):
    made = setting("DATASETS.TRAIN", ("nowhere",), points=POINTS[:1])
    with pytest.raises(DatasetError, match="DATASETS.TRAIN names 'nowhere'"):
        evaluate(made, tmp_path / "grid", POINTS[:2])

    def no_images(cfg):
        raise DatasetError("no training image can be read")

    monkeypatch.setattr(grid_module, "calibration_images", no_images)
    with pytest.raises(DatasetError, match="no training image can be read"):
        evaluate(setting(points=POINTS[:1]), tmp_path / "grid", POINTS[:2])
    assert not asked and not (tmp_path / "grid").exists()
    grid = evaluate(made, tmp_path / "grid", POINTS[:1])
    assert not asked and grid.run["identity"]["DATASETS.TRAIN"] == []


def test_calibrations_are_kept_for_the_next_evaluation(quick, setting, asked, tmp_path):
    first, second = POINTS[:2], POINTS[2:]
    cfg, model, calibrations = made = setting(points=first[:1])
    evaluate(made, tmp_path / "grid", first)
    state, settings = read_calibrations(str(tmp_path / "grid" / "calibrations.pth"))
    assert list(state["points"]) == [str(first[1])]  # without those of the checkpoint
    assert state["fingerprint"] == calibrations.fingerprint()
    assert settings["MUTUALNET.CALIBRATION.NUM_IMAGES"] == cfg.MUTUALNET.CALIBRATION.NUM_IMAGES

    asked.clear()
    evaluate(setting(points=first[:1]), tmp_path / "grid", first)
    assert not asked
    evaluate(setting(points=first[:1]), tmp_path / "grid", second)
    state, _ = read_calibrations(str(tmp_path / "grid" / "calibrations.pth"))
    assert list(state["points"]) == [str(point) for point in (first[1], *second)]


def scale_weights(made):
    with torch.no_grad():
        next(made[1].parameters()).mul_(1.01)


def test_calibrations_of_other_settings_or_weights_are_made_anew(
    quick, setting, asked, tmp_path, monkeypatch
):
    monkeypatch.setattr(grid_module, "check_datasets", lambda cfg: None)  # there is no "other"
    evaluate(setting(), tmp_path / "grid", POINTS[:1])
    for overrides in (
        ("MUTUALNET.CALIBRATION.NUM_IMAGES", 2),
        ("DATASETS.TRAIN", ("other",)),
        ("MUTUALNET.BAD_RECORDS", "skip"),
        ("INPUT.MAX_SIZE_TEST", 150),
    ):
        asked.clear()
        evaluate(setting(*overrides), tmp_path / "grid", POINTS[:1])
        assert asked == [POINTS[:1]]
    made = setting("DATASETS.TRAIN", ("other",))
    scale_weights(made)
    asked.clear()
    evaluate(made, tmp_path / "grid", POINTS[:1])
    assert asked == [POINTS[:1]]
    # Where the checkpoint has them all, those of other weights would mislead.
    asked.clear()
    evaluate(setting(points=POINTS[:1]), tmp_path / "grid", POINTS[:1])
    assert not asked
    assert not (tmp_path / "grid" / "calibrations.pth").exists()


@pytest.mark.parametrize("norm", ["", "BN"])
def test_calibrations_depend_on_what_is_behind_the_backbone_if_norms_are(
    quick, setting, tmp_path, norm, monkeypatch
):
    """A mask head is given the detections: how many they are decides on its statistics."""
    common = ("MODEL.ROI_MASK_HEAD.NORM", norm, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)

    def calibrated(*overrides):
        asked = []

        def calibrate(cfg, model, calibrations, points, images):
            for point in points:
                asked.append(point)
                batch = [{"image": torch.rand(3, 64, 64) * 255}]
                # Not the oracle's, which has no use for its heads.
                calibrations.calibrate(point, [batch], partial(MutualRCNN.inference, model))

        monkeypatch.setattr(grid_module, "calibrate_points", calibrate)
        evaluate(setting(*common, *overrides), tmp_path / "grid", POINTS[:1])
        return bool(asked)

    assert calibrated()
    assert not calibrated()
    assert calibrated("TEST.DETECTIONS_PER_IMAGE", 50) == bool(norm)
    assert calibrated("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.4) == bool(norm)
    assert calibrated("MODEL.FPN.FUSE_TYPE", "avg")


def test_broken_calibrations_can_be_deleted(quick, setting, tmp_path):
    path = tmp_path / "grid" / "calibrations.pth"
    evaluate(setting(), tmp_path / "grid", POINTS[:1])
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(CheckpointError, match=r"calibrations\.pth(.|\n)*Delete the file"):
        evaluate(setting(), tmp_path / "grid", POINTS[:1])
    path.unlink()
    evaluate(setting(), tmp_path / "grid", POINTS[:1])


def test_without_calibration(quick, setting, tmp_path):
    with pytest.raises(UncalibratedError, match=r"0\.25x64, 0\.25x96, 1\.00x64, 1\.00x96"):
        evaluate(setting(), tmp_path / "grid", calibrate=False)


@pytest.mark.parametrize("killed_after", [0, 1, 7, 18, 19])
def test_a_killed_evaluation_resumed_equals_an_undisturbed_one(
    quick, setting, asked, tmp_path, monkeypatch, killed_after
):
    evaluate(setting(), tmp_path / "undisturbed")
    monkeypatch.setattr(workers_module, "COMMIT_PERIOD", 0)  # an image at a time
    Oracle.forwards, Oracle.stop_after = 0, killed_after
    with pytest.raises(KeyboardInterrupt):
        evaluate(setting(), tmp_path / "killed")
    assert not (tmp_path / "killed" / "grid.json").exists()

    asked.clear()  # all were calibrated before the kill
    Oracle.forwards, Oracle.stop_after = 0, math.inf
    evaluate(setting(), tmp_path / "killed", resume=True)
    assert not asked
    images_done = killed_after // len(POINTS)
    expected = (len(SIZES) - images_done) * len(POINTS) + MEMORY_FORWARDS
    assert Oracle.forwards == expected
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_killed_while_scoring(quick, setting, tmp_path, monkeypatch):
    evaluate(setting(), tmp_path / "undisturbed")
    original, scored = CocoRules.__call__, []

    def score(rules, detections, iou_type):
        scored.append(iou_type)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return original(rules, detections, iou_type)

    monkeypatch.setattr(CocoRules, "__call__", score)
    with pytest.raises(KeyboardInterrupt):
        evaluate(setting(), tmp_path / "killed")
    Oracle.forwards = 0
    evaluate(setting(), tmp_path / "killed", resume=True)
    assert Oracle.forwards == MEMORY_FORWARDS
    assert scored[4:] == ["bbox", "segm"] * 3  # the first point was kept
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_resuming_a_complete_evaluation_runs_nothing(quick, setting, tmp_path):
    grid = evaluate(setting(), tmp_path / "grid")
    Oracle.forwards = 0
    assert evaluate(setting(), tmp_path / "grid", resume=True) == grid
    assert Oracle.forwards == 0
    # One that was written before tables had names in them is given them.
    Grid(grid.rows, {k: v for k, v in grid.run.items() if k != "classes"}).save(tmp_path / "grid")
    assert not QueryTable.load(tmp_path / "grid/query_table.json").classes
    assert evaluate(setting(), tmp_path / "grid", resume=True) == grid
    assert QueryTable.load(tmp_path / "grid/query_table.json") == grid.query_table()
    assert Oracle.forwards == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"overrides": ("INPUT.MAX_SIZE_TEST", 150)}, "INPUT.MAX_SIZE_TEST: there 160, here 150"),
        ({"points": POINTS[:3]}, r"differs in points: there .*1\.00x96"),
        ({"edit": scale_weights}, "differs in weights"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_refuses_to_continue_another_evaluation(
    quick, setting, tmp_path, change, message, complete
):
    if not complete:
        Oracle.stop_after = 6
    with contextlib.suppress(KeyboardInterrupt):
        evaluate(setting(), tmp_path / "grid")
    made = setting(*change.get("overrides", ()))
    change.get("edit", lambda made: None)(made)
    points = change.get("points", POINTS)
    Oracle.stop_after = math.inf
    with pytest.raises(ProgressError, match=message + r"(.|\n)*--resume"):
        evaluate(made, tmp_path / "grid", points, resume=True)
    evaluate(made, tmp_path / "grid", points)  # afresh: nothing of the old is left
    assert len(Grid.load(tmp_path / "grid" / "grid.json").rows) == len(points)
    assert len(list((tmp_path / "grid" / "detections").iterdir())) == 2 * len(points)


def test_an_image_that_does_not_decode_is_named_and_nothing_lost(
    quick, setting, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers_module, "COMMIT_PERIOD", 0)
    # As if it had broken since it was checked.
    monkeypatch.setattr("mutualnet_det.data.image_faults.image_fault", lambda *_, **__: None)
    broken = tmp_path / "images" / "12.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"12\.png"):
        evaluate(setting(), tmp_path / "grid")
    broken.write_bytes(whole)
    Oracle.forwards = 0
    evaluate(setting(), tmp_path / "grid", resume=True)
    assert Oracle.forwards == 3 * len(POINTS) + MEMORY_FORWARDS


def test_an_image_of_another_size_is_named(quick, setting, tmp_path):
    Image.new("RGB", (50, 50)).save(tmp_path / "images" / "12.png")
    with pytest.raises(DatasetError, match=r"12\.png"):
        evaluate(setting(), tmp_path / "grid")


def test_images_that_cannot_be_used_are_left_out_where_bad_records_are_skipped(
    quick, setting, tmp_path
):
    images = tmp_path / "images"
    Image.new("RGB", (50, 50)).save(images / "12.png")
    noise = np.random.default_rng(0).integers(0, 256, (96, 240, 3), np.uint8)
    Image.fromarray(noise).save(images / "14.png")
    content = (images / "14.png").read_bytes()
    middle = len(content) // 2  # its header, and its end, are whole
    (images / "14.png").write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    grid = evaluate(setting("MUTUALNET.BAD_RECORDS", "skip"), tmp_path / "grid")
    truth = json.loads((tmp_path / "grid" / "ground_truth.json").read_text())
    assert [image["id"] for image in truth["images"]] == [10, 11, 13]
    assert {a["image_id"] for a in truth["annotations"]} == {10, 11}
    assert grid.run["num_images"] == 3
    assert [path[-6:] for path in grid.run["images_left_out"]] == ["12.png", "14.png"]
    note = "2 of 5 images cannot be used and are left out: 12.png, 14.png"
    assert str(grid).splitlines()[-1] == note
    assert (tmp_path / "grid" / "query_table.txt").read_text().splitlines()[-1] == note


def test_classes_that_are_not_those_of_the_model(quick, setting, tmp_path):
    cfg, model, calibrations = setting()
    names = [f"class {id_}" for id_ in CATEGORIES]
    model.class_names = {"thing_classes": names}
    evaluate((cfg, model, calibrations), tmp_path / "grid")
    model.class_names = {"thing_classes": names[::-1]}
    with pytest.raises(DatasetError, match="(?s)the model .*in another order.*MODEL.WEIGHTS"):
        evaluate((cfg, model, calibrations), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_without_masks(quick, setting, tmp_path):
    grid = evaluate(setting("MODEL.MASK_ON", False), tmp_path / "grid")
    assert grid.kinds == ("box",) and all(row.scores["mask"] is None for row in grid.rows)
    assert {path.suffixes[-2] for path in (tmp_path / "grid" / "detections").iterdir()} == {".bbox"}
    assert grid.query_table().entries[0].mask_ap is None
    with open(tmp_path / "grid" / "grid.csv") as file:
        assert next(csv.DictReader(file))["mask_AP"] == ""


def test_no_detection_at_all(quick, setting, tmp_path, monkeypatch):
    cfg, model, calibrations = made = setting()
    model.pixel_mean.data.fill_(0)
    for path in (tmp_path / "images").iterdir():  # nothing in the pictures
        Image.new("RGB", Image.open(path).size).save(path)
    grid = evaluate(made, tmp_path / "grid")
    assert all(row.score(kind) == 0 for row in grid.rows for kind in ("box", "mask"))
    # By time, it may be another one.
    assert [entry.point for entry in grid.query_table().by_gflops()] == [POINTS[0]]


def test_leaves_the_model_as_it_was(quick, setting, tmp_path):
    cfg, model, calibrations = made = setting()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(made, tmp_path / "grid")
    assert model.training and width_of(model).is_full
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bad_requests(quick, setting, tmp_path, dataset):
    with pytest.raises(ConfigError, match=r"0\.10x64"):
        evaluate(setting(), tmp_path / "grid", [OperatingPoint(0.1, 64)])
    with pytest.raises(ValueError, match="points is empty"):
        evaluate(setting(), tmp_path / "grid", [])
    with pytest.raises(DatasetError, match="one data set"):
        evaluate(setting("DATASETS.TEST", (dataset, dataset)), tmp_path / "grid")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file.* cannot be written"):
        evaluate(setting(), tmp_path / "file")
    data = json.loads((tmp_path / "instances.json").read_text())
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    (tmp_path / "instances.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="no objects to find"):
        evaluate(setting(), tmp_path / "grid")


@pytest.mark.parametrize(
    "text, message",
    [
        *((text, "is not a grid.json") for text in ("{", "[]", "{}", '{"schema": "3"}')),
        ('{"schema": 3, "run": {}, "rows": [{}]}', "is not a grid.json"),
        ('{"schema": 9}', "has schema 9, .* Update mutualnet_det"),
        ('{"schema": 2, "rows": [{}]}', "has schema 2, .* Evaluate the grid again"),
    ],
)
def test_a_file_that_is_no_grid_is_refused(tmp_path, text, message):
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(ValueError, match=r"grid\.json " + message):
        Grid.load(tmp_path / "grid.json")
