"""
Keys of Detectron2: those that nothing here reads, of which another value would be left out in
silence, and the choices of those that it looks at only while a training runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from ..family import OBJECT_HEADS, Family, family

# By key, the value that says what is done here.
UNUSED: dict[str, Any] = {
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.PANOPTIC_FPN.COMBINE.ENABLED": True,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,  # it is of sigmoids, which have no distribution
    "TEST.AUG.ENABLED": False,
    "TEST.EXPECTED_RESULTS": [],
    "TEST.PRECISE_BN.ENABLED": False,
    "VIS_PERIOD": 0,
}
RESNET = "build_slimmable_resnet_backbone"
UNUSED_BY_RESNET: dict[str, Any] = {
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 256,
    "MODEL.RESNETS.RES5_DILATION": 1,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False] * 4,
    "MODEL.RESNETS.NORM": "FrozenBN",  # Detectron2's default; MUTUALNET.NORM is what counts
}
UNUSED_WITHOUT_ROI_HEADS: dict[str, Any] = {"MODEL.MASK_ON": False, "MODEL.KEYPOINT_ON": False}
UNUSED_BY_CLASSIFIERS: dict[str, Any] = {"INPUT.CROP.ENABLED": False}

BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": BOX_LOSSES,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
}


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key that is given with its dots."""
    return functools.reduce(getattr, key.split("."), cfg)


def unused_keys(cfg: CfgNode) -> Iterator[tuple[str, Any, Any]]:
    """The keys that are set and do nothing: each with its value and the only one there is."""
    unused = dict(UNUSED)
    if RESNET in (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN.BOTTOM_UP):
        unused |= UNUSED_BY_RESNET
    if OBJECT_HEADS.get(family(cfg)) != "ROI_HEADS":
        unused |= UNUSED_WITHOUT_ROI_HEADS
    if family(cfg) is Family.CLASSIFIER:
        unused |= UNUSED_BY_CLASSIFIERS
    for key, only in unused.items():
        value = value_of(cfg, key)
        if value != only:
            yield key, value, only
