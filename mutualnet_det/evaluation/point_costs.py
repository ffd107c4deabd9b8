"""Costs of the operating points of a network, counted as is usual for its kind."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import nn

from ..modeling.classifier import MutualClassifier
from ..slimmable import OperatingPoint
from .classification_cost import classification_costs
from .cost import Cost, Size, count_points
from .forward import At


@functools.singledispatch
def point_costs(
    model: nn.Module,
    cfg: CfgNode,
    points: Sequence[OperatingPoint],
    image_sizes: Sequence[Size],
    at: At,
) -> dict[OperatingPoint, Cost]:
    """
    The cost of ``model`` at every one of ``points``.

    Args:
        image_sizes: (height, width) of the images in px, before they are resized; a classifier's
            are square.
        at: switches the model to a point, as a context.
    """
    return count_points(cfg, model, points, image_sizes, at)


@point_costs.register(MutualClassifier)
def _(
    model: MutualClassifier,
    cfg: CfgNode,
    points: Sequence[OperatingPoint],
    image_sizes: Sequence[Size],
    at: At,
) -> dict[OperatingPoint, Cost]:
    return classification_costs(model.backbone, points)
