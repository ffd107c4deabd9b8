"""
Evaluating the grid: COCO AP, cost and time of one set of weights at every operating point.

Each image is decoded once for all points. What is done is kept on disk as it goes, and an
evaluation that was killed continues where it was.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import itertools
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size, read_image
from detectron2.evaluation.evaluator import inference_context
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from pycocotools.coco import COCO

from ..config import check_points
from ..data.coco import DatasetError, load_records, renumbered_ground_truth
from ..errors import UserError
from ..runtime.device import device_name, wait_for
from ..slimmable import Calibrations, OperatingPoint, UncalibratedError
from .cost import Cost, count_points
from .figures import write_figures
from .files import replacing
from .progress import Progress, check_same
from .results import Grid, GridRow
from .scoring import coco_results, load_ground_truth, only, score

logger = logging.getLogger(__name__)

LOG_PERIOD = 5.0  # s
# Work that a kill may cost, and the most images held in memory at once.
COMMIT_PERIOD = 60.0  # s
MAX_CHUNK_IMAGES = 64


class UncalibratedPointError(UserError, UncalibratedError):
    """An operating point that is to be evaluated has no statistics."""


TIMING = (
    "median over the images of one forward with a batch of 1: normalising, padding and the "
    "network, up to detections at the network's scale; resizing the image before and pasting the "
    "masks after are left out"
)


def evaluate_grid(
    cfg: CfgNode,
    model: GeneralizedRCNN,
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
        calibrations: of ``model``; anything with their ``at(point)``.
        calibrate: calibrates points that are not yet; called with those of one resolution.
        resume: continue what is in ``output_dir``, if anything, instead of starting afresh.

    Returns:
        the grid, also written: ``grid.json``, ``grid.csv``, the query table, ``ground_truth.json``,
        ``detections/POINT.bbox.json`` and ``.segm.json`` (COCO results), ``figures/``.

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
    records = load_records(cfg, dataset)
    metadata = MetadataCatalog.get(dataset)
    ground_truth = renumbered_ground_truth(
        metadata.json_file,
        {record["image_id"] for record in records},
        need_masks=cfg.MODEL.MASK_ON,
    )
    if all(annotation["iscrowd"] for annotation in ground_truth["annotations"]):
        raise DatasetError(f"{metadata.json_file} has no objects to find, so there is no AP.")
    run = _describe(cfg, model, calibrations, points, dataset, ground_truth)

    output = Path(output_dir)
    progress_folder = output / "progress"
    if resume and (output / "grid.json").exists() and not progress_folder.exists():
        finished = Grid.load(output / "grid.json")
        check_same(finished.run["identity"], run["identity"], output)
        logger.info("The evaluation in %s is complete.", output)
        return finished
    try:
        progress = Progress(progress_folder, run["identity"], points, resume)
        with replacing(output / "ground_truth.json") as file:
            json.dump(ground_truth, file)
    except OSError as error:
        raise OSError(f"The output folder {output} cannot be written: {error}") from error
    if progress.num_images:
        logger.info("Continuing with %d of %d images done", progress.num_images, len(records))

    with inference_context(model), torch.no_grad():
        _calibrate(calibrations, points, calibrate, progress.folder / "calibrations.pth")
        image_sizes = [(record["height"], record["width"]) for record in records]
        costs = count_points(cfg, model, points, image_sizes, calibrations.at)
        detector = _Detector(cfg, model, calibrations, points, _category_ids(metadata))
        _detect(detector, records, progress, costs)

    index = load_ground_truth(str(output / "ground_truth.json"))
    iou_types = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    rows = []
    for number, point in enumerate(points, start=1):
        row = _finish_point(point, costs[point], progress, index, iou_types, output)
        rows.append(row)
        shown = [f"{kind} AP {row.ap(kind):.1f}" for kind in row.kinds]
        logger.info("Scored %s (%d of %d): %s", point, number, len(points), ", ".join(shown))
    grid = Grid(tuple(rows), run)
    _remove_other_detections(output, points, iou_types)
    write_figures(grid, output / "figures", records, ground_truth, progress.records)
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
    if MetadataCatalog.get(name).get("json_file") is None:
        raise DatasetError(f"The data set {name!r} of DATASETS.TEST is in no COCO format.")
    return name


def _describe(
    cfg: CfgNode,
    model: GeneralizedRCNN,
    calibrations: Calibrations,
    points: Sequence[OperatingPoint],
    dataset: str,
    ground_truth: dict,
) -> dict[str, Any]:
    """What ``grid.json`` says of a run; ``identity`` is what results must share to be one grid."""
    weights = calibrations.fingerprint()
    device = device_name(model.device)
    truth = hashlib.sha256(json.dumps(ground_truth, sort_keys=True).encode()).hexdigest()
    packages = ("torch", "torchvision", "detectron2", "numpy", "pycocotools")
    run = {
        "dataset": dataset,
        "num_images": len(ground_truth["images"]),
        "num_objects": len(ground_truth["annotations"]),
        "weights": cfg.MODEL.WEIGHTS,
        "weights_fingerprint": weights,
        "device": device,
        "timing": TIMING,
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "config": cfg.dump(),
        "identity": {
            "weights": weights,
            "points": [str(point) for point in points],
            "data set": dataset,
            "ground truth": truth,
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


def _category_ids(metadata) -> list[int]:
    """The data set's own category id of each class, by class index."""
    by_id = metadata.thing_dataset_id_to_contiguous_id
    return sorted(by_id, key=by_id.get)


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


