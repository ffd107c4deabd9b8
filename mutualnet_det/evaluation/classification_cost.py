"""
The cost of a classification network at an operating point.

Counted are the multiply-adds of convolutions and linear layers alone, as in the published query
tables (arXiv 1909.12978).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..modeling.backbones import SlimmableBackbone
from ..modeling.backbones.base import LOGITS
from ..slimmable import OperatingPoint, at_width
from .cost import Cost, multiply_adds, plain_copy


class ClassificationCost(NamedTuple):
    """
    Cost of one image.

    Attributes:
        mflops: multiply-adds / 1e6.
        parameters: active parameters.
    """

    mflops: float
    parameters: int


class _Logits(nn.Module):
    """A backbone that gives its logits alone: a dict cannot be traced."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)[LOGITS]


def classification_costs(
    backbone: SlimmableBackbone, points: Sequence[OperatingPoint]
) -> dict[OperatingPoint, Cost]:
    """The cost of every one of ``points``, as a grid holds it: one part, the network."""
    costs = {}
    for point in points:
        cost = count_classification_cost(backbone, point)
        costs[point] = Cost({"network": cost.mflops / 1e3}, {}, 0, {"network": cost.parameters})
    return costs


@torch.no_grad()
def count_classification_cost(
    backbone: SlimmableBackbone, point: OperatingPoint
) -> ClassificationCost:
    """
    The cost of ``backbone``, which gives logits, at ``point`` on a square image of its resolution.

    The point need not be calibrated, and the backbone is not touched.
    """
    with at_width(backbone, point.width):
        plain = plain_copy(backbone)
    image = torch.zeros(1, 3, point.resolution, point.resolution)
    count = multiply_adds(_Logits(plain), image)[""]
    return ClassificationCost(count / 1e6, sum(p.numel() for p in plain.parameters()))
