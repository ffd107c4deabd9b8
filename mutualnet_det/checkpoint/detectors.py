"""Whole detectors of Detectron2: what stands around the backbone, and the classes it knows."""

from __future__ import annotations

import re
from collections.abc import Mapping

from detectron2.data import MetadataCatalog
from torch import Tensor

from .layouts import AROUND_BACKBONE

# Where a detector has its backbone.
BACKBONE = "backbone.bottom_up."
# The outputs whose number tells the names in Detectron2's model zoo: their key in the metadata of
# data sets, the biases that count them, how many there are, and the data set that has these names.
_ZOO = (
    ("thing_classes", r"roi_heads\.box_predictor(\.0)?\.cls_score", 80 + 1, "coco_2017_val"),
    ("keypoint_names", r"roi_heads\.keypoint_head\.score_lowres", 17, "keypoints_coco_2017_val"),
    ("stuff_classes", r"sem_seg_head\.predictor", 54, "coco_2017_val_panoptic_separated"),
)


def around_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    The entries of a detector's pyramid and heads; none if it has no pyramid, or that of a
    RetinaNet, which makes its level p6 from res5 and not from p5 as here.
    """
    entries = {key: value for key, value in state.items() if AROUND_BACKBONE.match(key)}
    # Anchors are computed, not learnt.
    entries = {key: value for key, value in entries.items() if "cell_anchors" not in key}
    levels = {key.split(".")[1] for key in entries if key.startswith("backbone.")}
    return entries if levels and "top_block" not in levels else {}


def zoo_classes(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """
    The names of a detector's classes if it has as many as those of Detectron2's model zoo, by their
    key in the metadata of data sets.
    """
    names = {
        key: list(MetadataCatalog.get(dataset).get(key))
        for key, layer, count, dataset in _ZOO
        if any(re.fullmatch(rf"{layer}\.bias", k) and len(v) == count for k, v in state.items())
    }
    if "keypoint_names" in names:
        names["thing_classes"] = ["person"]
    return names
