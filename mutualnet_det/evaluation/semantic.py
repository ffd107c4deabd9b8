"""Evaluating semantic segmentation: mean intersection over union at every operating point."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import SemanticSegmentor
from detectron2.modeling.postprocessing import sem_seg_postprocess
from PIL import ExifTags, Image

from ..data.coco import load_records
from ..data.faults import DatasetError
from ..runtime import Latency
from ..runtime.device import device_name
from ..slimmable import OperatingPoint
from .cost import Cost, count_points
from .figures import write_charts
from .forward import IMAGES_AT_ONCE, At, PointResults, over_points, steady_times
from .identity import files_digest
from .latency import timed
from .progress import Progress
from .results import Grid, GridRow

TIMING = (
    "of one forward with a batch of 1: normalising, padding and the network, up to logits at the "
    "network's scale; resizing before and after and the first forward after a change of operating "
    "point are left out"
)

# Pixels by (true class, predicted class), where there are any.
Confusion = list[tuple[int, int, int]]


class SemanticScorer:
    """
    Compares the pixels' classes with those of a data set.

    Args:
        cfg: its ``MODEL.SEM_SEG_HEAD`` says how many classes there are and which label to ignore.
        dataset: in Detectron2's semantic format.

    Attributes:
        names: of the classes; their numbers, where the data set tells none.
    """

    def __init__(self, cfg: CfgNode, dataset: str) -> None:
        self._num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self._ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        names = MetadataCatalog.get(dataset).get("stuff_classes")
        self.names = list(names or map(str, range(self._num_classes)))

    def confusion(self, classes: torch.Tensor, record: dict) -> Confusion:
        """Confusion on one image: (true class, predicted class, number of pixels) each."""
        path = record["sem_seg_file_name"]
        try:
            with Image.open(path) as file:
                truth = np.asarray(file)
        except OSError as error:
            raise DatasetError(f"Cannot evaluate on {path}: {error}") from error
        predicted = classes.cpu().numpy()
        if truth.ndim != 2:
            raise DatasetError(
                f"{path} has {truth.shape[2]} channels; expected one, of the classes' numbers."
            )
        if truth.shape != predicted.shape:
            raise DatasetError(
                f"{path} is {truth.shape[1]} x {truth.shape[0]} px, its "
                f"image {predicted.shape[1]} x {predicted.shape[0]}."
            )
        counted = truth != self._ignored
        if counted.any() and truth[counted].max() >= self._num_classes:
            raise DatasetError(
                f"{path} holds the class {truth[counted].max()}; MODEL.SEM_SEG_HEAD.NUM_CLASSES "
                f"is {self._num_classes} and the ignored label {self._ignored}."
            )
        pairs = truth[counted].astype(np.int64) * self._num_classes + predicted[counted]
        values, counts = np.unique(pairs, return_counts=True)
        return [
            (*divmod(int(value), self._num_classes), int(count))
            for value, count in zip(values, counts, strict=True)
        ]

    def score(self, confusions: Iterable[Confusion]) -> dict[str, Any]:
        """
        Returns:
            dict: in percent ``mIoU``, the mean over the classes that are there of intersection over
            union (as in Detectron2 and PASCAL VOC), the ``accuracy`` of all pixels, and
            ``per_class``: the IoU by name, None for a class that is not there.
        """
        matrix = np.zeros((self._num_classes, self._num_classes), np.int64)
        for confusion in confusions:
            for true, predicted, count in confusion:
                matrix[true, predicted] += count
        hits, truth, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
        union = truth + predicted - hits
        present = truth > 0
        ratios = 100 * hits / np.maximum(union, 1)
        return {
            "mIoU": float(ratios[present].mean()) if present.any() else None,
            "accuracy": float(100 * hits.sum() / matrix.sum()) if matrix.sum() else None,
            "per_class": {
                name: float(ratio) if there else None
                for name, ratio, there in zip(self.names, ratios, present, strict=True)
            },
        }


def _with_size(record: dict) -> dict:
    """A record with height and width, which Detectron2's own semantic data sets leave out."""
    if "height" in record:
        return record
    try:
        with Image.open(record["file_name"]) as file:
            width, height = file.size
            if file.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8):  # on its side
                width, height = height, width
            return {**record, "width": width, "height": height}
    except OSError as error:
        raise DatasetError(f"Cannot evaluate on {record['file_name']}: {error}") from error


class SemanticTask:
    """Mean IoU of a semantic segmentor; see :class:`task.Task`."""

    images_at_once = IMAGES_AT_ONCE

    def __init__(self, cfg: CfgNode, model: SemanticSegmentor, dataset: str) -> None:
        self._cfg = cfg
        self._model = model
        self.records = [_with_size(record) for record in load_records(cfg, dataset)]
        self._scorer = SemanticScorer(cfg, dataset)
        self.facts = {
            "num_images": len(self.records),
            "classes": self._scorer.names,
            "timing": TIMING,
        }
        names = json.dumps([record["file_name"] for record in self.records])
        masks = (record["sem_seg_file_name"] for record in self.records)
        self.identity = {
            "images": hashlib.sha256(names.encode()).hexdigest(),
            "ground truth": files_digest(masks, contents=True),
        }

    def begin(self, output: Path) -> None:
        """The ground truth lies beside the images: nothing to write."""

    def costs(self, points: Sequence[OperatingPoint], at: At) -> dict[OperatingPoint, Cost]:
        image_sizes = [(record["height"], record["width"]) for record in self.records]
        return count_points(self._cfg, self._model, points, image_sizes, at)

    def run(
        self,
        records: Sequence[dict],
        points: Sequence[OperatingPoint],
        at: At,
    ) -> PointResults:
        """Yield for every image ``confusion`` and ``milliseconds``."""
        return over_points(self._cfg, records, points, at, self._segment)

    def _segment(self, image: torch.Tensor, record: dict) -> dict:
        (_, logits), milliseconds = timed(self._model, image)
        size = record["height"], record["width"]
        classes = sem_seg_postprocess(logits, tuple(image.shape[-2:]), *size).argmax(dim=0)
        return {
            "confusion": self._scorer.confusion(classes, record),
            "milliseconds": milliseconds,
        }

    def score(self, point: OperatingPoint, cost: Cost, progress: Progress, output: Path) -> GridRow:
        results = list(progress.records(point))
        return GridRow(
            point,
            cost,
            detections_per_image=0.0,
            latency={device_name(self._model.device): Latency.of(steady_times(results))},
            scores={"semantic": self._scorer.score(record["confusion"] for record in results)},
        )

    def finish(self, grid: Grid, progress: Progress, output: Path) -> None:
        write_charts(grid, output / "figures", "iou_against_gflops")
