"""
The work of an evaluation, of one process or of several: images go through the model, then points
are scored. Whoever is free takes the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.evaluation.evaluator import inference_context
from torch import nn

from ..distributed import POLL_PERIOD
from ..slimmable import OperatingPoint
from .cost import Cost
from .forward import At, PointResults
from .progress import Progress
from .task import Task

# Work that a kill may cost.
COMMIT_PERIOD = 60.0  # s


@dataclass(frozen=True)
class Job:
    """
    The work that there is to do.

    Attributes:
        points: by resolution, then width.
        costs: of an image at each of them.
        images: the numbers of those that are not done.
        output: folder of the evaluation.
    """

    points: tuple[OperatingPoint, ...]
    costs: dict[OperatingPoint, Cost]
    images: tuple[int, ...]
    progress: Progress
    output: Path


class Shared:
    """
    The state that the processes of an evaluation share: who takes what, and how far they are.

    Args:
        store: of them alone.
        num_processes: that do the job.
    """

    def __init__(self, job: Job, store: dist.Store, num_processes: int) -> None:
        self._job = job
        self._store = store
        self._num_processes = num_processes

    def take_images(self, most: int) -> tuple[int, ...]:
        """The next images, fewer towards the end so that all finish together; none are left: ()."""
        images = self._job.images
        left = len(images) - self._store.add("images", 0)
        count = max(min(most, math.ceil(left / self._num_processes)), 0)
        end = self._store.add("images", count)
        return images[end - count : end]

    def count(self, point: OperatingPoint, num_images: int) -> None:
        """Note that so many images are through at a point."""
        self._store.add(f"through/{point}", num_images)

    def counts(self) -> dict[OperatingPoint, int]:
        """The number of images that are through, by point."""
        return {point: self._store.add(f"through/{point}", 0) for point in self._job.points}

    def wait_for_all(self, stage: str, on_step: Callable[[], None]) -> None:
        """Wait until every process has come to a stage, and call ``on_step`` meanwhile."""
        self._store.add(stage, 1)
        while self._store.add(stage, 0) < self._num_processes:
            on_step()
            time.sleep(POLL_PERIOD)

    def take_points(self) -> Iterator[OperatingPoint]:
        """Points to score, until there are no more."""
        while (index := self._store.add("points", 1) - 1) < len(self._job.points):
            yield self._job.points[index]


@contextmanager
def evaluating(model: nn.Module, threads: int) -> Iterator[None]:
    """
    Run the model for evaluation: no gradients, layers in evaluation mode.

    Args:
        threads: of the CPU to compute with.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with inference_context(model), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def do_job(
    job: Job,
    shared: Shared,
    task: Task,
    at: At,
    number: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """
    Do one process's share.

    Args:
        at: switches the task's model to a point.
        number: of this process, from 0.
        on_step: called again and again.
    """
    part = job.progress.part(number)
    chunk = 1
    while images := shared.take_images(chunk):
        records = [task.records[image] for image in images]

        start = time.perf_counter()
        part.commit(images, _counted(task.run(records, job.points, at), shared, on_step))
        seconds_per_image = (time.perf_counter() - start) / len(images)
        chunk = min(max(int(COMMIT_PERIOD / seconds_per_image), 1), task.images_at_once)
    shared.wait_for_all("through", on_step)
    job.progress.wait_until(lambda: len(job.progress.done()) == len(task.records))
    for point in shared.take_points():
        if job.progress.result(point) is None:
            row = task.score(point, job.costs[point], job.progress, job.output)
            job.progress.keep_result(point, row.to_dict())
        on_step()
    shared.wait_for_all("scored", on_step)


def _counted(
    results_by_point: PointResults, shared: Shared, on_step: Callable[[], None]
) -> PointResults:
    for point, results in results_by_point:
        yield point, results
        shared.count(point, len(results))
        on_step()


def by_resolution(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Points in the order to run them: an image is resized once for those of a resolution."""
    return sorted(points, key=lambda point: (point.resolution, point.width))
