"""Scores by the rules of LVIS, Pascal VOC and Cityscapes, on a few records as they lie on disk."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.data.datasets.lvis import register_lvis_instances
from detectron2.evaluation import CityscapesInstanceEvaluator, PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from mutualnet_det.data.coco import ground_truth_file, load_records, renumbered_ground_truth
from mutualnet_det.data.converting import converted
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.engine import setup
from mutualnet_det.evaluation.coco_evaluators import LvisEvaluator
from mutualnet_det.evaluation.rules import rules_name, rules_of
from mutualnet_det.evaluation.scoring import coco_results, score


@pytest.fixture
def register():
    """Calls a function of Detectron2's that registers a data set; forgets it afterwards."""
    names = []

    def call(function, name, *args):
        names.append(name)
        function(name, *args)

    yield call
    converted.cache_clear()
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def rules_on(dataset):
    content = renumbered_ground_truth(ground_truth_file(dataset))
    return rules_of(dataset)(content, MetadataCatalog.get(dataset))


def picture(path, size=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


# LVIS --------------------------------------------------------------------------------------------

BOX = [10.0, 10.0, 40.0, 40.0]
ELSEWHERE = [60.0, 60.0, 20.0, 20.0]


def lvis_content(images):
    """Of each image: the categories with an object at BOX, those looked for in vain, in part."""
    return {
        "images": [
            {
                "id": number,
                "height": 100,
                "width": 100,
                "coco_url": f"http://images.cocodataset.org/val2017/{number:012d}.jpg",
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": in_part,
            }
            for number, (_, absent, in_part) in enumerate(images, start=1)
        ],
        "annotations": [
            {
                "id": 10 * number + category,
                "image_id": number,
                "category_id": category,
                "bbox": BOX,
                "area": 1600.0,
                "segmentation": [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]],
            }
            for number, (present, *_) in enumerate(images, start=1)
            for category in present
        ],
        "categories": [
            {"id": 1, "name": "ant", "frequency": "r"},
            {"id": 2, "name": "bee", "frequency": "c"},
            {"id": 3, "name": "cow", "frequency": "f"},
        ],
    }


def found(image, category, sureness, box=BOX):
    return {"image_id": image, "category_id": category, "bbox": box, "score": sureness}


def test_a_class_counts_where_lvis_has_looked_for_it():
    # Cows were not looked for on the first image, ants not on the second.
    content = lvis_content([((1, 2), (), ()), ((3,), (2,), ())])
    truth = LvisEvaluator(content)
    right = [found(1, 1, 0.5), found(1, 2, 0.5), found(2, 3, 0.5)]
    everywhere = [found(1, 3, 0.9), found(2, 1, 0.9)]
    scores = score(truth, [*right, *everywhere], "bbox")
    assert scores["per_class"] == pytest.approx({"ant": 100.0, "bee": 100.0, "cow": 100.0})
    # Bees were looked for on the second.
    scores = score(truth, [*right, found(2, 2, 0.9)], "bbox")
    assert scores["per_class"]["bee"] == pytest.approx(50.0)
    assert (scores["APr"], scores["APf"]) == pytest.approx((100.0, 100.0))
    assert scores["APc"] == scores["per_class"]["bee"]
    assert scores["AP"] == pytest.approx(250 / 3)


def test_what_finds_nothing_is_excused_where_not_all_objects_are_marked():
    detections = [found(1, 1, 0.9, ELSEWHERE), found(1, 1, 0.5)]
    for in_part, expected in (((), 50.0), ((1,), 100.0)):
        truth = LvisEvaluator(lvis_content([((1,), (), in_part)]))
        assert score(truth, list(detections), "bbox")["per_class"]["ant"] == pytest.approx(expected)


def test_a_ground_truth_that_does_not_say_what_was_looked_for():
    content = lvis_content([((1,), (), ())])
    del content["images"][0]["neg_category_ids"]
    with pytest.raises(DatasetError, match="'neg_category_ids' is missing in the record 1 of ima"):
        LvisEvaluator(content)


