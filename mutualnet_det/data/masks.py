"""Masks as COCO files hold them."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util


def run_lengths(segmentation: list | dict, height: int, width: int) -> dict:
    """The compressed run-length encoding of polygons together, or of one compressed or not."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def decoded(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """The mask (H, W) of what :func:`run_lengths` takes."""
    return mask_util.decode(run_lengths(segmentation, height, width)).astype(bool)
