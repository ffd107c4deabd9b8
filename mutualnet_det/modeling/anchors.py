"""Detectron2's anchors, made on the device that they are used on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes
from torch import Tensor


def anchors_of(generator: Any, levels: Sequence[Tensor]) -> list[Boxes]:
    """
    The anchors (H * W * A) of each level (N, C, H, W) of a pyramid, in px of the image.

    Detectron2's DefaultAnchorGenerator makes the grid of a level on the CPU in every pass, and a
    GPU waits for two copies of each. Other generators are called as they are.
    """
    if type(generator) is not DefaultAnchorGenerator:
        return generator(levels)
    by_level = []
    for level, stride, cell_anchors in zip(
        levels, generator.strides, generator.cell_anchors, strict=True
    ):
        height, width = level.shape[-2:]
        x, y = (
            (torch.arange(n, device=cell_anchors.device) + generator.offset) * stride
            for n in (width, height)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack((x, y, x, y), dim=-1).to(cell_anchors.dtype)
        by_level.append(Boxes((centres[:, :, None] + cell_anchors).view(-1, 4)))
    return by_level
