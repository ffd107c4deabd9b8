"""
Latency and peak memory of operating points on the device at hand.

What is timed is one forward with a batch of 1, up to results at the network's scale: resizing the
image before it and pasting masks after it are left out.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation.evaluator import inference_context
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..data.images import evaluation_view
from ..data.views import resized_shape
from ..errors import UserError
from ..modeling.inference import Output, infer_batch
from ..progress_log import ProgressLog
from ..runtime import Latency
from ..runtime.device import wait_for
from ..slimmable import OperatingPoint
from .cost import Size, padded_size
from .forward import At

logger = logging.getLogger(__name__)

# Images that a point is given in a row when points take turns. The forward before them does not
# count: the first after a change of point is slower. Nor does the first of a shape.
IMAGES_IN_A_ROW = 3


class ProfileError(UserError, ValueError):
    """Something that cannot be measured."""


# One forward -------------------------------------------------------------------------------------


def infer(model: nn.Module, image: Tensor) -> Output:
    """Output of any of the models for one image (3, H, W), in a batch of its own."""
    (output,) = infer_batch(model, [{"image": image}])
    return output


def timed(model: nn.Module, image: Tensor) -> tuple[Output, float]:
    """Output of :func:`infer`, and the ms it takes."""
    wait_for(model.device)
    start = time.perf_counter()
    output = infer(model, image)
    wait_for(model.device)
    return output, round((time.perf_counter() - start) * 1000, 3)


def largest_records(
    cfg: CfgNode, records: Sequence[dict], resolutions: Iterable[int]
) -> list[dict]:
    """
    Records whose images the network sees as the largest, at one of the resolutions (px) or another;
    the first of records that do not tell their size.
    """
    shapes = [(record.get("height", 1), record.get("width", 1)) for record in records]
    return [records[index] for index in {_largest(cfg, shapes, r) for r in resolutions}]


def _largest(cfg: CfgNode, shapes: Sequence[tuple[int, int]], resolution: int) -> int:
    """
    The image, of (height, width) each, that is the largest once it is resized: with one short side
    for all, that is a question of their proportions.
    """

    def area(index: int) -> int:
        return math.prod(resized_shape(*shapes[index], resolution, cfg.INPUT.MAX_SIZE_TEST))

    return max(range(len(shapes)), key=area)


# Memory ------------------------------------------------------------------------------------------


def resident_memory(field: str) -> float:
    """
    Memory of this process, in MiB: "VmRSS" is what it holds, "VmHWM" the most that it has held.

    OSError where there is no ``/proc``.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 2**10


