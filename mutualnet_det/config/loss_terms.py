"""The losses of a sub-network, by their keys in MUTUALNET.LOSS_WEIGHTS."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import get_cfg

from .keys import add_mutualnet_config

# The losses that a teacher gives ROI heads, by their key in LOSS_WEIGHTS.
ROI_TERMS = ("CLASS", "BOX", "MASK", "KEYPOINT")
# All that a sub-network of each meta-architecture has.
LOSS_TERMS = {
    "MutualRCNN": ("RPN", "GROUND_TRUTH", *ROI_TERMS, "OBJECTNESS", "FEATURE"),
    "MutualPanopticFPN": (
        *("RPN", "GROUND_TRUTH", *ROI_TERMS, "SEGMENTATION", "OBJECTNESS", "FEATURE"),
    ),
    "MutualRetinaNet": ("GROUND_TRUTH", "CLASS", "BOX", "FEATURE"),
    "MutualSemanticSegmentor": ("GROUND_TRUTH", "SEGMENTATION", "FEATURE"),
    "MutualClassifier": ("GROUND_TRUTH", "CLASS"),
}


def default_loss_weights(terms: Sequence[str]) -> dict[str, float]:
    """The config's default weights of these keys of ``LOSS_WEIGHTS``."""
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    return {term: cfg.MUTUALNET.LOSS_WEIGHTS[term] for term in terms}


def terms_present(terms: Sequence[str], *, mask_on: bool, keypoint_on: bool) -> list[str]:
    """The keys of ``LOSS_WEIGHTS`` in ``terms`` that a network with or without the heads has."""
    absent = {"MASK": not mask_on, "KEYPOINT": not keypoint_on}
    return [term for term in terms if not absent.get(term, False)]
