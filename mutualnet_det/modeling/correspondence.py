"""
Correspondence between a teacher and a student that sees an image at another size.

Things correspond by size, not by level: a cell of 8 px at half the resolution sees what one of
16 px sees at full resolution, a level higher. So what a student has, a pyramid's cell or an anchor,
is scaled by its image's own ratio of sizes, and the teacher's that it overlaps most, on whichever
level, corresponds to it. Shifting a pyramid by size is from "Multi-Scale Aligned Distillation for
Low-Resolution Detection", arXiv 2109.06875, where ratios are powers of 2.

Sizes are (height, width) in pixels, before padding. A cell of a grid shows ``stride`` px squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

from ..data.views import scale_ratio

Size = tuple[int, int]

_known_sides: WeakKeyDictionary[DefaultAnchorGenerator, list[Tensor]] = WeakKeyDictionary()

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
        _area_weights(target, target_stride, source, stride, values.device).float()
        for target, source in zip(target_size, size, strict=True)
    )
    values = values[:, : rows.shape[1], : columns.shape[1]].float()
    # Products of half precision would lose what averages have more, and not add up.
    with torch.autocast(values.device.type, enabled=False):
        return rows @ values @ columns.T


def _area_weights(
    target: int, target_stride: int, source: int, stride: int, device: torch.device
) -> Tensor:
    """
    Shares of each cell of one grid that lie in each of another's, along an axis of an image that is
    ``target`` px long in one and ``source`` px in the other.

    Returns:
        weights (T, S) whose rows add up to 1, for the cells that show the image; the last ones may
        do so in part.
    """

    def edges(length: int, stride: int) -> Tensor:
        cells = torch.arange(0, length + stride, stride, dtype=torch.float64, device=device)
        return cells[: -(-length // stride) + 1].clamp(max=length) / length

    one, other = edges(target, target_stride), edges(source, stride)
    overlap = torch.minimum(one[1:, None], other[1:]) - torch.maximum(one[:-1, None], other[:-1])
    overlap = overlap.clamp(min=0)
    return overlap / overlap.sum(dim=1, keepdim=True)


def corresponding_anchors(
    generator: DefaultAnchorGenerator,
    size: Size,
    grid_sizes: Sequence[Size],
    full_size: Size,
    full_grid_sizes: Sequence[Size],
) -> tuple[Tensor, Tensor]:
    """
    The teacher's anchor for each of a student's: the one that it overlaps most once it is scaled,
    on whichever level.

    An image's own anchors find themselves, if no two levels have anchors of one size.

    Args:
        generator: of the anchors of both.
        size, full_size: of the image, as the student and as the teacher see it.
        grid_sizes, full_grid_sizes: (height, width) in cells of each level of either, as padded.

    Returns:
        for the R anchors of all of the student's levels, indices into those of all of the teacher's
        (R,), and whether there is one (R,): not for anchors in the padding, nor for those that
        overlap none by an IoU of :data:`MIN_IOU`.
    """
    offset, device = generator.offset, next(generator.buffers()).device
    ratio = scale_ratio(size, full_size)
    # Which levels correspond is decided on the CPU, for which no device has to wait.
    known = _sides(generator)
    sides = [x[:, 2:] - x[:, :2] for x in generator.cell_anchors]
    by_level = []
    for level, (stride, own, (height, width)) in enumerate(
        zip(generator.strides, sides, grid_sizes, strict=True)
    ):
        x, y = ((torch.arange(n, device=device) + offset) * stride for n in (width, height))
        scaled, known_scaled = _stretched(own, ratio), _stretched(known[level], ratio)
        best_iou = torch.zeros(height, width, len(own), device=device)
        best_index = torch.zeros(height, width, len(own), dtype=torch.long, device=device)
        first = 0
        levels = zip(generator.strides, sides, known, full_grid_sizes, strict=True)
        for full_stride, others, known_others, (rows, columns) in levels:
            # With one centre.
            at_best = torch.minimum(known_scaled[:, None], known_others).prod(dim=-1)
            if _iou(at_best, known_scaled, known_others).max() >= MIN_IOU:
                # Of the anchors of one shape, that of the nearest cell overlaps another most.
                row, down = _nearest(
                    y * ratio[1], full_size[0], full_stride, offset, scaled[:, 1], others[:, 1]
                )
                column, across = _nearest(
                    x * ratio[0], full_size[1], full_stride, offset, scaled[:, 0], others[:, 0]
                )
                iou, shape = _iou(across * down[:, None], scaled, others).max(dim=-1)
                cell = row[:, None] * columns + column
                index = first + cell[..., None] * len(others) + shape
                best_index = torch.where(iou > best_iou, index, best_index)
                best_iou = torch.maximum(iou, best_iou)
            first += rows * columns * len(others)
        inside = (y < size[0])[:, None] & (x < size[1])
        by_level.append(
            (best_index.flatten(), ((best_iou >= MIN_IOU) & inside[..., None]).flatten())
        )
    indices, exists = zip(*by_level, strict=True)
    return torch.cat(indices), torch.cat(exists)


def _stretched(sides: Tensor, ratio: tuple[float, float]) -> Tensor:
    """Sides (A, 2) in px, each times its ratio."""
    return torch.stack([side * factor for side, factor in zip(sides.T, ratio, strict=True)], dim=1)


def _sides(generator: DefaultAnchorGenerator) -> list[Tensor]:
    """Width and height (A, 2) of each level's anchors in px, on the CPU; a GPU is asked once."""
    if generator not in _known_sides:
        cells = [x.cpu() for x in generator.cell_anchors]
        _known_sides[generator] = [x[:, 2:] - x[:, :2] for x in cells]
    return _known_sides[generator]


def _nearest(
    centres: Tensor, length: int, stride: int, offset: float, own: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Along an axis of an image of ``length`` px, the cell that is nearest to each centre (S,), and
    how far intervals around the centres, of each length in ``own`` (A,), overlap those around the
    cells', of each length in ``others`` (B,): (S, A, B).
    """
    last = max(math.ceil(length / stride - offset), 1) - 1  # others are padding
    cells = (centres / stride - offset).round().clamp(0, last).long()
    distance = ((cells + offset) * stride - centres).abs()[:, None, None]
    reach = (own[:, None] + others) / 2 - distance
    return cells, torch.minimum(reach, torch.minimum(own[:, None], others)).clamp(min=0)


def _iou(overlap: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes of sides (A, 2) and (B, 2) in px that overlap by (..., A, B) square px."""
    return overlap / (own.prod(dim=-1)[:, None] + others.prod(dim=-1) - overlap)
