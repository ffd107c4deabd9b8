"""Images through a model: every one at every operating point, and how a batch reaches the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..data.images import read_record, resize_shortest_edge
from ..modeling.semantic import MutualSemanticSegmentor
from ..slimmable import OperatingPoint

# Switches the model to a point, as a context.
At = Callable[[OperatingPoint], AbstractContextManager]
# Is told of each point that is through, and on how many images.
OnPoint = Callable[[OperatingPoint, int], None]

# The most that are held in memory, as they are on disk.
IMAGES_AT_ONCE = 64


def over_points(
    cfg: CfgNode,
    records: Sequence[dict],
    points: Sequence[OperatingPoint],
    at: At,
    on_point: OnPoint,
    run: Callable[[Tensor, dict], dict],
) -> dict[OperatingPoint, list[dict]]:
    """
    What ``run(image, record)`` finds on every image at every point.

    An image (C, H, W) is read once, and resized once for all points of a resolution.

    Args:
        points: those of a resolution in a row.
    """
    images = [read_record(record, cfg.INPUT.FORMAT) for record in records]
    found = {}
    for resolution, group in itertools.groupby(points, lambda point: point.resolution):
        resized = [resize_shortest_edge(x, resolution, cfg.INPUT.MAX_SIZE_TEST) for x in images]
        for point in group:
            with at(point):
                found[point] = [run(*each) for each in zip(resized, records, strict=True)]
            on_point(point, len(records))
    return found


def preprocessed(model: nn.Module, batched_inputs: list[dict]) -> ImageList:
    """The images normalised, padded and batched, as any of Detectron2's models does it."""
    if hasattr(model, "preprocess_image"):
        return model.preprocess_image(batched_inputs)
    # Detectron2's SemanticSegmentor does it in passing; ours has the same in a method.
    return MutualSemanticSegmentor.preprocess_image(model, batched_inputs)
