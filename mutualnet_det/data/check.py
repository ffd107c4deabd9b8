"""Checking the data sets that a config names, whatever it trains."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode

from ..family import Family, family, outputs
from . import coco
from .classification import check_classification_datasets
from .image_faults import check_images, with_usable_images
from .records import dataset_records

CHECKS: dict[Family, Callable[[CfgNode], None]] = {
    Family.CLASSIFIER: check_classification_datasets,
    Family.SEMANTIC: coco.check_datasets,
    Family.PANOPTIC: coco.check_datasets,
    Family.RCNN: coco.check_datasets,
    Family.DENSE: coco.check_datasets,
}


def check_datasets(cfg: CfgNode) -> None:
    """
    Check all of ``DATASETS.TRAIN`` and ``DATASETS.TEST``, before any long work.

    Raises:
        DatasetError: see :func:`coco.check_datasets` and :func:`check_classification_datasets`.
    """
    CHECKS[family(cfg)](cfg)


def check_test_set(cfg: CfgNode) -> None:
    """
    Check what ``DATASETS.TEST`` is scored on, before any long work: after :func:`check_datasets`.

    All images of a detector's or segmentor's data set are decoded; of a classifier's, which has
    many and small ones, the headers are read.

    Raises:
        DatasetError: for images that cannot be used, see :func:`image_faults.check_images`; for a
            data set without objects, with which no detector is scored.
    """
    for name in cfg.DATASETS.TEST:
        records = dataset_records(cfg, name)
        decode = family(cfg) is not Family.CLASSIFIER
        check_images(name, records, cfg.MUTUALNET.BAD_RECORDS, decode=decode)
        if "box" in outputs(cfg):
            objects = (a for r in with_usable_images(records) for a in r.get("annotations", ()))
            coco.check_has_objects(name, objects)