class _Detector:
    """Runs a model on images at every operating point."""

    def __init__(
        self,
        cfg: CfgNode,
        model: GeneralizedRCNN,
        calibrations: Calibrations,
        points: Sequence[OperatingPoint],
        category_ids: Sequence[int],
    ) -> None:
        self.points = _by_resolution(points)
        self._format = cfg.INPUT.FORMAT
        self._max_size = cfg.INPUT.MAX_SIZE_TEST
        self._model = model
        self._calibrations = calibrations
        self._category_ids = category_ids

    def __call__(
        self, records: Sequence[dict], on_point: Callable[[OperatingPoint, int], None]
    ) -> dict[OperatingPoint, list[dict]]:
        """
        Args:
            records: of the images, in Detectron2's data set format.
            on_point: told of each point that is through, and on how many images.

        Returns:
            by point, for every image: ``image_id``, ``milliseconds`` and ``detections``.
        """
        images = [self._read(record) for record in records]
        found = {}
        by_resolution = itertools.groupby(self.points, lambda point: point.resolution)
        for resolution, points in by_resolution:
            resized = [self._resize(image, resolution) for image in images]
            for point in points:
                with self._calibrations.at(point):
                    found[point] = [
                        self._detect(image, record)
                        for image, record in zip(resized, records, strict=True)
                    ]
                on_point(point, len(records))
        return found

    def _read(self, record: dict) -> np.ndarray:
        try:
            image = read_image(record["file_name"], format=self._format)
            check_image_size(record, image)
        except Exception as error:
            raise DatasetError(f"Cannot evaluate on {record['file_name']}: {error}") from error
        return image

    def _resize(self, image: np.ndarray, resolution: int) -> torch.Tensor:
        resize = T.ResizeShortestEdge(resolution, self._max_size).get_transform(image)
        return torch.as_tensor(np.ascontiguousarray(resize.apply_image(image).transpose(2, 0, 1)))

    def _detect(self, image: torch.Tensor, record: dict) -> dict:
        device = self._model.device
        wait_for(device)
        start = time.perf_counter()
        (instances,) = self._model.inference([{"image": image}], do_postprocess=False)
        wait_for(device)
        seconds = time.perf_counter() - start
        instances = detector_postprocess(instances, record["height"], record["width"])
        return {
            "image_id": record["image_id"],
            "milliseconds": round(seconds * 1000, 3),
            "detections": coco_results(instances, record["image_id"], self._category_ids),
        }


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


def _detect(
    detector: _Detector,
    records: Sequence[dict],
    progress: Progress,
    costs: dict[OperatingPoint, Cost],
) -> None:
    estimate = _Estimate(costs, len(records), progress.num_images)
    chunk = 1
    while progress.num_images < len(records):
        part = records[progress.num_images : progress.num_images + chunk]
        start = time.perf_counter()
        progress.commit(detector(part, estimate.on_point))
        seconds_per_image = (time.perf_counter() - start) / len(part)
        chunk = min(max(int(COMMIT_PERIOD / seconds_per_image), 1), MAX_CHUNK_IMAGES)


# After the images --------------------------------------------------------------------------------


def _detections_file(output: Path, point: OperatingPoint, iou_type: str) -> Path:
    return output / "detections" / f"{point}.{iou_type}.json"


def _finish_point(
    point: OperatingPoint,
    cost: Cost,
    progress: Progress,
    ground_truth: COCO,
    iou_types: Sequence[str],
    output: Path,
) -> GridRow:
    """Write and score the detections of a point."""
    kept = progress.result(point)
    if kept is not None:
        return GridRow.from_dict(kept)
    milliseconds, detections = [], []
    for record in progress.records(point):
        milliseconds.append(record["milliseconds"])
        detections += record["detections"]
    scores: dict[str, dict | None] = {"bbox": None, "segm": None}
    for iou_type in iou_types:
        scores[iou_type] = score(ground_truth, detections, iou_type)
        with replacing(_detections_file(output, point, iou_type)) as file:
            json.dump(only(iou_type, detections), file)
    row = GridRow(
        point,
        cost,
        detections_per_image=len(detections) / len(milliseconds),
        milliseconds=statistics.median(milliseconds),
        box=scores["bbox"],
        mask=scores["segm"],
    )
    progress.keep_result(point, row.to_dict())
    return row


def _remove_other_detections(
    output: Path, points: Sequence[OperatingPoint], iou_types: Sequence[str]
) -> None:
    """Those of an earlier evaluation in the same folder."""
    expected = {_detections_file(output, p, iou_type) for p in points for iou_type in iou_types}
    for path in (output / "detections").glob("*.json"):
        if path not in expected:
            path.unlink()
