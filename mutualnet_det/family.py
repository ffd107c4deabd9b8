"""
The kinds of network, and what a config alone says of each.

A question about the kind is asked of one table, keyed by :class:`Family` where a config answers it,
or of one ``functools.singledispatch`` where a model does; it stands with what the answer is for. A
further kind of network takes a row in each.
"""

from __future__ import annotations

from enum import Enum

from detectron2.config import CfgNode


class Family(Enum):
    """The kinds of network."""

    CLASSIFIER = "classifier"
    SEMANTIC = "semantic segmentor"
    PANOPTIC = "Panoptic FPN"
    RCNN = "R-CNN"
    DENSE = "dense detector"


META_ARCHITECTURES = {
    "MutualClassifier": Family.CLASSIFIER,
    "SemanticSegmentor": Family.SEMANTIC,
    "MutualSemanticSegmentor": Family.SEMANTIC,
    "PanopticFPN": Family.PANOPTIC,
    "MutualPanopticFPN": Family.PANOPTIC,
    "GeneralizedRCNN": Family.RCNN,
    "MutualRCNN": Family.RCNN,
    "RetinaNet": Family.DENSE,
    "MutualRetinaNet": Family.DENSE,
    # Those of an exported operating point: see runtime/export/plain.py.
    "PlainMutualRCNN": Family.RCNN,
    "PlainMutualRetinaNet": Family.DENSE,
}

# What each gives for an image, in the words that its scores go by.
OUTPUTS = {
    Family.CLASSIFIER: ("class",),
    Family.SEMANTIC: ("semantic",),
    Family.PANOPTIC: ("box", "mask", "keypoint", "semantic"),
    Family.RCNN: ("box", "mask", "keypoint"),
    Family.DENSE: ("box",),
}

# The node under MODEL with the number of classes of objects and the score that a detection needs.
OBJECT_HEADS = {
    Family.PANOPTIC: "ROI_HEADS",
    Family.RCNN: "ROI_HEADS",
    Family.DENSE: "RETINANET",
}

# Whether there is more than a backbone, so that MUTUALNET.SCOPE means something.
HAS_SCOPE = {
    Family.CLASSIFIER: False,
    Family.SEMANTIC: True,
    Family.PANOPTIC: True,
    Family.RCNN: True,
    Family.DENSE: True,
}


def family(cfg: CfgNode) -> Family:
    """The kind of a config's network; a meta-architecture of others is taken for an R-CNN's."""
    return META_ARCHITECTURES.get(cfg.MODEL.META_ARCHITECTURE, Family.RCNN)


def outputs(cfg: CfgNode) -> tuple[str, ...]:
    """
    The outputs of a config's network for an image: of "class", that of the whole image; "box",
    "mask" and "keypoint", those of objects; "semantic", the class of each pixel.
    """
    absent = {"mask": not cfg.MODEL.MASK_ON, "keypoint": not cfg.MODEL.KEYPOINT_ON}
    return tuple(name for name in OUTPUTS[family(cfg)] if not absent.get(name, False))


def finds_only_objects(cfg: CfgNode) -> bool:
    """Tell whether a config's network gives objects, and nothing beside them."""
    return set(outputs(cfg)) <= set(OUTPUTS[Family.RCNN])