def peak_memory(device: torch.device, run: Callable[[], object]) -> float | None:
    """
    MiB that ``run`` takes at its peak on top of what is there before it.

    On a GPU what PyTorch allocates, on the CPU the resident set of the process; None where that
    cannot be measured, as outside Linux.
    """
    if device.type == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        wait_for(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu" or not _forgets_the_peak():
        return None
    before = resident_memory("VmRSS")
    run()
    return resident_memory("VmHWM") - before


def _forgets_the_peak() -> bool:
    """Hand free memory back to the system and let the peak begin anew; False where it cannot be."""
    gc.collect()
    try:
        # What was freed before would be used again, and not be seen.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return False
    return True


@contextmanager
def _collecting_only_what_is_new() -> Iterator[None]:
    """Collecting garbage again and again takes longer than a small model's forwards otherwise."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@torch.no_grad()
def model_memory(
    cfg: CfgNode,
    model: nn.Module,
    points: Sequence[OperatingPoint],
    at: At,
    images: Sequence[np.ndarray],
) -> dict[OperatingPoint, float | None]:
    """
    MiB that the model takes at its peak at every one of ``points``: its weights, and what a forward
    adds on that of ``images``, arrays (H, W, 3), which is the largest at the point's resolution.
    The program itself, Python and PyTorch, is not in it.
    """
    shapes = [image.shape[:2] for image in images]
    weights = sum(t.nbytes for t in itertools.chain(model.parameters(), model.buffers())) / 2**20
    memory: dict[OperatingPoint, float | None] = {}
    log = ProgressLog()
    with inference_context(model), _collecting_only_what_is_new():
        for number, point in enumerate(points, start=1):
            image = images[_largest(cfg, shapes, point.resolution)]
            view = evaluation_view(cfg, image, point.resolution)
            with at(point):
                infer(model, view)  # what a switch allocates stays
                added = peak_memory(model.device, lambda view=view: infer(model, view))
            memory[point] = None if added is None else round(weights + added, 1)
            if log.is_due():
                logger.info("Measured the memory of %d of %d points", number, len(points))
    return memory


# Many forwards -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PointProfile:
    """
    Measurements at an operating point.

    Attributes:
        latency: of one image.
        detections_per_image: the mean number; 0 for a model that makes none.
    """

    latency: Latency
    detections_per_image: float


@torch.no_grad()
def profile_points(
    cfg: CfgNode,
    model: nn.Module,
    points: Sequence[OperatingPoint],
    at: At,
    images: Sequence[np.ndarray],
    num_forwards: int,
) -> dict[OperatingPoint, PointProfile]:
    """
    Measure latency and memory of ``model`` at every one of ``points``.

    Points take turns, a few images each, so that a machine that becomes slower or faster meanwhile
    does so for all of them.

    Args:
        images: arrays (H, W, 3) of ``INPUT.FORMAT``, at least one.
        num_forwards: how many are timed at each point, on the images in turn.
    """
    memory = model_memory(cfg, model, points, at, images)
    views = {
        resolution: [evaluation_view(cfg, image, resolution) for image in images]
        for resolution in {point.resolution for point in points}
    }
    times: dict[OperatingPoint, list[float]] = {point: [] for point in points}
    detections = dict.fromkeys(points, 0)
    order = list(itertools.islice(itertools.cycle(range(len(images))), num_forwards))
    new = _NewShapes(model)
    with inference_context(model):
        expected: dict[OperatingPoint, float] = {}
        for point in points:
            with at(point):
                expected[point] = timed(model, views[point.resolution][0])[1]
        log = _Log(expected, num_forwards)
        for begin in range(0, num_forwards, IMAGES_IN_A_ROW):
            row = order[begin : begin + IMAGES_IN_A_ROW]
            for point in points:
                with at(point):
                    infer(model, views[point.resolution][row[0]])
                    for view in (views[point.resolution][index] for index in row):
                        if new.at(point, view):
                            infer(model, view)
                        (instances, _), milliseconds = timed(model, view)
                        times[point].append(milliseconds)
                        detections[point] += 0 if instances is None else len(instances)
                log.did(point, len(row))
    return {
        point: PointProfile(
            Latency.of(times[point], memory[point]), detections[point] / num_forwards
        )
        for point in points
    }


class _NewShapes:
    """The padded shapes that came at a point: for the first of each, cuDNN plans convolutions."""

    def __init__(self, model: nn.Module) -> None:
        self._backbone: Any = model.backbone
        self._seen: set[tuple[OperatingPoint, Size]] = set()

    def at(self, point: OperatingPoint, view: Tensor) -> bool:
        """Whether an image (3, H, W) is the first of its padded shape at ``point``."""
        height, width = view.shape[-2:]
        key = (point, padded_size((height, width), self._backbone))
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


class _Log:
    """Logs how far the timing is; ``expected`` are the milliseconds of a forward at each point."""

    def __init__(self, expected: Mapping[OperatingPoint, float], num_forwards: int) -> None:
        self._expected = expected
        self._total = sum(expected.values()) * num_forwards
        self._done = 0.0
        self._log = ProgressLog()

    def did(self, point: OperatingPoint, forwards: int) -> None:
        self._done += self._expected[point] * forwards
        if not self._log.is_due():
            return
        logger.info(
            "Timing %d operating points: %.0f %% done, about %s left",
            *(len(self._expected), 100 * self._done / self._total),
            self._log.time_left(self._done, self._total - self._done),
        )


@contextmanager
def equal_detections(model: nn.Module, count: int) -> Iterator[None]:
    """
    Give the mask and keypoint heads of ``model`` exactly ``count`` detections per image, whatever
    was found: what is too much is left out, what is missing is filled up with the whole image.

    What a point finds depends on how well it was trained, and so does its time: to compare points
    at equal numbers of detections, measure them so. ProfileError for a model without ROI heads.
    """
    heads = getattr(model, "roi_heads", None)
    if heads is None:
        raise ProfileError(
            f"A {type(model).__name__} has no heads behind its detections, so there is no number "
            "of them to set."
        )
    forward = heads.forward_with_given_boxes

    def forward_with_equal(features: Any, instances: list[Instances]) -> list[Instances]:
        return forward(features, [_filled_up(each, count) for each in instances])

    heads.forward_with_given_boxes = forward_with_equal
    try:
        yield
    finally:
        del heads.forward_with_given_boxes


def _filled_up(instances: Instances, count: int) -> Instances:
    missing = count - len(instances)
    if missing <= 0:
        return instances[:count]
    height, width = instances.image_size
    boxes = instances.pred_boxes.tensor
    filler = Instances(
        instances.image_size,
        pred_boxes=Boxes(boxes.new_tensor([[0, 0, width, height]]).expand(missing, 4)),
        scores=instances.scores.new_zeros(missing),
        pred_classes=instances.pred_classes.new_zeros(missing),
    )
    return Instances.cat([instances, filler])
