"""
The work of an evaluation, in this process or divided among several: images go through the model,
then points are scored. Whoever is free takes the next.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.evaluator import inference_context
from torch import nn
from torch.multiprocessing import ProcessExitedException, start_processes

from ..checkpoint import load_detector, provenance
from ..checkpoint.writing import write_checkpoint
from ..data.check import check_datasets
from ..data.image_faults import KNOWN, Known, know
from ..errors import UserError
from ..modeling.classifier import network_of
from ..slimmable import Calibrations, OperatingPoint
from .cost import Cost
from .forward import At, PointResults
from .progress import Progress
from .task import Task, build_task

# Work that a kill may cost.
COMMIT_PERIOD = 60.0  # s
# How often the processes are looked after.
WATCH_PERIOD = 0.5  # s


class WorkerError(UserError, RuntimeError):
    """A process of an evaluation has died."""


@dataclass(frozen=True)
class Job:
    """
    The work that there is to do.

    Attributes:
        points: by resolution, then width.
        images: the numbers of those that are not done.
        known: of image files, which no process has to read for it again.
        output: folder of the evaluation.
    """

    cfg: CfgNode
    points: tuple[OperatingPoint, ...]
    costs: dict[OperatingPoint, Cost]
    images: tuple[int, ...]
    progress: Progress
    output: Path
    known: Known = KNOWN


class Shared:
    """
    The state that the processes share: who takes what, and how far they are.

    Args:
        num_processes: that do the job.
    """

    def __init__(self, job: Job, num_processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._job = job
        self._num_processes = num_processes
        self._images_taken = context.Value("q", 0)
        self._points_taken = context.Value("q", 0)
        self._through = context.Array("q", len(job.points))
        self._barrier = context.Barrier(num_processes)

    def take_images(self, most: int) -> tuple[int, ...]:
        """The next images, fewer towards the end so that all finish together; none are left: ()."""
        images = self._job.images
        with self._images_taken.get_lock():
            start = self._images_taken.value
            count = min(most, math.ceil((len(images) - start) / self._num_processes))
            self._images_taken.value += count
        return images[start : start + count]

    def count(self, point: OperatingPoint, num_images: int) -> None:
        """Note that so many images are through at a point."""
        with self._through.get_lock():
            self._through[self._job.points.index(point)] += num_images

    def counts(self) -> dict[OperatingPoint, int]:
        """The number of images that are through, by point."""
        # Without the lock: a process that was killed may have left it closed.
        return dict(zip(self._job.points, self._through.get_obj(), strict=True))

    def wait_for_all(self) -> None:
        """Wait until every process has come here."""
        self._barrier.wait()

    def take_points(self) -> Iterator[OperatingPoint]:
        """Points to score, until there are no more."""
        while True:
            with self._points_taken.get_lock():
                index = self._points_taken.value
                self._points_taken.value += 1
            if index >= len(self._job.points):
                return
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
    shared.wait_for_all()
    for point in shared.take_points():
        if job.progress.result(point) is None:
            row = task.score(point, job.costs[point], job.progress, job.output)
            job.progress.keep_result(point, row.to_dict())
        on_step()


def _counted(
    results_by_point: PointResults, shared: Shared, on_step: Callable[[], None]
) -> PointResults:
    for point, results in results_by_point:
        yield point, results
        shared.count(point, len(results))
        on_step()


# Several processes -------------------------------------------------------------------------------


def do_job_in_processes(
    job: Job,
    shared: Shared,
    model: nn.Module,
    calibrations: Calibrations,
    devices: Sequence[str],
    on_step: Callable[[], None],
) -> None:
    """
    Do a job in one new process per device, each with a copy of the model.

    Args:
        calibrations: of the model, or of its network: see :func:`network_of`.
        devices: such as "cuda:0"; "cpu" may stand there several times.
        on_step: called again and again, here.

    Raises:
        WorkerError: if a process was killed. What was done is kept, and the others are stopped.
        UserError: of a process.
        ProcessRaisedException: of another error in a process, with its traceback.
    """
    source = job.progress.folder / "model.pth"
    content = {"model": network_of(model).state_dict(), "mutualnet": provenance(job.cfg)}
    write_checkpoint(str(source), {**content, "calibrations": calibrations.state_dict()})
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (job, shared, str(source), tuple(devices), errors)
    processes = start_processes(
        _process, arguments, len(devices), join=False, daemon=True, start_method="spawn"
    )
    try:
        while not processes.join(timeout=WATCH_PERIOD, grace_period=WATCH_PERIOD):
            on_step()
    except ProcessExitedException as error:
        if not errors.empty():
            raise errors.get() from None
        raise WorkerError(
            f"Process {error.error_index} of the evaluation, on {devices[error.error_index]}, has "
            f"died: {error.signal_name or f'exit status {error.exit_code}'}. SIGKILL often means "
            "that memory ran out: fewer processes need less. What was done is kept: continue with "
            "--resume."
        ) from None
    finally:
        for process in processes.processes:
            process.kill()
    on_step()


def _process(
    number: int, job: Job, shared: Shared, source: str, devices: Sequence[str], errors
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # PyTorch would let it end as if its work were done; the others would wait for it. In the
    # background of a script the signal is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What Detectron2 has to say of the data, it has said where the processes were started.
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    cfg = job.cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = devices[number]
    cfg.DATASETS.TRAIN = ()  # has served its purpose
    cfg.freeze()
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        torch.cuda.set_device(cfg.MODEL.DEVICE)
    try:
        know(job.known)
        check_datasets(cfg)  # registers
        model, calibrations = load_detector(cfg, source)
        with evaluating(model, job.progress.threads):
            task = build_task(cfg, model)
            do_job(job, shared, task, calibrations.at, number)
    except UserError as error:
        errors.put(error)
        sys.exit(1)


def _end_with_parent() -> None:
    """End with the evaluation's own process, without which nobody makes a grid."""
    # PyTorch has the system send SIGINT then; in the background of a script that is ignored.
    multiprocessing.parent_process().join()
    os._exit(1)  # wherever this process is: scoring, or waiting for others that have ended


def by_resolution(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Points in the order to run them: an image is resized once for those of a resolution."""
    return sorted(points, key=lambda point: (point.resolution, point.width))


def share_threads(num_processes: int) -> int:
    """CPU threads for each of some processes, so that they do not trample each other."""
    return max(1, torch.get_num_threads() // num_processes)
