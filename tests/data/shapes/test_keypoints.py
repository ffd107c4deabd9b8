"""Keypoints of the generated data sets: where they lie, flips, visibility, files."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
import shapely
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    create_keypoint_hflip_indices,
    transform_instance_annotations,
)
from pycocotools import mask as mask_util

from mutualnet_det.data.coco import check_datasets, load_records
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.shapes import keypoints as shapes_keypoints
from mutualnet_det.data.shapes import objects as shapes
from mutualnet_det.data.shapes import scene as shapes_scene
from mutualnet_det.data.shapes.keypoints import KEYPOINT_NAMES, generate_keypoints, keypoints_of

SMALL = dataclasses.replace(shapes.SHAPES_VARIANTS["shapes"], image_size=96, sides=(16, 40))
OUTLINES = [c.outline for c in SMALL.classes]
SPLIT = "shapes_keypoints_val"


def object_of(outline, angle, at=(40.0, 50.0), side=30.0):
    points = shapes_scene.outline_points(outline, side, angle) + at
    polygon = shapely.Polygon(points)
    return shapes_scene.SceneObject(OUTLINES.index(outline), side, angle, polygon, polygon)


def points_of(item):
    """Coordinates in continuous px by name, and flags by name."""
    keypoints = np.array(keypoints_of(SMALL, item)).reshape(-1, 3)
    return dict(zip(KEYPOINT_NAMES, keypoints[:, :2] + 0.5, strict=True)), dict(
        zip(KEYPOINT_NAMES, keypoints[:, 2], strict=True)
    )


@pytest.mark.parametrize("angle", [0.1, 1.0, 2.5, 4.0, 6.1])
@pytest.mark.parametrize("outline", ["square", "triangle", "circle"])
def test_keypoints_are_the_centre_and_the_extreme_points(outline, angle):
    points, flags = points_of(object_of(outline, angle))
    assert set(flags.values()) == {2}
    np.testing.assert_allclose(points["center"], (40, 50), atol=0.01)
    if outline == "circle":
        expected = np.array([(40, 35), (55, 50), (40, 65), (25, 50)])
    else:
        corners, radius = (4, 30 / math.sqrt(2)) if outline == "square" else (3, 30 / math.sqrt(3))
        turns = angle + 2 * math.pi * np.arange(corners) / corners
        x, y = 40 + radius * np.cos(turns), 50 + radius * np.sin(turns)
        extremes = [y.argmin(), x.argmax(), y.argmax(), x.argmin()]
        expected = np.stack([x, y], axis=1)[extremes]
    actual = [points[name] for name in ("top", "right", "bottom", "left")]
    np.testing.assert_allclose(actual, expected, atol=0.011)


def test_a_covered_keypoint_is_labelled_but_not_visible():
    item = object_of("square", angle=math.pi / 4 + 0.05)  # corners near those of its box
    cover = shapely.box(38, 0, 96, 96)  # the right half, with the centre
    item = dataclasses.replace(item, visible=item.outline.difference(cover))
    _, flags = points_of(item)
    assert flags["left"] == 2
    assert flags["center"] == flags["right"] == 1


@pytest.mark.parametrize("outline", ["square", "triangle", "circle"])
def test_a_flipped_image_has_the_keypoints_of_the_flipped_object(outline):
    item = object_of(outline, angle=0.4)
    mirrored = object_of(outline, angle=math.pi - 0.4, at=(96 - 40.0, 50.0))
    annotation = {
        "bbox": [25, 35, 30, 30],
        "bbox_mode": 1,
        "keypoints": [
            v + 0.5 if i % 3 != 2 else v for i, v in enumerate(keypoints_of(SMALL, item))
        ],
    }
    flipped = transform_instance_annotations(
        annotation,
        T.TransformList([T.HFlipTransform(96)]),
        (96, 96),
        keypoint_hflip_indices=create_keypoint_hflip_indices([SPLIT]),
    )["keypoints"]
    expected, _ = points_of(mirrored)
    for keypoint, name in zip(flipped, KEYPOINT_NAMES, strict=True):
        np.testing.assert_allclose(keypoint[:2], expected[name], atol=0.02)


@pytest.fixture
def small_split(tmp_path, monkeypatch):
    """8 images of the validation split below a folder of their own, registered there."""
    part = dataclasses.replace(shapes.SHAPES_SPLITS["shapes_val"], num_images=8)
    monkeypatch.setitem(shapes.SHAPES_SPLITS, "shapes_val", part)
    monkeypatch.setitem(shapes.SHAPES_VARIANTS, "shapes", SMALL)
    twins = [n for n in DatasetCatalog.list() if n.startswith("shapes") and "_keypoints_" in n]
    saved = {n: (DatasetCatalog.data.pop(n), MetadataCatalog.data.pop(n)) for n in twins}
    shapes_keypoints.register_keypoints(str(tmp_path))
    yield str(tmp_path)
    for name, (dataset, metadata) in saved.items():
        DatasetCatalog.data[name], MetadataCatalog.data[name] = dataset, metadata


def keypoint_cfg(cfg):
    cfg.merge_from_list(
        [
            *("MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", True),
            *("DATASETS.TRAIN", (SPLIT,), "DATASETS.TEST", (SPLIT,)),
            *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5, "TEST.KEYPOINT_OKS_SIGMAS", [0.05] * 5),
        ]
    )
    return cfg


def test_the_project_and_detectron2_load_it(tiny_cfg, small_split):
    assert not os.listdir(small_split)
    cfg = keypoint_cfg(tiny_cfg)
    check_datasets(cfg)
    records = load_records(cfg, SPLIT)
    assert len(records) == 8
    mapper = DatasetMapper(cfg, is_train=True)
    for record in records:
        keypoints = np.array([a["keypoints"] for a in record["annotations"]]).reshape(-1, 5, 3)
        assert (keypoints[..., :2] >= 0).all() and (keypoints[..., :2] <= 96).all()
        instances = mapper(record)["instances"]
        assert instances.gt_keypoints.tensor.shape == (len(keypoints), 5, 3)
        # Flipped or not, left is left of the centre, and top above it.
        center, top, right, bottom, left = instances.gt_keypoints.tensor[..., :2].unbind(1)
        assert (left[:, 0] < center[:, 0]).all() and (center[:, 0] < right[:, 0]).all()
        assert (top[:, 1] < center[:, 1]).all() and (center[:, 1] < bottom[:, 1]).all()
        labelled = instances.gt_keypoints.tensor[..., 2]
        assert torch.isin(labelled, torch.tensor([1.0, 2.0])).all()


def test_annotations_are_the_instances_with_keypoints_added(small_split):
    name = "shapes_val"
    path = shapes_keypoints.ensure_shapes_keypoints(name, small_split)
    instances = shapes.ensure_shapes(name, small_split)
    before = open(instances, "rb").read()
    data, plain = (json.load(open(file)) for file in (path, instances))
    assert [
        {k: v for k, v in a.items() if k not in ("keypoints", "num_keypoints")}
        for a in data["annotations"]
    ] == plain["annotations"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    visible = 0
    for annotation in data["annotations"]:
        assert annotation["num_keypoints"] == 5
        height, width = sizes[annotation["image_id"]]
        polygons = mask_util.frPyObjects(annotation["segmentation"], height, width)
        mask = mask_util.decode(mask_util.merge(polygons))
        x, y, flag = annotation["keypoints"][:3]
        if flag == 2 and 0 < x < width - 1 and 0 < y < height - 1:
            # Where the centre is visible, its pixel is one of the object's.
            assert mask[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].any()
            visible += 1
    assert visible >= 8
    # Again: nothing is written.
    stamp = os.stat(path).st_mtime_ns
    assert generate_keypoints(SMALL, instances, 2) == path
    assert os.stat(path).st_mtime_ns == stamp
    assert open(instances, "rb").read() == before


def test_a_file_of_other_keypoints_is_made_anew_and_a_foreign_one_kept(small_split):
    path = shapes_keypoints.ensure_shapes_keypoints("shapes_val", small_split)
    content = open(path).read()
    data = json.loads(content)
    data["info"]["keypoints"] = 0
    with open(path, "w") as file:
        json.dump(data, file)
    shapes_keypoints.ensure_shapes_keypoints("shapes_val", small_split)
    assert open(path).read() == content
    with open(path, "w") as file:
        file.write('{"images": []}')
    with pytest.raises(DatasetError, match=r"keypoints_val.json is not of this project's making"):
        shapes_keypoints.ensure_shapes_keypoints("shapes_val", small_split)
    assert open(path).read() == '{"images": []}'
