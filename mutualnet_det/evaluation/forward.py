"""Images through a model: every one at every operating point."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from detectron2.config import CfgNode
from torch import Tensor

from ..data.images import read_record, resize_shortest_edge
from ..slimmable import OperatingPoint

# Switches the model to a point, as a context.
At = Callable[[OperatingPoint], AbstractContextManager]
# What was found on some images at each point, one after the other.
PointResults = Iterator[tuple[OperatingPoint, list[dict]]]

# The most that are held in memory, as they are on disk.
IMAGES_AT_ONCE = 64


def over_points(
    cfg: CfgNode,
    records: Sequence[dict],
    points: Sequence[OperatingPoint],
    at: At,
    run: Callable[[Tensor, dict], dict],
) -> PointResults:
    """
    Yield what ``run(image, record)`` finds on every image, point by point; the first of a point is
    marked by ``is_first``.

    An image (C, H, W) is read once, and resized once for all points of a resolution.

    Args:
        points: those of a resolution in a row.
    """
    images = [read_record(record, cfg.INPUT.FORMAT) for record in records]
    for resolution, group in itertools.groupby(points, lambda point: point.resolution):
        resized = [resize_shortest_edge(x, resolution, cfg.INPUT.MAX_SIZE_TEST) for x in images]
        for point in group:
            with at(point):
                results = [run(*each) for each in zip(resized, records, strict=True)]
            results[0]["is_first"] = True
            yield point, results


def steady_times(results: Iterable[dict]) -> list[float]:
    """
    The ``milliseconds`` of the images that have some, but of those that are first after a change of
    operating point: there a forward is slower, and a profile leaves it out, too. All of them, where
    images are so slow that each was run alone.
    """
    timed = [one for one in results if one["milliseconds"] is not None]
    steady = [one["milliseconds"] for one in timed if not one.get("is_first")]
    return steady or [one["milliseconds"] for one in timed]
