"""
Evaluating the grid: score, cost and time of one set of weights at every operating point.

Each image is decoded once for all points. What is done is kept on disk as it goes, and an
evaluation that was killed continues where it was.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from ..calibration import calibrate_points, calibration_images
from ..checkpoint import (
    CALIBRATIONS_FILE,
    FINE_TUNE,
    CheckpointError,
    add_calibrations,
    read_calibrations,
    write_calibrations,
)
from ..config import ConfigError, check_points, flattened
from ..data.check import check_datasets, check_test_set
from ..data.class_names import check_same_classes, dataset_names
from ..data.coco import left_out_images
from ..data.image_faults import KNOWN, Known, know
from ..data.images import VIEWS, read_record
from ..distributed import Team
from ..errors import UserError
from ..family import family
from ..modeling.parts import has_norms_behind_backbone
from ..progress_log import ProgressLog
from ..runtime.device import device_name, hardware_name
from ..slimmable import Calibrations, OperatingPoint, UncalibratedError
from .forward import At
from .latency import largest_records, model_memory
from .progress import Progress, check_same
from .results import Grid, GridRow
from .scoring import KINDS
from .task import Task, build_task, dataset_name
from .workers import (
    Job,
    Shared,
    by_resolution,
    do_job,
    evaluating,
)

logger = logging.getLogger(__name__)

# How config keys begin that what a backbone and its pyramid see does not depend on.
BEHIND_BACKBONE = (
    *("TEST.", "MODEL.RPN.", "MODEL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_MASK_HEAD."),
    *("MODEL.RETINANET.", "MODEL.SEM_SEG_HEAD.", "MODEL.PANOPTIC_FPN."),
)


class UncalibratedPointError(UserError, UncalibratedError):
    """An operating point that is to be evaluated has no statistics."""


def evaluate_grid(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    points: Sequence[OperatingPoint],
    output_dir: str | Path,
    *,
    calibrate: bool = False,
    resume: bool = False,
    together: bool = False,
) -> Grid:
    """
    Evaluate ``model`` on ``DATASETS.TEST`` at ``points`` and write everything to ``output_dir``.

    Args:
        model: what ``cfg`` describes.
        calibrations: of ``model``; those of points that lack are added, as far as an evaluation
            with the same weights and settings has left them in ``output_dir``.
        calibrate: whether the rest is calibrated, on images of ``DATASETS.TRAIN``, which are
            needed for nothing else.
        resume: continue what is in ``output_dir``, if anything, instead of starting afresh.
        together: whether all processes that were started together call this, each with the same
            model on a device of its own, and divide the work; ``output_dir`` is a folder that they
            share. If not, this one does all.

    Returns:
        the grid, in every process. It is also written, as ``grid.json`` and ``grid.csv``, with the
        query table and ``figures/``; where points were calibrated, ``calibrations.pth``; of a
        detector also ``ground_truth.json``, ``confusion/POINT.csv`` and, as COCO results,
        ``detections/POINT.bbox.json``, ``.segm.json`` and ``.keypoints.json``; of a classifier
        ``predictions/POINT.csv``.

    Raises:
        ConfigError: for a point outside the trained range, or given twice.
        DatasetError: before any long work, see :func:`mutualnet_det.data.check.check_datasets`; for
            a data set of other classes than the model's, or without objects; for an image that
            does not decode or is not of the size the data set says.
        ProgressError: on ``resume``, if there are results of other weights, points, data or
            settings; if another evaluation is at work there; if the processes do not share the
            folder.
        UncalibratedError: for a point that is not calibrated, without ``calibrate``.
    """
    if not points:
        raise ValueError("points is empty: a grid has at least one operating point.")
    team = Team(together)
    output = Path(output_dir)
    with team.sharing_errors():
        check_points(points, cfg)
        points = sorted(points)
        if all(point in calibrations for point in points):
            cfg = _without_training_data(cfg)
        kept = _reuse_calibrations(cfg, model, calibrations, output)
        missing = [point for point in points if point not in calibrations]
        if missing and not calibrate:
            raise UncalibratedPointError(
                f"Operating points without calibration: {', '.join(map(str, missing))}. Calibrated "
                f"are {', '.join(map(str, sorted(calibrations))) or 'none'}. `mutualnet evaluate "
                "--points` calibrates any point, on training images."
            )
    # One process reads all images, and tells the others what it knows.
    know(team.from_first(lambda: _checked(cfg, missing)))
    with team.sharing_errors():
        if team.rank:
            _checked(cfg, missing)
        dataset = dataset_name(cfg)
        # Which load_detector tells; any other model has no names to compare.
        learnt = getattr(model, "class_names", {})
        names = dataset_names(cfg, dataset)
        check_same_classes(learnt, "the model", names, repr(dataset), FINE_TUNE)
        images = calibration_images(cfg) if missing else []
        task = build_task(cfg, model)
        run = _describe(cfg, model, calibrations, points, task)
    work = team.from_all({**run["identity"], "points to calibrate": list(map(str, missing))})
    with team.sharing_errors():
        _check_alike(work)

    progress = Progress(output / "progress", points)
    finished = team.from_first(lambda: _finished(run, progress, output, resume))
    if finished is not None:
        return finished
    with contextlib.closing(progress):
        progress.threads = team.from_first(lambda: _begin(run, task, progress, output, resume))
        with evaluating(model, progress.threads):
            run["device"] = device_name(model.device)
            _calibrate(
                cfg, model, calibrations, missing, images, kept, None if team.rank else output
            )
            costs, left = team.from_first(
                lambda: (task.costs(points, calibrations.at), _left(task, progress))
            )
            job = Job(tuple(by_resolution(points)), costs, left, progress, output)
            shared = Shared(job, team.store(), team.size)
            log = _Log(job, shared, len(task.records))
            on_step = (lambda: None) if team.rank else log.update
            do_job(job, shared, task, calibrations.at, team.rank, on_step)
            return team.from_first(lambda: _finish(cfg, model, calibrations.at, run, task, job))


def _checked(cfg: CfgNode, missing: Sequence[OperatingPoint]) -> Known:
    """What is known of the images, once the data sets have been checked."""
    check_datasets(cfg if missing else _without_training_data(cfg))
    check_test_set(cfg)
    return KNOWN


def _check_alike(work: Sequence[Mapping[str, Any]]) -> None:
    """ConfigError if processes would not do the same, or on other hardware."""
    for rank, facts in enumerate(work):
        for key, value in facts.items():
            if value != work[0][key]:
                raise ConfigError(
                    f"The processes of an evaluation do the same on the same hardware, since a "
                    f"grid has latencies of one: {key} is {value!r} on rank {rank} and "
                    f"{work[0][key]!r} on rank 0."
                )


def _finished(run: dict[str, Any], progress: Progress, output: Path, resume: bool) -> Grid | None:
    """The grid that is to be continued, if there is nothing left to do."""
    if not resume or not (output / "grid.json").exists() or progress.folder.exists():
        return None
    finished = Grid.load(output / "grid.json")
    check_same(finished.run["identity"], run["identity"], output)
    if not run.keys() <= finished.run.keys():  # written before all of it was told
        finished = Grid(finished.rows, {**run, **finished.run})
        finished.save(output)
    logger.info("The evaluation in %s is complete.", output)
    return finished


def _begin(run: dict[str, Any], task: Task, progress: Progress, output: Path, resume: bool) -> int:
    """Open the output folder; how many threads each process has on the CPU."""
    threads = torch.get_num_threads()
    try:
        progress.begin(run["identity"], threads, resume)
        task.begin(output)
    except OSError as error:
        raise OSError(f"The output folder {output} cannot be written: {error}") from error
    if progress.threads > threads:
        logger.warning(
            "The evaluation was begun with %d threads in each process, and keeps to that. They are "
            "more than there are cores for them, so latencies will be longer.",
            progress.threads,
        )
    return progress.threads


def _finish(
    cfg: CfgNode, model: nn.Module, at: At, run: dict[str, Any], task: Task, job: Job
) -> Grid:
    """Measure the memory, and write what all processes have found."""
    points = sorted(job.points)
    largest = largest_records(cfg, task.records, {point.resolution for point in points})
    images = [read_record(record, cfg.INPUT.FORMAT) for record in largest]
    memory = model_memory(cfg, model, points, at, images)
    job.progress.wait_until(lambda: all(map(job.progress.result, points)))
    rows = tuple(
        GridRow.from_dict(job.progress.result(point)).evaluated_on(run["device"], memory[point])
        for point in points
    )
    grid = Grid(rows, run)
    task.finish(grid, job.progress, job.output)
    grid.save(job.output)
    job.progress.delete()
    return grid


# Describing --------------------------------------------------------------------------------------


def _describe(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    points: Sequence[OperatingPoint],
    task: Task,
) -> dict[str, Any]:
    """Describe a run for ``grid.json``; its ``identity`` is what results of one grid must share."""
    dataset = dataset_name(cfg)
    weights = calibrations.fingerprint()
    packages = ("torch", "torchvision", "detectron2", "numpy", "pycocotools")
    run = {
        "dataset": dataset,
        **task.facts,
        "images_left_out": left_out_images(dataset),
        "weights": cfg.MODEL.WEIGHTS,
        "weights_fingerprint": weights,
        "device": device_name(model.device),
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "config": cfg.dump(),
        "identity": {
            "weights": weights,
            "points": [str(point) for point in points],
            "data set": dataset,
            **task.identity,
            # Without the number of threads: that of an evaluation that is continued stays.
            "device": hardware_name(model.device),
            **_settings(cfg),
        },
    }
    return _as_json(run)


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
    keys = {
        *("INPUT.FORMAT", "INPUT.MAX_SIZE_TEST", "TEST.DETECTIONS_PER_IMAGE"),
        "DATASETS.TRAIN",  # what points are calibrated on
    }
    keys |= set(VIEWS[family(cfg)].keys)
    return {
        name: value
        for name, value in flattened(cfg).items()
        if (name in keys or name.startswith(("MODEL.", "MUTUALNET.CALIBRATION.")))
        and name not in ("MODEL.WEIGHTS", "MODEL.DEVICE")
    }


def _calibration_settings(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """The config keys that statistics depend on: by the images, or by what layers see of them."""
    settings = {
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        "MUTUALNET.BAD_RECORDS": cfg.MUTUALNET.BAD_RECORDS,
        **_settings(cfg),
    }
    if has_norms_behind_backbone(model):
        return settings
    return {name: v for name, v in settings.items() if not name.startswith(BEHIND_BACKBONE)}


def _as_json(value: Any) -> Any:
    """A value as it reads back from JSON: lists, no tuples."""
    return json.loads(json.dumps(value))


# Before the images -------------------------------------------------------------------------------


def _without_training_data(cfg: CfgNode) -> CfgNode:
    """A config for points that are calibrated, which is all that training images are for."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ()
    cfg.freeze()
    return cfg


