"""
Evaluating a detector: detections of every image at every operating point, scored as COCO AP; of a
Panoptic FPN also its semantic and panoptic segmentation.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from torch import nn

from ..data.coco import (
    check_has_objects,
    ground_truth_file,
    load_records,
    renumbered_ground_truth,
)
from ..data.coco_check import by_class
from ..family import outputs
from ..runtime import Latency
from ..runtime.device import device_name
from ..slimmable import OperatingPoint
from .coco_evaluators import COCO_LIMITS, objects_per_image
from .confusion import Confusion, confusion_file
from .cost import Cost, count_points
from .figures import write_figures
from .files import replacing, write_json_list
from .forward import IMAGES_AT_ONCE, At, PointResults, over_points, steady_times
from .identity import files_digest
from .latency import timed
from .panoptic import PanopticScorer
from .progress import Progress
from .results import Grid, GridRow
from .rules import CocoRules, rules_name, rules_of
from .scoring import KIND_OF, KINDS, coco_results, only
from .semantic import SemanticScorer

logger = logging.getLogger(__name__)

TIMING = (
    "of one forward with a batch of 1: normalising, padding and the network, up to detections at "
    "the network's scale; resizing the image before, pasting the masks after and the first forward "
    "after a change of operating point are left out"
)


class DetectionTask:
    """Box AP of a detector, mask and keypoint AP if it has the heads; see :class:`task.Task`."""

    images_at_once = IMAGES_AT_ONCE

    def __init__(self, cfg: CfgNode, model: nn.Module, dataset: str) -> None:
        self._cfg = cfg
        self._model = model
        self._dataset = dataset
        rules = rules_of(dataset)  # before all images are read
        self._iou_types = [name for name, kind in KIND_OF.items() if kind in outputs(cfg)]
        self.records = load_records(cfg, dataset)
        metadata = MetadataCatalog.get(dataset)
        self._ground_truth = renumbered_ground_truth(
            ground_truth_file(dataset),
            {record["image_id"] for record in self.records},
            need_masks="segm" in self._iou_types,
        )
        annotations = self._ground_truth["annotations"]
        check_has_objects(dataset, annotations)
        for category, name in zip(
            by_class(self._ground_truth), metadata.thing_classes, strict=True
        ):
            category["name"] = name  # as the model goes by it
        # The data set's own category id of each class, by class index.
        by_id = metadata.thing_dataset_id_to_contiguous_id
        self._category_ids = sorted(by_id, key=by_id.get)
        digest = hashlib.sha256(json.dumps(self._ground_truth, sort_keys=True).encode())
        self.identity = {"ground truth": digest.hexdigest()}
        self._semantic = self._panoptic = None
        if "semantic" in outputs(cfg):
            self._semantic = SemanticScorer(cfg, dataset)
            ignored = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
            self._panoptic = PanopticScorer(model, dataset, ignored)
            files = self._panoptic.files(self.records)
            self.identity["segments"] = files_digest(files, contents=True)
        self._rules: CocoRules | None = None
        self.facts = {
            "num_images": len(self._ground_truth["images"]),
            "num_objects": len(annotations),
            "classes": list(metadata.thing_classes),
            "evaluator": rules_name(rules),
            "timing": TIMING,
        }

    def begin(self, output: Path) -> None:
        if rules_of(self._dataset) is CocoRules:
            allowed = self._cfg.TEST.DETECTIONS_PER_IMAGE
            tell_limits(self._ground_truth["annotations"], self._iou_types, allowed)
        else:
            self._set_rules()  # what they lack is told before hours of work
        with replacing(output / "ground_truth.json") as file:
            file.write(json.dumps(self._ground_truth))  # json.dump takes several times as long

    def costs(self, points: Sequence[OperatingPoint], at: At) -> dict[OperatingPoint, Cost]:
        image_sizes = [(record["height"], record["width"]) for record in self.records]
        return count_points(self._cfg, self._model, points, image_sizes, at)

    def run(
        self,
        records: Sequence[dict],
        points: Sequence[OperatingPoint],
        at: At,
    ) -> PointResults:
        """Yield for every image ``image_id``, ``milliseconds`` and ``detections``."""
        return over_points(self._cfg, records, points, at, self._detect)

    def _detect(self, image: torch.Tensor, record: dict) -> dict:
        (instances, logits), milliseconds = timed(self._model, image)
        size = record["height"], record["width"]
        instances = detector_postprocess(instances, *size)
        result = {
            "image_id": record["image_id"],
            "milliseconds": milliseconds,
            "detections": coco_results(instances, record["image_id"], self._category_ids),
        }
        if self._panoptic is not None:
            classes = sem_seg_postprocess(logits, tuple(image.shape[-2:]), *size).argmax(dim=0)
            result["confusion"] = self._semantic.confusion(classes, record)
            result["matches"] = self._panoptic.matches(instances, classes, record)
        return result

    def score(self, point: OperatingPoint, cost: Cost, progress: Progress, output: Path) -> GridRow:
        rules = self._rules or self._set_rules()
        results, detections = [], []
        for record in progress.records(point):
            detections += record.pop("detections")
            results.append(record)
        scores: dict[str, dict[str, Any] | None] = {}
        if self._panoptic is not None:
            scores["panoptic"] = self._panoptic.score(record["matches"] for record in results)
        scores |= {"box": None, "mask": None}
        for iou_type in self._iou_types:
            scores[KIND_OF[iou_type]] = rules(detections, iou_type)
            write_json_list(_detections_file(output, point, iou_type), only(iou_type, detections))
        Confusion.of(self._ground_truth, detections).save(confusion_file(output, point))
        if self._semantic is not None:
            scores["semantic"] = self._semantic.score(record["confusion"] for record in results)
        return GridRow(
            point,
            cost,
            detections_per_image=len(detections) / len(results),
            latency={device_name(self._model.device): Latency.of(steady_times(results))},
            scores=scores,
        )

    def _set_rules(self) -> CocoRules:
        """Index the ground truth, in a process that scores."""
        metadata, sigmas = MetadataCatalog.get(self._dataset), self._cfg.TEST.KEYPOINT_OKS_SIGMAS
        self._rules = rules_of(self._dataset)(self._ground_truth, metadata, sigmas)
        return self._rules

    def finish(self, grid: Grid, progress: Progress, output: Path) -> None:
        expected = {
            _detections_file(output, row.point, iou_type)
            for row in grid.rows
            for iou_type in self._iou_types
        }
        expected |= {confusion_file(output, row.point) for row in grid.rows}
        written = (output / "detections").glob("*.json"), (output / "confusion").glob("*.csv")
        for path in itertools.chain(*written):
            if path not in expected:
                path.unlink()
        figures = output / "figures"
        write_figures(grid, figures, self.records, self._ground_truth, progress.records)


def tell_limits(annotations: Sequence[dict], iou_types: Sequence[str], allowed: int) -> None:
    """Log where AP counts more detections than COCO does, and what no detector could find."""
    for limit in dict.fromkeys(COCO_LIMITS[iou_type] for iou_type in iou_types):
        of_limit = [iou_type for iou_type in iou_types if COCO_LIMITS[iou_type] == limit]
        most = max(objects_per_image(annotations, of_limit[0]).values(), default=0)
        if most > limit:
            logger.info(
                "An image has %d objects, and COCO counts %d detections: all that "
                "TEST.DETECTIONS_PER_IMAGE allows (%d) count in %s; COCO's own is beside as AP@%d.",
                *(most, limit, allowed),
                *(" and ".join(KINDS[KIND_OF[t]].label for t in of_limit), limit),
            )
    objects = objects_per_image(annotations, "bbox")
    lost = sum(max(count - allowed, 0) for count in objects.values())
    if allowed >= 0 and lost:
        logger.warning(
            "TEST.DETECTIONS_PER_IMAGE is %d, and an image has %d objects: %d of the %d objects of "
            "the test set cannot be found. Raise it to %d.",
            *(allowed, max(objects.values()), lost, objects.total(), max(objects.values())),
        )


def _detections_file(output: Path, point: OperatingPoint, iou_type: str) -> Path:
    return output / "detections" / f"{point}.{iou_type}.json"
