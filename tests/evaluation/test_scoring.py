"""Scoring: the numbers of pycocotools run by hand, null where there is nothing to find."""

import contextlib
import copy
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mutualnet_det.data.coco import renumbered_ground_truth
from mutualnet_det.data.masks import run_lengths
from mutualnet_det.evaluation.coco_evaluators import (
    COCO_LIMITS,
    EVALUATORS,
    default_evaluator,
    evaluator_version,
)
from mutualnet_det.evaluation.scoring import (
    AP_METRICS,
    KIND_OF,
    KINDS,
    coco_results,
    load_ground_truth,
    only,
    score,
)
from mutualnet_det.runtime.query_table import COCO_METRICS, SCORE_LABELS

DATA = Path(__file__).parents[2] / "../shared/data"
REAL = {
    "coco_mini": "annotations/instances_val2017.json",  # crowds; two categories without objects
    "facade": "annotations/instances_val.json",
    "blood_cells": "annotations/instances_val.json",  # no masks; a category without objects
}


def polygon(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def annotation(id_, image, category, box, crowd=0):
    return {
        "id": id_,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": crowd,
        "segmentation": polygon(*box),
    }


@pytest.fixture
def ground_truth():
    """Two images, categories 3 and 7 (and 9 without objects), no object of a large area."""
    return {
        "info": {},
        "images": [{"id": 5, "height": 100, "width": 100}, {"id": 8, "height": 80, "width": 120}],
        "categories": [
            {"id": 3, "name": "cat"},
            {"id": 7, "name": "dog"},
            {"id": 9, "name": "unicorn"},
        ],
        "annotations": [
            annotation(1, 5, 3, (10, 10, 40, 40)),
            annotation(2, 5, 7, (60, 60, 20, 20)),
            annotation(3, 8, 3, (5, 5, 50, 50)),
            annotation(4, 8, 7, (70, 10, 40, 40)),
        ],
    }


def instances(size, boxes, scores, classes):
    result = Instances(size)
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    result.pred_masks = masks
    return result


@pytest.fixture
def detections():
    """Boxes as (x0, y0, x1, y1); class 0 is category 3, class 1 category 7."""
    first = instances((100, 100), [(10, 10, 50, 50), (62, 61, 80, 80)], [0.9, 0.8], [0, 1])
    # A false alarm of a large area, whose box is larger than its mask.
    boxes = [(8, 5, 55, 55), (0, 0, 119, 79), (70, 10, 110, 50)]
    second = instances((80, 120), boxes, [0.7, 0.95, 0.6], [0, 1, 1])
    second.pred_masks[1, 40:] = False
    categories = [3, 7, 9]
    return coco_results(first, 5, categories) + coco_results(second, 8, categories)


def by_hand(ground_truth_file, detections_file, iou_type):
    """The way pycocotools' own demo does it."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(ground_truth_file)
        evaluation = COCOeval(truth, truth.loadRes(detections_file), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6] * 100


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_pycocotools_on_the_files(tmp_path, ground_truth, detections, iou_type, evaluator):
    (tmp_path / "gt.json").write_text(json.dumps(ground_truth))
    (tmp_path / "dt.json").write_text(json.dumps(list(only(iou_type, detections))))
    expected = by_hand(str(tmp_path / "gt.json"), str(tmp_path / "dt.json"), iou_type)
    scores = score(load_ground_truth(ground_truth, evaluator), detections, iou_type)
    actual = [-100 if scores[metric] is None else scores[metric] for metric in AP_METRICS]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0)
    assert 0 < scores["AP"] < 100 and scores["APl"] is None


def test_a_mask_counts_with_its_own_area(ground_truth, detections):
    # Scored beside its box, the false alarm would be large for COCO, and out of APm.
    beside_boxes = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        beside_boxes.dataset = copy.deepcopy(ground_truth)
        beside_boxes.createIndex()
        evaluation = COCOeval(beside_boxes, beside_boxes.loadRes(copy.deepcopy(detections)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert score(ground_truth, detections, "segm")["APm"] != pytest.approx(
        evaluation.stats[4] * 100
    )


def test_per_class(ground_truth, detections):
    per_class = score(ground_truth, detections, "bbox")["per_class"]
    assert list(per_class) == ["cat", "dog", "unicorn"]
    assert per_class["unicorn"] is None
    assert per_class["cat"] > per_class["dog"] > 0
    mean = (per_class["cat"] + per_class["dog"]) / 2
    assert score(ground_truth, detections, "bbox")["AP"] == pytest.approx(mean)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections(ground_truth, iou_type, evaluator):
    scores = score(load_ground_truth(ground_truth, evaluator), [], iou_type)
    assert scores["AP"] == 0 and scores["AP50"] == 0 and scores["APl"] is None


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_leaves_its_arguments_alone_and_prints_nothing(ground_truth, detections, evaluator, capsys):
    before = copy.deepcopy((ground_truth, detections))
    for iou_type in ("bbox", "segm"):
        score(load_ground_truth(ground_truth, evaluator), detections, iou_type)
    assert (ground_truth, detections) == before
    assert capsys.readouterr().out == ""


def test_results_have_the_data_sets_own_categories(detections):
    assert [d["category_id"] for d in detections] == [3, 7, 3, 7, 7]
    assert detections[0]["bbox"] == [10, 10, 40, 40] and detections[0]["image_id"] == 5
    assert isinstance(detections[0]["segmentation"]["counts"], str)
    assert coco_results(instances((10, 10), [], [], []), 1, [3]) == []


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_keypoint_ap_has_the_given_sigmas(evaluator):
    """Two objects: one found exactly, one with keypoints off by a known distance."""
    sigma, area, offset = 0.05, 10000.0, 12.0
    boxes = [[0.0, 0.0, 100.0, 100.0], [200.0, 0.0, 100.0, 100.0]]
    points = [[10.0, 10.0, 50.0, 80.0], [210.0, 10.0, 250.0, 80.0]]
    ground_truth = {
        "images": [{"id": 1, "width": 400, "height": 200}],
        "categories": [{"id": 1, "name": "a", "keypoints": ["p", "q"], "skeleton": []}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": boxes[i],
                "area": area,
                "iscrowd": 0,
                "num_keypoints": 2,
                "keypoints": [points[i][0], points[i][1], 2, points[i][2], points[i][3], 2],
            }
            for i in range(2)
        ],
    }
    detections = [
        {
            "image_id": 1,
            "category_id": 1,
            "bbox": boxes[i],
            "score": 0.9 - 0.1 * i,
            "keypoints": [
                *(points[i][0] + i * offset, points[i][1], 1.0),
                *(points[i][2] + i * offset, points[i][3], 1.0),
            ],
        }
        for i in range(2)
    ]
    # The object keypoint similarity of COCO's evaluation page.
    similarity = math.exp(-(offset**2) / (2 * area * (2 * sigma) ** 2))
    assert 0.45 < similarity < 0.5  # at no threshold a match
    ground_truth = load_ground_truth(ground_truth, evaluator)
    scores = score(ground_truth, detections, "keypoints", [sigma] * 2)
    # Half of the objects found, with the higher score: precision 1 up to recall 0.5.
    assert scores["AP"] == pytest.approx(100 * 51 / 101)
    assert score(ground_truth, detections, "keypoints", [2 * sigma] * 2)["AP50"] == 100
    assert set(scores) == {"AP", "AP50", "AP75", "APm", "APl", "per_class"}
    assert scores["APm"] is None


def in_one_image(count, categories=1):
    """That many objects in rows of 20, found exactly, by falling score."""
    objects = [
        annotation(i + 1, 5, i % categories, (10 * (i % 20), 10 * (i // 20), 8, 8))
        | {"keypoints": [10 * (i % 20), 10 * (i // 20), 2] * 17, "num_keypoints": 17}
        for i in range(count)
    ]
    truth = {
        "images": [{"id": 5, "height": 200, "width": 200}, {"id": 6, "height": 9, "width": 9}],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(categories)],
        "annotations": objects,
    }
    sizes = {"size": [200, 200]}
    found = [
        {
            **{key: o[key] for key in ("image_id", "category_id", "bbox", "keypoints")},
            "segmentation": sizes
            | {"counts": run_lengths(o["segmentation"], 200, 200)["counts"].decode()},
            "score": 0.9 - i / 1000,
        }
        for i, o in enumerate(objects)
    ]
    return truth, found


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("iou_type, limit", COCO_LIMITS.items())
def test_all_detections_count_where_an_image_has_more_objects_than_coco_counts(
    iou_type, limit, evaluator, tmp_path
):
    truth, detections = in_one_image(limit)
    scores = score(load_ground_truth(truth, evaluator), detections, iou_type)
    assert scores["AP"] == 100 and f"AP@{limit}" not in scores

    truth, detections = in_one_image(limit + limit // 2)
    scores = score(load_ground_truth(truth, evaluator), detections, iou_type)
    assert scores["AP"] == scores["per_class"]["class 0"] == 100
    # COCO's own: two thirds of the objects can be found, 67 of 101 recalls.
    assert scores[f"AP@{limit}"] == pytest.approx(100 * 67 / 101)
    if iou_type != "keypoints":
        (tmp_path / "gt.json").write_text(json.dumps({"info": {}, **truth}))
        (tmp_path / "dt.json").write_text(json.dumps(list(only(iou_type, detections))))
        by_coco = by_hand(str(tmp_path / "gt.json"), str(tmp_path / "dt.json"), iou_type)
        assert scores[f"AP@{limit}"] == by_coco[0]
    # Also where few are found, so that a table has one meaning.
    assert score(load_ground_truth(truth, evaluator), detections[:1], iou_type)[f"AP@{limit}"] < 5


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_objects_of_all_classes_count_in_an_image_and_crowds_do_not(evaluator):
    truth, detections = in_one_image(120, categories=3)
    scores = score(load_ground_truth(truth, evaluator), detections, "bbox")
    assert scores["AP"] == scores["AP@100"] == 100
    for item in truth["annotations"][:20]:
        item["iscrowd"] = 1
    assert "AP@100" not in score(load_ground_truth(truth, evaluator), detections, "bbox")


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_results_of_something_else_are_refused(ground_truth, detections, key, evaluator):
    detections[1][key] = 99
    with pytest.raises(ValueError, match=rf"no record of {key} 99\."):
        score(load_ground_truth(ground_truth, evaluator), detections, "bbox")


def test_every_column_of_a_query_table_is_some_kinds_and_labelled_there():
    columns = [c for kind in KINDS.values() for c in (*kind.columns, *kind.coco_columns)]
    assert sorted(columns) == sorted(SCORE_LABELS)
    for kind in KINDS.values():
        assert kind.metrics[0] == next(iter(kind.columns.values()))
        assert set(kind.columns.values()) <= set(kind.metrics)
        assert all(COCO_METRICS[column] in kind.columns for column in kind.coco_columns)
    for iou_type, limit in COCO_LIMITS.items():
        assert list(KINDS[KIND_OF[iou_type]].coco_columns.values()) == [f"AP@{limit}"]
    assert KINDS["class"].label == "top-1 accuracy" and KINDS["mask"].label == "mask AP"


def real_ground_truth(name):
    """Ground truth of a real data set, as the grid has it; the first image has no objects left."""
    path = DATA / name / REAL[name]
    if not path.is_file():
        pytest.skip(f"no {path}")
    truth = renumbered_ground_truth(str(path), need_masks=name != "blood_cells")
    first = truth["images"][0]["id"]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] != first]
    return truth


def moved(truth, rng):
    """
    Detections made of the objects: moved, grown, some twice, some of another class, some not found,
    and those of the first image made up. Scores are tenths, so that many tie.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    first = truth["images"][0]["id"]
    categories = [category["id"] for category in truth["categories"]]
    made_up = {**truth["annotations"][0], "image_id": first}
    detections = []
    for annotation in [made_up, *truth["annotations"], *truth["annotations"][::3]]:
        if rng.random() < 0.1:
            continue
        x, y, w, h = annotation["bbox"]
        dx, dy, grown = rng.normal(0, rng.choice([0.02, 0.15]), 3) * (w, h, 1)
        detection = {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": [x + dx, y + dy, w * math.exp(grown), h],
            "score": round(float(rng.random()), 1),
        }
        if rng.random() < 0.1:
            detection["category_id"] = int(rng.choice(categories))
        polygons = annotation["segmentation"]
        if not isinstance(polygons, list) or not polygons:
            polygons = polygon(x, y, w, h)
        polygons = [[v + (dy if i % 2 else dx) for i, v in enumerate(p)] for p in polygons]
        size = sizes[annotation["image_id"]]
        mask = mask_util.merge(mask_util.frPyObjects(polygons, *size))
        detection["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        if "keypoints" in annotation:
            keypoints = np.array(annotation["keypoints"], float).reshape(-1, 3)
            keypoints[:, :2] += rng.normal(0, 0.05, 2) * (w, h)
            detection["keypoints"] = keypoints.reshape(-1).tolist()
        detections.append(detection)
    return detections


def add_keypoints(truth, rng):
    """No real data at hand has any: 17 within each object's box, labelled or not."""
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        flags = rng.integers(0, 3, 17) * (not annotation["iscrowd"]) * (rng.random() > 0.1)
        keypoints = np.stack([x + w * rng.random(17), y + h * rng.random(17), flags], axis=1)
        annotation["keypoints"] = keypoints.reshape(-1).tolist()
        annotation["num_keypoints"] = int((flags > 0).sum())


@pytest.mark.parametrize("name", REAL)
def test_both_evaluators_agree_on_real_data(name):
    rng = np.random.default_rng(0)
    truth = real_ground_truth(name)
    add_keypoints(truth, rng)
    detections = moved(truth, rng)
    both = [load_ground_truth(truth, evaluator) for evaluator in EVALUATORS]
    settings = [("bbox", ())]
    if name != "blood_cells":
        settings.append(("segm", ()))
    if name == "coco_mini":
        settings += [("keypoints", ()), ("keypoints", np.linspace(0.02, 0.12, 17))]
    for iou_type, sigmas in settings:
        hotcoco, pycocotools = (
            score(ground_truth, detections, iou_type, list(sigmas)) for ground_truth in both
        )
        assert hotcoco == pycocotools  # 1e-4 is asked for; they are the same numbers
        assert 5 < hotcoco["AP"] < 95
        assert len(hotcoco["per_class"]) == len(truth["categories"])
        per_class = [ap for ap in hotcoco["per_class"].values() if ap is not None]
        assert hotcoco["AP"] == pytest.approx(np.mean(per_class))


def test_what_annotations_hold_beside_does_not_matter(ground_truth, detections):
    expected = score(ground_truth, detections, "segm")
    ground_truth["images"][0] |= {"license": "by", "coco_url": None}
    ground_truth["annotations"][0] |= {"attributes": {"occluded": False}, "keypoints": [1, 2, 3]}
    for evaluator in EVALUATORS:
        assert score(load_ground_truth(ground_truth, evaluator), detections, "segm") == expected


def test_pycocotools_scores_where_hotcoco_is_not_installed(ground_truth, detections, monkeypatch):
    assert default_evaluator() == "hotcoco" and evaluator_version().startswith("hotcoco 1.")
    expected = score(ground_truth, detections, "segm")
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # an import fails
    assert default_evaluator() == "pycocotools"
    assert evaluator_version().startswith("pycocotools 2.")
    assert score(ground_truth, detections, "segm") == expected
