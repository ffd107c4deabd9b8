"""Predictions without a ground truth: what a model finds on many images, as COCO results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..data.image_list import ImageList, category_ids
from ..family import OBJECT_HEADS, family
from ..files import replacing
from ..progress_log import ProgressLog
from ..runtime import BudgetPredictor, ImageError
from ..slimmable import OperatingPoint
from .files import write_json_list
from .identity import files_digest
from .progress import Progress, check_same
from .scoring import coco_results

logger = logging.getLogger(__name__)

PREDICTIONS, IMAGES = "predictions.json", "images.json"


@dataclass(frozen=True)
class PredictionsSummary:
    """How many images there were, how many of them could not be used, and what was found."""

    point: OperatingPoint
    num_images: int
    num_unusable: int
    num_detections: int
    output: Path

    def __str__(self) -> str:
        text = (
            f"{self.num_detections} detections on {self.num_images} images at {self.point}, in "
            f"{self.output / PREDICTIONS}."
        )
        if self.num_unusable:
            text += f" {self.num_unusable} could not be used: {self.output / IMAGES} says why."
        return text


def predict(
    predictor: BudgetPredictor,
    images: ImageList,
    point: OperatingPoint,
    output: Path,
    *,
    resume: bool = False,
) -> PredictionsSummary:
    """
    Find objects on every image, and write them to ``output``.

    ``predictions.json`` is a list in COCO's results format, in the order of the images: see
    :func:`coco_results`. ``images.json`` is a COCO data set of the images, with their sizes, and of
    the categories; images that could not be used are its ``unusable``, and what the predictions
    were made with is its ``info``. Both are written at the end. Until then, what has been found
    stands in a folder ``progress``: a kill loses a few seconds.

    Args:
        predictor: of a model that finds objects.
        point: that it runs at.
        resume: go on with what is in ``output``, if anything; otherwise that is overwritten.

    Raises:
        DatasetError: if categories of the images lack a class of the model.
        ProgressError: on ``resume``, if ``output`` holds predictions of another model, at another
            point, or on other images; or if another process is at work there.
    """
    classes = predictor.table.classes or _numbered(predictor.cfg)
    ids = category_ids(images, classes)
    identity = _identity(predictor, images, point)
    if (output / IMAGES).is_file() and resume:
        content = json.loads((output / IMAGES).read_text(encoding="utf-8"))
        check_same(content["info"], identity, output)
        logger.info("%s is complete: nothing is left to do.", output / PREDICTIONS)
        return PredictionsSummary(point, **content["counts"], output=output)
    progress = Progress(output / "progress", [point])
    with contextlib.closing(progress):
        progress.begin(identity, torch.get_num_threads(), resume)
        (output / IMAGES).unlink(missing_ok=True)
        if predictor.device.type == "cpu":
            torch.set_num_threads(progress.threads)  # sums come out the same only in this way
        _find(predictor, images, point, ids, progress)
        categories = [{"id": id_, "name": name} for id_, name in zip(ids, classes, strict=True)]
        content = _counted(images, progress.records(point))
        content = {"info": identity, **content, "categories": images.categories or categories}
        write_json_list(output / PREDICTIONS, _detections(progress, point))
        with replacing(output / IMAGES) as file:
            json.dump(content, file)
    progress.delete()
    return PredictionsSummary(point, **content["counts"], output=output)


def _counted(images: ImageList, records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The images that could be used, with their sizes, those that could not, and the counts."""
    usable, unusable, num_detections = [], [], 0
    for image, record in zip(images.images, records, strict=True):
        num_detections += len(record["detections"])
        if record["error"] is None:
            usable.append({**image, "height": record["height"], "width": record["width"]})
        else:
            unusable.append({**image, "error": record["error"]})
    counts = {
        "num_images": len(images.images),
        "num_unusable": len(unusable),
        "num_detections": num_detections,
    }
    return {"counts": counts, "images": usable, "unusable": unusable}


def _numbered(cfg: CfgNode) -> tuple[str, ...]:
    """The names of classes that nothing tells the names of."""
    num_classes = cfg.MODEL[OBJECT_HEADS[family(cfg)]].NUM_CLASSES
    return tuple(f"class {number}" for number in range(1, num_classes + 1))


def _identity(
    predictor: BudgetPredictor, images: ImageList, point: OperatingPoint
) -> dict[str, Any]:
    records = json.dumps([images.images, images.categories])
    return {
        "weights": predictor.table.model,
        "config": hashlib.sha256(predictor.cfg.dump().encode()).hexdigest(),
        "point": str(point),
        "device": predictor.device.type,
        "images": hashlib.sha256(records.encode()).hexdigest(),
        "files": files_digest(map(str, images.paths), contents=False),
    }


def _find(
    predictor: BudgetPredictor,
    images: ImageList,
    point: OperatingPoint,
    ids: list[int],
    progress: Progress,
) -> None:
    """Predict on the images that are left, and keep what is found."""
    done, part = progress.done(), progress.part(0)
    left = [number for number in range(len(images.paths)) if number not in done]
    log = ProgressLog()
    found: dict[int, dict[str, Any]] = {}
    for count, number in enumerate(left, start=1):
        image_id = images.images[number]["id"]
        found[number] = _predicted(predictor, images.paths[number], image_id, point, ids)
        if log.is_due() or count == len(left):
            part.commit(list(found), [(point, list(found.values()))])
            found.clear()
            logger.info(
                "%d of %d images, %s left",
                *(len(done) + count, len(images.paths), log.time_left(count, len(left) - count)),
            )


def _predicted(
    predictor: BudgetPredictor,
    path: Path,
    image_id: Any,
    point: OperatingPoint,
    ids: list[int],
) -> dict[str, Any]:
    try:
        instances = predictor(path, point=point).instances
    except ImageError as error:
        logger.warning("%s", error)
        return {"error": str(error), "detections": []}
    height, width = instances.image_size
    detections = coco_results(instances, image_id, ids)
    return {"error": None, "height": height, "width": width, "detections": detections}


def _detections(progress: Progress, point: OperatingPoint) -> Iterator[dict[str, Any]]:
    for record in progress.records(point):
        yield from record["detections"]
