"""Keypoint ground truth, checked as a data set before any long work."""

from __future__ import annotations

import math

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .coco_check import CheckedCoco
from .faults import DatasetError

NUM_COCO_KEYPOINTS = 17


def check_keypoints(cfg: CfgNode, name: str, json_file: str, checked: CheckedCoco) -> None:
    """
    Check that a registered data set gives the keypoint head what it learns from.

    Raises:
        DatasetError: naming the data set or file, if its keypoints have no names or it is unknown
            which ones change places in a flipped image, or an object has another number of them
            than ``MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS``.
    """
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    metadata = MetadataCatalog.get(name)
    for key in ("keypoint_names", "keypoint_flip_map"):
        if metadata.get(key) is None:
            raise DatasetError(
                f"MODEL.KEYPOINT_ON is True, but the data set {name!r} has no {key}, which "
                "training flips keypoints by. A COCO file does not hold it: register the data set "
                f"by code and set MetadataCatalog.get({name!r}).{key}."
            )
    if len(metadata.keypoint_names) != expected:
        raise DatasetError(
            f"The data set {name!r} has {len(metadata.keypoint_names)} keypoints "
            f"({', '.join(metadata.keypoint_names)}), but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
            f"{expected}. Set it to {len(metadata.keypoint_names)}."
        )
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    if len(sigmas or range(NUM_COCO_KEYPOINTS)) != expected:
        raise DatasetError(
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(sigmas)} values; expected {expected}, one for each "
            f"keypoint of {name!r}. Only for the {NUM_COCO_KEYPOINTS} of COCO may it be empty."
        )
    bad = [
        annotation["id"]
        for annotation in checked.data["annotations"]
        if not annotation.get("iscrowd", 0)
        and not _is_usable(annotation.get("keypoints"), expected)
    ]
    if bad:
        raise DatasetError(
            f"{json_file} has {len(bad)} objects (the first is annotation {bad[0]}) whose "
            f"'keypoints' are not {3 * expected} numbers, x, y and visibility of each of "
            f"{expected} keypoints. Where none is known, all are 0."
        )


def _is_usable(keypoints: object, count: int) -> bool:
    return (
        isinstance(keypoints, list)
        and len(keypoints) == 3 * count
        and all(isinstance(v, int | float) and math.isfinite(v) for v in keypoints)
    )
