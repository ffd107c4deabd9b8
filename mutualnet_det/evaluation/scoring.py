"""COCO AP of detections: into the COCO results format, and from there to numbers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..runtime.query_table import METRICS as COLUMNS

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Kind:
    """
    What a model is scored on.

    Attributes:
        metrics: in percent; the first is the main one.
        columns: of a query table, with the metric that each holds; the first holds the main one.
    """

    metrics: tuple[str, ...]
    columns: dict[str, str]

    @property
    def label(self) -> str:
        """Of the main metric: as a query table has it."""
        return COLUMNS[next(iter(self.columns))]


# Where a model is scored on several, the first decides which operating points are worth using.
KINDS = {
    "panoptic": Kind(("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"), {"panoptic_pq": "PQ"}),
    "box": Kind(METRICS, {"box_ap": "AP"}),
    "mask": Kind(METRICS, {"mask_ap": "AP"}),
    "keypoint": Kind(("AP", "AP50", "AP75", "APm", "APl"), {"keypoint_ap": "AP"}),
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


def only(iou_type: str, detections: Iterable[Detection]) -> list[Detection]:
    """The detections as a COCO results file of one type holds them, see ``RESULT_KEYS``."""
    return [{key: detection[key] for key in RESULT_KEYS[iou_type]} for detection in detections]


def load_ground_truth(ground_truth: dict | str) -> COCO:
    """pycocotools' index over a COCO data set, a dict (kept as it is) or a path, made quietly."""
    with contextlib.redirect_stdout(io.StringIO()):
        if isinstance(ground_truth, dict):
            api = COCO()
            # COCOeval writes into the annotations.
            annotations = [dict(annotation) for annotation in ground_truth["annotations"]]
            api.dataset = {**ground_truth, "annotations": annotations}
            api.createIndex()
            return api
        return COCO(ground_truth)


def score(
    ground_truth: COCO | dict,
    detections: Iterable[Detection],
    iou_type: str,
    keypoint_sigmas: Sequence[float] = (),
) -> dict[str, Any]:
    """
    COCO AP by pycocotools, as it comes when run by hand on the same files.

    Args:
        ground_truth: annotation ids must start at 1: pycocotools takes a match with id 0 for none.
        detections: COCO results; may be empty.
        iou_type: "bbox", "segm" or "keypoints".
        keypoint_sigmas: of the object keypoint similarity, one per keypoint; COCO's, of people, if
            there are none.

    Returns:
        dict: the metrics that ``KINDS`` lists in percent, None where there is nothing to find (no
        object of that area); ``per_class``: AP by name of the category.
    """
    if isinstance(ground_truth, dict):
        ground_truth = load_ground_truth(ground_truth)
    results = only(iou_type, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        if results:
            predictions = ground_truth.loadRes(results)
        else:  # loadRes takes no empty list
            predictions = load_ground_truth({**ground_truth.dataset, "annotations": []})
        evaluation = COCOeval(ground_truth, predictions, iou_type)
        if keypoint_sigmas:
            evaluation.params.kpt_oks_sigmas = np.asarray(keypoint_sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = KINDS[KIND_OF[iou_type]].metrics
    scores: dict[str, Any] = {
        metric: _percent(value)
        for metric, value in zip(metrics, evaluation.stats[: len(metrics)], strict=True)
    }
    # (IoU thresholds, recalls, categories, areas: all first, detections per image: 100 last)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    scores["per_class"] = {}
    for index, category in enumerate(ground_truth.loadCats(evaluation.params.catIds)):
        found = precision[:, :, index]
        found = found[found > -1]
        scores["per_class"][category["name"]] = _percent(np.mean(found) if found.size else -1)
    return scores


def _percent(value: float) -> float | None:
    return None if value < 0 else float(value) * 100
