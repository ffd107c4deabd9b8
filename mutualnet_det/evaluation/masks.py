"""Masks as COCO files hold them."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util


def decoded(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The mask (H, W) of polygons, or of a run-length encoding, compressed or not."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation).astype(bool)
