"""Keypoint ground truth that a keypoint head cannot learn from is refused before training."""

import dataclasses
import json

import pytest
from detectron2.data import MetadataCatalog

from mutualnet_det.data.coco_check import check_coco_format
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.keypoints import check_keypoints
from mutualnet_det.data.shapes.keypoints import (
    KEYPOINT_FLIP_MAP,
    KEYPOINT_NAMES,
    KEYPOINT_OKS_SIGMAS,
    generate_keypoints,
)
from mutualnet_det.data.shapes.objects import SHAPES_VARIANTS

NAME = "checked_keypoints"
# What ``tiny_shapes`` was generated from.
VARIANT = dataclasses.replace(SHAPES_VARIANTS["shapes"], image_size=96, sides=(16, 40))


@pytest.fixture
def check(tiny_cfg, tiny_shapes, tmp_path):
    """``check(change)``: check a file of generated keypoints after ``change(annotations)``."""
    tiny_cfg.MODEL.KEYPOINT_ON = True
    tiny_cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    tiny_cfg.TEST.KEYPOINT_OKS_SIGMAS = list(KEYPOINT_OKS_SIGMAS)
    metadata = MetadataCatalog.get(NAME)
    metadata.set(keypoint_names=list(KEYPOINT_NAMES), keypoint_flip_map=list(KEYPOINT_FLIP_MAP))
    with open(generate_keypoints(VARIANT, tiny_shapes[1], seed=0)) as file:
        data = json.load(file)

    def run(change=lambda annotations: None):
        change(data["annotations"])
        path = tmp_path / "keypoints.json"
        path.write_text(json.dumps(data))
        checked = check_coco_format(str(path), None, need_masks=False, bad_records="error")
        check_keypoints(tiny_cfg, NAME, str(path), checked)

    yield run
    MetadataCatalog.remove(NAME)


def test_generated_keypoints_are_usable(check):
    check()
    check(lambda annotations: annotations[1].update(keypoints=[0] * 15))


@pytest.mark.parametrize(
    "keypoints",
    [None, [], [1.0, 2.0, 2] * 4, [1.0, 2.0, 2] * 4 + [float("nan"), 1, 2], ["a"] * 15],
    ids=["none", "empty", "4 of 5", "nan", "text"],
)
def test_an_object_without_its_keypoints_is_an_error(check, keypoints):
    with pytest.raises(
        DatasetError, match=r"keypoints.json has 1 objects .*annotation 3\).* 15 num"
    ):
        check(lambda annotations: annotations[2].update(keypoints=keypoints))


def test_a_crowd_needs_none(check):
    check(lambda annotations: annotations[2].update(keypoints=[], iscrowd=1))


@pytest.mark.parametrize("sigmas", [[], [0.1] * 4])
def test_another_number_of_sigmas_is_an_error(check, tiny_cfg, sigmas):
    tiny_cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    with pytest.raises(DatasetError, match=f"SIGMAS has {len(sigmas)} values; expected 5"):
        check()


def test_another_number_of_keypoints_is_an_error(check, tiny_cfg):
    tiny_cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    with pytest.raises(DatasetError, match=r"has 5 keypoints \(center, .*NUM_KEYPOINTS is 17. Set"):
        check()


@pytest.mark.parametrize("key", ["keypoint_names", "keypoint_flip_map"])
def test_keypoints_without_names_or_flips_are_an_error(check, key):
    del MetadataCatalog.get(NAME).__dict__[key]
    with pytest.raises(DatasetError, match=f"the data set '{NAME}' has no {key}"):
        check()
