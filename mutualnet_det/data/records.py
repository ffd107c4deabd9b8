"""The records of data sets, as the kind of network that a config describes takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)

from ..family import Family, family, outputs
from .classification import load_classification_records
from .coco import load_records
from .faults import DatasetError

LOADERS: dict[Family, Callable[[CfgNode, str], list[dict[str, Any]]]] = {
    Family.CLASSIFIER: load_classification_records,
    Family.SEMANTIC: load_records,
    Family.PANOPTIC: load_records,
    Family.RCNN: load_records,
    Family.DENSE: load_records,
}


def dataset_records(cfg: CfgNode, name: str) -> list[dict[str, Any]]:
    """The records of a data set; UserError if it is not one that the config's network can use."""
    return LOADERS[family(cfg)](cfg, name)


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """The records of ``DATASETS.TRAIN``, without empty images if the config filters them."""
    records = [record for name in cfg.DATASETS.TRAIN for record in dataset_records(cfg, name)]
    if "box" in outputs(cfg):
        records = _with_instances(cfg, records)
    if not records:
        raise DatasetError(f"DATASETS.TRAIN {cfg.DATASETS.TRAIN} holds no image to learn from.")
    return records


def _with_instances(cfg: CfgNode, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for record in records:
        if "annotations" not in record:
            raise DatasetError(
                f"DATASETS.TRAIN {cfg.DATASETS.TRAIN}: {record['file_name']} comes without "
                f"annotations of objects, and a {cfg.MODEL.META_ARCHITECTURE} learns from them."
            )
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    if cfg.MODEL.KEYPOINT_ON and cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE > 0:
        least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        records = filter_images_with_few_keypoints(records, least)
    return records