def _reuse_calibrations(
    cfg: CfgNode, model: nn.Module, calibrations: Calibrations, output: Path
) -> list[OperatingPoint]:
    """
    Add what ``calibrations`` lacks of those that an evaluation with the same weights and settings
    made and kept in ``output``.

    Returns:
        all points that it kept; none if the weights or settings were others.

    Raises:
        CheckpointError: for a file that is broken; to delete it helps.
    """
    path = output / CALIBRATIONS_FILE
    if not path.exists():
        return []
    try:
        state, settings = read_calibrations(str(path))
        wanted = _calibration_settings(cfg, model)
        if state["fingerprint"] != calibrations.fingerprint() or settings != wanted:
            return []
        add_calibrations(calibrations, str(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Delete the file, and its operating points are calibrated again."
        ) from error
    return [OperatingPoint.parse(name) for name in state["points"]]


def _calibrate(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    missing: Sequence[OperatingPoint],
    images: list[np.ndarray],
    kept: list[OperatingPoint],
    output: Path | None,
) -> None:
    """
    Calibrate what is missing, all processes together, and keep it in ``output``, if this one has
    it, beside the points that are there.
    """
    path = output / CALIBRATIONS_FILE if output is not None else None
    # Beside these results, calibrations of other weights would mislead.
    if path is not None and path.exists():
        state, _ = read_calibrations(str(path))
        if state["fingerprint"] != calibrations.fingerprint():
            path.unlink()
    done = 0
    for _, group in itertools.groupby(by_resolution(missing), lambda point: point.resolution):
        group = list(group)
        logger.info(
            "Calibrating %s (%d of %d done)", ", ".join(map(str, group)), done, len(missing)
        )
        calibrate_points(cfg, model, calibrations, group, images)
        done += len(group)
        kept += group
        if path is not None:
            settings = _calibration_settings(cfg, model)
            write_calibrations(str(path), calibrations, kept, settings)


def _left(task: Task, progress: Progress) -> tuple[int, ...]:
    """The numbers of the images that are not through."""
    done = progress.done()
    if done:
        logger.info("Continuing with %d of %d images done", len(done), len(task.records))
    return tuple(number for number in range(len(task.records)) if number not in done)


# How far it is -----------------------------------------------------------------------------------


class _Log:
    """Logs how far an evaluation is, and how long the rest of the images will take."""

    def __init__(self, job: Job, shared: Shared, num_images: int) -> None:
        self._progress = job.progress
        self._shared = shared
        self._num_images = num_images
        # Points differ in cost by orders of magnitude; forwards alone would say little.
        self._work = {point: cost.total(0) for point, cost in job.costs.items()}
        self._all = sum(self._work.values()) * num_images
        self._before = sum(self._work.values()) * (num_images - len(job.images))
        self._scored: list[OperatingPoint] = []
        self._log = ProgressLog()

    def update(self) -> None:
        """Log a line if it is time for one."""
        if self._log.is_due():
            self._log_images()
        for point in self._work:
            if point not in self._scored:
                self._log_score(point)

    def _log_images(self) -> None:
        counts = self._shared.counts()
        done = sum(self._work[point] * count for point, count in counts.items())
        left = self._all - self._before - done
        remaining = self._log.time_left(done, left)
        if remaining is None or not left:
            return
        percent = 100 * (1 - left / self._all)
        logger.info(
            "Evaluating %d images at %d operating points: %.1f %% done, %s left",
            *(self._num_images, len(self._work), percent, remaining),
        )

    def _log_score(self, point: OperatingPoint) -> None:
        result = self._progress.result(point)
        if result is None:
            return
        self._scored.append(point)
        row = GridRow.from_dict(result)
        shown = [
            f"{KINDS[kind].label if index == 0 else f'{kind} {metric}'} {value:.1f}"
            for kind in row.kinds
            for index, metric in enumerate(row.metrics(kind, 1))
            if (value := row.score(kind, metric)) is not None
        ]
        logger.info(
            "Scored %s (%d of %d): %s",
            *(point, len(self._scored), len(self._work), ", ".join(shown)),
        )
