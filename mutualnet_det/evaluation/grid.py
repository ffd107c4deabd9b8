"""
Evaluating the grid: score, cost and time of one set of weights at every operating point.

Each image is decoded once for all points. What is done is kept on disk as it goes, and an
evaluation that was killed continues where it was.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import itertools
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.evaluator import inference_context
from detectron2.modeling import PanopticFPN, SemanticSegmentor
from torch import nn

from ..config import check_points, is_classification
from ..data.coco import DatasetError
from ..errors import UserError
from ..runtime.device import device_name
from ..slimmable import Calibrations, OperatingPoint, UncalibratedError
from .classification import ClassificationTask
from .cost import Cost
from .detection import DetectionTask
from .files import replacing
from .forward import At, OnPoint
from .progress import Progress, check_same
from .results import Grid, GridRow
from .scoring import KINDS
from .semantic import SemanticTask

logger = logging.getLogger(__name__)

LOG_PERIOD = 5.0  # s
# Work that a kill may cost.
COMMIT_PERIOD = 60.0  # s


class UncalibratedPointError(UserError, UncalibratedError):
    """An operating point that is to be evaluated has no statistics."""


class Task(Protocol):
    """
    What is evaluated on ``DATASETS.TEST``: made of a config and a model.

    Attributes:
        records: of the images.
        images_at_once: the most of them that :meth:`run` is to be given.
        facts: what ``grid.json`` says of the data and of how time was measured.
        identity: what results must share to be one grid, beside weights, points and settings.
    """

    records: list[dict]
    images_at_once: int
    facts: dict[str, Any]
    identity: dict[str, Any]

    def begin(self, output: Path) -> None:
        """Write what the results will be compared with."""

    def costs(self, points: Sequence[OperatingPoint], at: At) -> dict[OperatingPoint, Cost]:
        """What each point costs; ``at`` switches the model to one."""

    def run(
        self,
        records: Sequence[dict],
        points: Sequence[OperatingPoint],
        at: At,
        on_point: OnPoint,
    ) -> dict[OperatingPoint, list[dict]]:
        """
        Args:
            records: of some of the images.
            points: by resolution, then width.
            on_point: told of each point that is through, and on how many images.

        Returns:
            by point, what was found on each image, as JSON, with ``milliseconds`` or None.
        """

    def score(self, point: OperatingPoint, cost: Cost, progress: Progress, output: Path) -> GridRow:
        """Score what was found at a point on all images, and write it."""

    def finish(self, grid: Grid, progress: Progress, output: Path) -> None:
        """Draw the figures, and remove what an earlier evaluation left."""


def evaluate_grid(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    points: Sequence[OperatingPoint],
    output_dir: str | Path,
    *,
    calibrate: Callable[[list[OperatingPoint]], None] | None = None,
    resume: bool = False,
) -> Grid:
    """
    Evaluate ``model`` on ``DATASETS.TEST`` at ``points`` and write everything to ``output_dir``.

    Args:
        model: a detector or a classifier, as ``cfg`` says.
        calibrations: of ``model``; anything with their ``at(point)``.
        calibrate: calibrates points that are not yet; called with those of one resolution.
        resume: continue what is in ``output_dir``, if anything, instead of starting afresh.

    Returns:
        the grid, also written: ``grid.json``, ``grid.csv``, the query table, ``figures/``; of a
        detector also ``ground_truth.json`` and, as COCO results, ``detections/POINT.bbox.json``,
        ``.segm.json`` and ``.keypoints.json``; of a classifier ``predictions/POINT.csv``.

    Raises:
        ConfigError: for a point outside the trained range, or given twice.
        DatasetError: for a data set without objects, an image that does not decode or is not of the
            size the data set says.
        ProgressError: on ``resume``, if there are results of other weights, points, data or
            settings.
        UncalibratedError: for a point that is not calibrated, without ``calibrate``.
    """
    if not points:
        raise ValueError("points is empty: a grid has at least one operating point.")
    check_points(points, cfg)
    points = sorted(points)
    dataset = _dataset_name(cfg)
    make = DetectionTask
    if is_classification(cfg):
        make = ClassificationTask
    elif isinstance(model, SemanticSegmentor) and not isinstance(model, PanopticFPN):
        make = SemanticTask
    task: Task = make(cfg, model, dataset)
    run = _describe(cfg, model, calibrations, points, dataset, task)

    output = Path(output_dir)
    progress_folder = output / "progress"
    if resume and (output / "grid.json").exists() and not progress_folder.exists():
        finished = Grid.load(output / "grid.json")
        check_same(finished.run["identity"], run["identity"], output)
        logger.info("The evaluation in %s is complete.", output)
        return finished
    try:
        progress = Progress(progress_folder, run["identity"], points, resume)
        task.begin(output)
    except OSError as error:
        raise OSError(f"The output folder {output} cannot be written: {error}") from error
    if progress.num_images:
        logger.info("Continuing with %d of %d images done", progress.num_images, len(task.records))

    with inference_context(model), torch.no_grad():
        _calibrate(calibrations, points, calibrate, progress.folder / "calibrations.pth")
        costs = task.costs(points, calibrations.at)
        _run(task, points, calibrations.at, progress, costs)

    rows = []
    for number, point in enumerate(points, start=1):
        kept = progress.result(point)
        if kept is None:
            kept = task.score(point, costs[point], progress, output).to_dict()
            progress.keep_result(point, kept)
        row = GridRow.from_dict(kept)
        rows.append(row)
        shown = [
            f"{KINDS[kind].label} {row.score(kind):.1f}"
            for kind in row.kinds
            if row.score(kind) is not None
        ]
        logger.info("Scored %s (%d of %d): %s", point, number, len(points), ", ".join(shown))
    grid = Grid(tuple(rows), run)
    task.finish(grid, progress, output)
    grid.save(output)
    progress.delete()
    return grid


# Describing --------------------------------------------------------------------------------------


def _dataset_name(cfg: CfgNode) -> str:
    if len(cfg.DATASETS.TEST) != 1:
        raise DatasetError(
            f"A grid is evaluated on one data set; DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}."
        )
    (name,) = cfg.DATASETS.TEST
    return name


def _describe(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    points: Sequence[OperatingPoint],
    dataset: str,
    task: Task,
) -> dict[str, Any]:
    """What ``grid.json`` says of a run; ``identity`` is what results must share to be one grid."""
    weights = calibrations.fingerprint()
    device = device_name(model.device)
    packages = ("torch", "torchvision", "detectron2", "numpy", "pycocotools")
    run = {
        "dataset": dataset,
        **task.facts,
        "weights": cfg.MODEL.WEIGHTS,
        "weights_fingerprint": weights,
        "device": device,
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "config": cfg.dump(),
        "identity": {
            "weights": weights,
            "points": [str(point) for point in points],
            "data set": dataset,
            **task.identity,
            "device": device,
            **_settings(cfg),
        },
    }
    return json.loads(json.dumps(run))  # as it reads back: lists, no tuples


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # imported from a source tree
            versions[package] = "unknown"
    return versions


def _settings(cfg: CfgNode) -> dict[str, Any]:
    """The config keys that detections depend on, with dots in their names."""
    settings = {
        "INPUT.FORMAT": cfg.INPUT.FORMAT,
        "INPUT.MAX_SIZE_TEST": cfg.INPUT.MAX_SIZE_TEST,
        "TEST.DETECTIONS_PER_IMAGE": cfg.TEST.DETECTIONS_PER_IMAGE,
        "DATASETS.TRAIN": list(cfg.DATASETS.TRAIN),  # what points are calibrated on
    }
    nodes = [("MODEL", cfg.MODEL), ("MUTUALNET.CALIBRATION", cfg.MUTUALNET.CALIBRATION)]
    while nodes:
        prefix, node = nodes.pop()
        for key, value in node.items():
            name = f"{prefix}.{key}"
            if isinstance(value, CfgNode):
                nodes.append((name, value))
            elif name not in ("MODEL.WEIGHTS", "MODEL.DEVICE"):
                settings[name] = value
    return settings


# Before the images -------------------------------------------------------------------------------


def _calibrate(
    calibrations: Calibrations,
    points: Sequence[OperatingPoint],
    calibrate: Callable[[list[OperatingPoint]], None] | None,
    kept: Path,
) -> None:
    if kept.exists():
        calibrations.load_state_dict(torch.load(kept, weights_only=True))
    missing = [point for point in points if point not in calibrations]
    if missing and calibrate is None:
        raise UncalibratedPointError(
            f"Operating points without calibration: {', '.join(map(str, missing))}. Calibrated are "
            f"{', '.join(map(str, sorted(calibrations))) or 'none'}. tools/eval_grid.py --points "
            "calibrates any point, on training images."
        )
    done = 0
    for _, group in itertools.groupby(_by_resolution(missing), lambda point: point.resolution):
        group = list(group)
        logger.info(
            "Calibrating %s (%d of %d done)", ", ".join(map(str, group)), done, len(missing)
        )
        calibrate(group)
        done += len(group)
        with replacing(kept, "wb") as file:
            torch.save(calibrations.state_dict(), file)


def _by_resolution(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    return sorted(points, key=lambda point: (point.resolution, point.width))


# The images --------------------------------------------------------------------------------------


class _Estimate:
    """Logs how far an evaluation is, and how long the rest will take, every few seconds."""

    def __init__(self, costs: dict[OperatingPoint, Cost], num_images: int, done: int) -> None:
        # Points differ in cost by orders of magnitude; forwards alone would say little.
        self._work = {point: cost.total(0) for point, cost in costs.items()}
        self._per_image = sum(self._work.values())
        self._num_images = num_images
        self._left = self._per_image * (num_images - done)
        self._done = 0.0
        self._start = self._logged = time.perf_counter()

    def on_point(self, point: OperatingPoint, num_images: int) -> None:
        work = self._work[point] * num_images
        self._done += work
        self._left -= work
        now = time.perf_counter()
        if now - self._logged < LOG_PERIOD:
            return
        self._logged = now
        left = datetime.timedelta(seconds=round((now - self._start) * self._left / self._done))
        percent = 100 * (1 - self._left / (self._per_image * self._num_images))
        logger.info(
            "Evaluating %d images at %d operating points: %.1f %% done, %s left",
            *(self._num_images, len(self._work), percent, max(left, datetime.timedelta())),
        )


def _run(
    task: Task,
    points: Sequence[OperatingPoint],
    at: At,
    progress: Progress,
    costs: dict[OperatingPoint, Cost],
) -> None:
    estimate = _Estimate(costs, len(task.records), progress.num_images)
    ordered = _by_resolution(points)
    chunk = 1
    while progress.num_images < len(task.records):
        part = task.records[progress.num_images : progress.num_images + chunk]
        start = time.perf_counter()
        progress.commit(task.run(part, ordered, at, estimate.on_point))
        seconds_per_image = (time.perf_counter() - start) / len(part)
        chunk = min(max(int(COMMIT_PERIOD / seconds_per_image), 1), task.images_at_once)
