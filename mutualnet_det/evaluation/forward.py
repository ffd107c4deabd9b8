"""Images through a model: every one at every operating point, and how a batch reaches the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..data.images import read_record, resize_shortest_edge
from ..modeling.semantic import MutualSemanticSegmentor
from ..slimmable import OperatingPoint

# Switches the model to a point, as a context.
At = Callable[[OperatingPoint], AbstractContextManager]
# What was found on some images at each point, one after the other.
Found = Iterator[tuple[OperatingPoint, list[dict]]]

# The most that are held in memory, as they are on disk.
IMAGES_AT_ONCE = 64


def over_points(
    cfg: CfgNode,
    records: Sequence[dict],
    points: Sequence[OperatingPoint],
    at: At,
    run: Callable[[Tensor, dict], dict],
) -> Found:
    """
    What ``run(image, record)`` finds on every image, point by point.

    An image (C, H, W) is read once, and resized once for all points of a resolution.

    Args:
        points: those of a resolution in a row.
    """
    images = [read_record(record, cfg.INPUT.FORMAT) for record in records]
    for resolution, group in itertools.groupby(points, lambda point: point.resolution):
        resized = [resize_shortest_edge(x, resolution, cfg.INPUT.MAX_SIZE_TEST) for x in images]
        for point in group:
            with at(point):
                found = [run(*each) for each in zip(resized, records, strict=True)]
            yield point, found


def preprocessed(model: nn.Module, batched_inputs: list[dict]) -> ImageList:
    """The images normalised, padded and batched, as any of Detectron2's models does it."""
    if hasattr(model, "preprocess_image"):
        return model.preprocess_image(batched_inputs)
    # Detectron2's SemanticSegmentor does it in passing; ours has the same in a method.
    return MutualSemanticSegmentor.preprocess_image(model, batched_inputs)
