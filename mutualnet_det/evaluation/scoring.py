"""COCO AP of detections: into the COCO results format, and from there to numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..runtime.query_table import SCORE_LABELS
from .coco_evaluators import EVALUATORS, Evaluator, default_evaluator

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Kind:
    """
    Kind of score that a model gets.

    Attributes:
        metrics: in percent; the first is the main one.
        columns: of a query table, with the metric that each holds; the first holds the main one.
        coco_columns: further ones, where images have more objects than COCO counts detections, see
            :func:`score`.
    """

    metrics: tuple[str, ...]
    columns: dict[str, str]
    coco_columns: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Column of the main metric: as a query table has it."""
        return SCORE_LABELS[next(iter(self.columns))]


# Where a model is scored on several, the first decides which operating points are worth using.
KINDS = {
    "panoptic": Kind(("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"), {"panoptic_pq": "PQ"}),
    "box": Kind(AP_METRICS, {"box_ap": "AP"}, {"box_ap_at_100": "AP@100"}),
    "mask": Kind(AP_METRICS, {"mask_ap": "AP"}, {"mask_ap_at_100": "AP@100"}),
    "keypoint": Kind(
        ("AP", "AP50", "AP75", "APm", "APl"), {"keypoint_ap": "AP"}, {"keypoint_ap_at_20": "AP@20"}
    ),
    "semantic": Kind(("mIoU", "accuracy"), {"semantic_miou": "mIoU"}),
    "class": Kind(("top1", "top5"), {"top1": "top1", "top5": "top5"}),
}

# What a COCO results file of each type holds. Each type has a file of its own, and is scored from
# it: beside a box, the area of a mask would not count.
RESULT_KEYS = {
    "bbox": ("image_id", "category_id", "bbox", "score"),
    "segm": ("image_id", "category_id", "segmentation", "score"),
    "keypoints": ("image_id", "category_id", "keypoints", "score"),
}
# The kind of score that a results file gives.
KIND_OF = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}

# COCO's metrics as parts of a precision array: its IoU thresholds are 0.50, 0.55 to 0.95, its
# areas those of _AREAS.
_THRESHOLDS = {"AP50": 0, "AP75": 5}
_AREA = {"APs": "small", "APm": "medium", "APl": "large"}
_AREAS = {
    "bbox": ("all", "small", "medium", "large"),
    "segm": ("all", "small", "medium", "large"),
    "keypoints": ("all", "medium", "large"),
}

Detection = dict[str, Any]


def coco_results(
    instances: Instances, image_id: int, category_ids: Sequence[int]
) -> list[Detection]:
    """
    Detections of one image in the COCO results format.

    Args:
        instances: ``pred_boxes``, ``scores``, ``pred_classes`` and maybe ``pred_masks`` and
            ``pred_keypoints``, at the size of the image on disk.
        category_ids: the data set's own category id of each class, by the model's class index.

    Returns:
        list[dict]: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in px), ``score``
        with masks ``segmentation`` (compressed RLE), with keypoints ``keypoints`` (x, y and score
        of each); empty without detections.
    """
    results = instances_to_coco_json(instances.to("cpu"), image_id)
    for result in results:
        result["category_id"] = category_ids[result["category_id"]]
    return results


def only(iou_type: str, detections: Iterable[Detection]) -> Iterator[Detection]:
    """The detections as a COCO results file of one type holds them, see ``RESULT_KEYS``."""
    for detection in detections:
        yield {key: detection[key] for key in RESULT_KEYS[iou_type]}


def load_ground_truth(ground_truth: dict | str, evaluator: str | None = None) -> Evaluator:
    """
    The ground truth to score with.

    Args:
        ground_truth: a COCO data set, kept as it is, or the path of one.
        evaluator: one of ``EVALUATORS``; None: the best that is installed.
    """
    if isinstance(ground_truth, str):
        ground_truth = json.loads(Path(ground_truth).read_bytes())
    return EVALUATORS[evaluator or default_evaluator()](ground_truth)


def score(
    ground_truth: Evaluator | dict,
    detections: Iterable[Detection],
    iou_type: str,
    keypoint_sigmas: Sequence[float] = (),
) -> dict[str, Any]:
    """
    COCO AP, as it comes from pycocotools when run by hand on the same files.

    COCO counts 100 detections of a category in an image, and 20 with keypoints. Where an image has
    more objects than that, no detector could find them all, and AP counts all detections instead.

    Args:
        ground_truth: a COCO data set, or what :func:`load_ground_truth` made of it.
        detections: COCO results; may be empty.
        iou_type: "bbox", "segm" or "keypoints".
        keypoint_sigmas: of the object keypoint similarity, one per keypoint; COCO's, of people, if
            there are none.

    Returns:
        dict: the metrics that ``KINDS`` lists in percent, None where there is nothing to find (no
        object of that area); where AP counts all detections, "AP@100" or "AP@20": COCO's own;
        LVIS's APr, APc and APf by its rules; ``per_class``: AP by name of the category.
    """
    if isinstance(ground_truth, dict):
        ground_truth = load_ground_truth(ground_truth)
    results = list(only(iou_type, detections))
    precision = ground_truth.precision(results, iou_type, keypoint_sigmas)
    *by_coco, precision = np.moveaxis(precision, -1, 0)
    kind = KINDS[KIND_OF[iou_type]]
    scores: dict[str, Any] = {}
    for metric in kind.metrics:
        area = _AREAS[iou_type].index(_AREA.get(metric, "all"))
        scores[metric] = _mean(precision[_THRESHOLDS.get(metric, slice(None)), ..., area])
    for metric, places in ground_truth.groups.items():
        scores[metric] = _mean(precision[:, :, places, 0])
    for metric, limited in zip(kind.coco_columns.values(), by_coco, strict=False):
        scores[metric] = _mean(limited[..., 0])
    scores["per_class"] = {
        name: _mean(precision[:, :, index, 0]) for index, name in enumerate(ground_truth.categories)
    }
    return scores


def _mean(precision: np.ndarray) -> float | None:
    """Mean over the thresholds and classes that count, in percent."""
    counted = precision[precision > -1]
    return float(np.mean(counted)) * 100 if counted.size else None