def test_lvis_is_read_by_its_registered_name(register, make_training_cfg, tmp_path):
    (tmp_path / "lvis.json").write_text(json.dumps(lvis_content([((1, 3), (2,), ())])))
    picture(tmp_path / "coco/val2017/000000000001.jpg")
    files = str(tmp_path / "lvis.json"), f"{tmp_path}/coco/"
    # As Detectron2 registers it: by the first synonym of each class.
    metadata = {"thing_classes": ["ant", "bumblebee", "cow"]}
    register(register_lvis_instances, "small_lvis", metadata, *files)
    cfg = make_training_cfg(tmp_path)
    (record,) = load_records(cfg, "small_lvis")
    assert record["file_name"] == str(tmp_path / "coco/val2017/000000000001.jpg")
    assert [a["category_id"] for a in record["annotations"]] == [0, 2]
    scores = rules_on("small_lvis")([found(1, 1, 0.9)], "bbox")
    assert scores["APr"] == pytest.approx(100.0) and scores["APf"] == 0.0 and scores["APc"] is None
    assert rules_name(rules_of("small_lvis")) == "hotcoco, by LVIS's rules"


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("lvis_v1_val", "hotcoco", "eval"),
        ("cityscapes_fine_instance_seg_val", "cityscapesscripts", "cityscapes"),
    ],
)
def test_a_package_that_is_missing_is_named(monkeypatch, name, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    expected = rf"{name}' is scored by {package}, .*pip install \"mutualnet_det\[{extra}\]"
    with pytest.raises(DatasetError, match=expected):
        rules_of(name)


def test_what_rules_lack_is_told_before_training_starts(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    options = ("TEST.EVAL_PERIOD", "10", "DATASETS.TEST", "('lvis_v1_val',)")
    args = SimpleNamespace(
        config_file="quickstart_shapes",
        opts=[*options, "OUTPUT_DIR", str(tmp_path)],
        eval_only=False,
        resume=False,
    )
    with pytest.raises(DatasetError, match="'lvis_v1_val' is scored by hotcoco, which is missing"):
        setup(args)
    assert not list(tmp_path.iterdir())


# Pascal VOC --------------------------------------------------------------------------------------

VOC_CLASSES = ("cat", "dog")


@pytest.fixture(params=[2007, 2012])
def voc(request, register, tmp_path):
    """The name of a data set with easy and difficult objects on eight images."""
    rng = np.random.default_rng(1)
    names = [f"{number:06d}" for number in range(1, 9)]
    for name in names:
        picture(tmp_path / f"VOC/JPEGImages/{name}.jpg")
        objects = ""
        for place in range(3):
            x, y = rng.integers(1, 50, 2)
            kind = VOC_CLASSES[rng.integers(2)]
            objects += (
                f"<object><name>{kind}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{int(place == 2)}</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
                f"<xmax>{x + 40}</xmax><ymax>{y + 30}</ymax></bndbox></object>"
            )
        path = tmp_path / f"VOC/Annotations/{name}.xml"
        path.parent.mkdir(exist_ok=True)
        size = "<size><width>100</width><height>100</height><depth>3</depth></size>"
        path.write_text(f"<annotation>{size}{objects}</annotation>")
    (tmp_path / "VOC/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "VOC/ImageSets/Main/val.txt").write_text("\n".join(names))
    name = f"small_voc_{request.param}"
    register(register_pascal_voc, name, str(tmp_path / "VOC"), "val", request.param, VOC_CLASSES)
    MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    return name


@pytest.fixture
def cfg_of_boxes(make_training_cfg, tmp_path):
    cfg = make_training_cfg(tmp_path)
    cfg.MODEL.MASK_ON = False
    return cfg


def test_voc_is_scored_as_detectron2_scores_it(voc, cfg_of_boxes, tmp_path):
    records = load_records(cfg_of_boxes, voc)
    assert len(records) == 8 and {len(r["annotations"]) for r in records} == {3}
    reference = PascalVOCDetectionEvaluator(voc)
    reference.reset()
    rng = np.random.default_rng(2)
    detections = []
    originals = {record["file_name"]: record for record in DatasetCatalog.get(voc)}
    for record in records:
        boxes = np.array([a["bbox"] for a in record["annotations"]]).repeat(2, axis=0)
        boxes = np.maximum(boxes + rng.normal(0, 3, boxes.shape), 1).astype(np.float32)
        scores, classes = rng.uniform(size=6), rng.integers(0, 2, 6)
        for box, sureness, kind in zip(
            boxes.tolist(), scores.tolist(), classes.tolist(), strict=True
        ):
            detections.append(found(record["image_id"], kind, sureness, box))
        instances = Instances((100, 100))
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        instances.pred_boxes = Boxes(torch.from_numpy(corners))
        instances.scores, instances.pred_classes = map(torch.from_numpy, (scores, classes))
        reference.process([originals[record["file_name"]]], [{"instances": instances}])
    expected = reference.evaluate()["bbox"]
    scores = rules_on(voc)(detections, "bbox")
    assert 5 < scores["AP"] < 95
    for metric in ("AP", "AP50", "AP75"):
        assert scores[metric] == pytest.approx(expected[metric], abs=1e-9)
    assert scores["APs"] is None and set(scores["per_class"]) == set(VOC_CLASSES)
    assert rules_on(voc)([], "bbox")["AP"] == 0.0


def test_a_class_without_objects_does_not_count(voc, cfg_of_boxes, tmp_path):
    content = renumbered_ground_truth(ground_truth_file(voc))
    content["categories"].append({"id": 7, "name": "emu"})
    rules = rules_of(voc)(content, MetadataCatalog.get(voc))
    scores = rules([found(1, 7, 0.9)], "bbox")
    assert scores["per_class"]["emu"] is None and scores["AP"] == 0.0


def test_masks_that_voc_lacks_are_told(voc, make_training_cfg, tmp_path):
    with pytest.raises(DatasetError, match="has boxes but no masks.*MODEL.MASK_ON False"):
        load_records(make_training_cfg(tmp_path), voc)


def test_files_that_are_missing_are_named(register, cfg_of_boxes, tmp_path):
    register(register_pascal_voc, "no_voc", str(tmp_path / "nowhere"), "val", 2007, VOC_CLASSES)
    MetadataCatalog.get("no_voc").evaluator_type = "pascal_voc"
    with pytest.raises(DatasetError, match="'no_voc' cannot be read: .*nowhere.*DETECTRON2_DATA"):
        load_records(cfg_of_boxes, "no_voc")


# Cityscapes --------------------------------------------------------------------------------------


@pytest.fixture
def cityscapes(register, tmp_path):
    """Two images with a car and a person each, as the fine annotations lie on disk."""
    labels = {"car": 26, "person": 24}
    folders = [tmp_path / "leftImg8bit/val", tmp_path / "gtFine/val"]
    for number in range(2):
        stem = f"town_00000{number}_000019"
        picture(folders[0] / f"town/{stem}_leftImg8bit.png", 200)
        (folders[1] / "town").mkdir(parents=True, exist_ok=True)
        truth = f"{folders[1]}/town/{stem}_gtFine_"
        ids = np.zeros((200, 200), np.uint16)
        objects = []
        for place, (kind, label) in enumerate(labels.items()):
            x, y = 10 + 95 * place, 20 + 30 * number
            ids[y : y + 80, x : x + 60] = 1000 * label
            corners = [[x, y], [x + 59, y], [x + 59, y + 79], [x, y + 79]]
            objects.append({"label": kind, "polygon": corners})
        Image.fromarray(ids).save(f"{truth}instanceIds.png")
        Image.fromarray((ids // 1000).astype(np.uint8)).save(f"{truth}labelIds.png")
        polygons = {"imgHeight": 200, "imgWidth": 200, "objects": objects}
        Path(f"{truth}polygons.json").write_text(json.dumps(polygons))

    def add(name):
        image_dir, gt_dir = map(str, folders)
        DatasetCatalog.register(name, lambda: load_cityscapes_instances(image_dir, gt_dir))
        classes = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
        MetadataCatalog.get(name).set(
            gt_dir=gt_dir, evaluator_type="cityscapes_instance", thing_classes=classes
        )

    register(add, "small_cityscapes")
    return "small_cityscapes"


def test_cityscapes_is_scored_as_detectron2_scores_it(
    cityscapes, make_training_cfg, tmp_path, monkeypatch
):
    pytest.importorskip("cityscapesscripts")
    cfg = make_training_cfg(tmp_path)
    records = load_records(cfg, cityscapes)
    assert [len(record["annotations"]) for record in records] == [2, 2]
    reference = CityscapesInstanceEvaluator(cityscapes)
    reference.reset()
    detections = []
    for image, record in enumerate(records):
        masks = np.zeros((3, 200, 200), np.uint8)
        for place, annotation in enumerate(record["annotations"]):
            x, y, width, height = map(int, annotation["bbox"])
            masks[place, y + 9 * image + 4 : y + height, x : x + width] = 1
        masks[2, :30, :9] = 1
        classes = torch.tensor([*(a["category_id"] for a in record["annotations"]), 2])
        instances = Instances((200, 200))
        instances.pred_masks = torch.from_numpy(masks).bool()
        instances.scores = torch.tensor([0.5, 0.75, 0.875])
        instances.pred_classes = classes
        instances.pred_boxes = Boxes(torch.zeros(3, 4))
        reference.process([record], [{"instances": instances}])
        detections += coco_results(instances, record["image_id"], range(8))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    expected = reference.evaluate()["segm"]  # it leaves a file where it is called
    monkeypatch.chdir(tmp_path / "here")
    scores = rules_on(cityscapes)(detections, "segm")
    assert 5 < scores["AP"] < 95
    assert (scores["AP"], scores["AP50"]) == pytest.approx((expected["AP"], expected["AP50"]))
    assert set(scores["per_class"]) >= {"car", "person"} and scores["APs"] is None
    assert not list((tmp_path / "here").iterdir())


def test_without_the_packages_of_cityscapes(cityscapes, make_training_cfg, tmp_path, monkeypatch):
    for name in ("cityscapesscripts", "cityscapesscripts.helpers.labels"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DatasetError, match="'small_cityscapes' needs cityscapes.* pip install"):
        load_records(make_training_cfg(tmp_path), cityscapes)
