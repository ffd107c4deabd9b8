"""
What of the teacher's corresponds to what of a student's that sees an image at another size.

Things correspond by size, not by level: a cell of 8 px at half the resolution sees what one of
16 px sees at full resolution, a level higher. So what a student has, a pyramid's cell or an anchor,
is scaled by its image's own ratio of sizes, and the teacher's that it overlaps most, on whichever
level, corresponds to it. Shifting a pyramid by size is from "Multi-Scale Aligned Distillation for
Low-Resolution Detection", arXiv 2109.06875, where ratios are powers of 2.

Sizes are (height, width) in pixels, before padding. A cell of a grid shows ``stride`` px squared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Overlap from which one thing stands for another: that from which an anchor of RetinaNet's (arXiv
# 1708.02002, section 4) stands for an object, and of squares of which one is sqrt(2) times the
# other, half a level of a pyramid. Others have no counterpart.
MIN_IOU = 0.5


def corresponding_level(
    stride: int, ratio: tuple[float, float], strides: Sequence[int]
) -> int | None:
    """
    The teacher's level whose cells have the size that is nearest to that of a student's cells.

    Args:
        stride: of the student's level, in px of its image.
        ratio: how far x and y stretch from the student's image to the teacher's.
        strides: of the teacher's levels, in px of its image.

    Returns:
        an index into ``strides``; None if no level's cell, with the same centre, overlaps the
        student's by an IoU of :data:`MIN_IOU`.
    """
    width, height = (stride * x for x in ratio)

    def iou(side: int) -> float:
        overlap = min(width, side) * min(height, side)
        return overlap / (width * height + side**2 - overlap)

    level = max(range(len(strides)), key=lambda index: iou(strides[index]))
    return level if iou(strides[level]) >= MIN_IOU else None


def averaged_over_cells(
    values: Tensor,
    size: tuple[int, int],
    stride: int,
    target_size: tuple[int, int],
    target_stride: int,
) -> Tensor:
    """
    Values of one grid over an image, averaged over the area of each cell of another grid over it.

    Args:
        values: (C, H, W), cells of ``stride`` px over the image at ``size`` and its padding.
        target_size, target_stride: the same for the other grid.

    Returns:
        float (C, H', W'): the cells that show the image, at least in part; ``values`` themselves
        where the grids are equal.
    """
    rows, columns = (
        _area_weights(target, target_stride, source, stride).to(values.device, torch.float32)
        for target, source in zip(target_size, size, strict=True)
    )
    values = values[:, : rows.shape[1], : columns.shape[1]].float()
    # Products of half precision would lose what averages have more, and not add up.
    with torch.autocast(values.device.type, enabled=False):
        return rows @ values @ columns.T


def _area_weights(target: int, target_stride: int, source: int, stride: int) -> Tensor:
    """
    How much of each cell of one grid lies in each of another's, along an axis of an image that is
    ``target`` px long in one and ``source`` px in the other.

    Returns:
        weights (T, S) whose rows add up to 1, for the cells that show the image; the last ones may
        do so in part.
    """

    def edges(length: int, stride: int) -> Tensor:
        cells = torch.arange(0, length + stride, stride, dtype=torch.float64)
        return cells[: -(-length // stride) + 1].clamp(max=length) / length

    one, other = edges(target, target_stride), edges(source, stride)
    overlap = torch.minimum(one[1:, None], other[1:]) - torch.maximum(one[:-1, None], other[:-1])
    overlap = overlap.clamp(min=0)
    return overlap / overlap.sum(dim=1, keepdim=True)
