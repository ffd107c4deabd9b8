"""Detectron2's anchors, made on the device that they are used on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    DefaultAnchorGenerator,
)
from torch import Tensor


@ANCHOR_GENERATOR_REGISTRY.register()
class DeviceAnchorGenerator(DefaultAnchorGenerator):
    """
    Detectron2's DefaultAnchorGenerator without its copies from the CPU.

    It makes the grid of each level on the CPU in every pass, and a GPU waits for two copies each.
    """

    def _grid_anchors(self, grid_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The anchors (H * W * A, 4) of each level."""
        by_level = []
        for (height, width), stride, cell_anchors in zip(
            grid_sizes, self.strides, self.cell_anchors, strict=True
        ):
            x, y = (
                (torch.arange(n, device=cell_anchors.device) + self.offset) * stride
                for n in (width, height)
            )
            y, x = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack((x, y, x, y), dim=-1).to(cell_anchors.dtype)
            by_level.append((centres[:, :, None] + cell_anchors).view(-1, 4))
        return by_level
