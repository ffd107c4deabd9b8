"""Checking the data sets that a config names, whatever it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from detectron2.config import CfgNode

from ..family import Family, family, outputs
from . import classification, coco
from .image_faults import check_images, with_usable_images
from .records import dataset_records


class Checks(NamedTuple):
    """
    How the data sets of a network's kind are checked.

    Attributes:
        all: check those of DATASETS.TRAIN and DATASETS.TEST.
        tables: what those of DATASETS.TRAIN hold, after that.
        decodes: whether the images of a test set are decoded, or there are too many of them.
    """

    all: Callable[[CfgNode], None] = coco.check_datasets
    tables: Callable[[CfgNode], list[str]] = coco.training_tables
    decodes: bool = True


CHECKS: dict[Family, Checks] = {
    Family.CLASSIFIER: Checks(
        classification.check_classification_datasets, classification.training_tables, decodes=False
    ),
    Family.SEMANTIC: Checks(),
    Family.PANOPTIC: Checks(),
    Family.RCNN: Checks(),
    Family.DENSE: Checks(),
}


def check_datasets(cfg: CfgNode) -> None:
    """
    Check all of ``DATASETS.TRAIN`` and ``DATASETS.TEST``, before any long work.

    Raises:
        DatasetError: see :func:`coco.check_datasets`, and
            :func:`classification.check_classification_datasets`.
    """
    CHECKS[family(cfg)].all(cfg)


def training_tables(cfg: CfgNode) -> list[str]:
    """What each of ``DATASETS.TRAIN`` holds, class by class, after :func:`check_datasets`."""
    return CHECKS[family(cfg)].tables(cfg)


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
        decode = CHECKS[family(cfg)].decodes
        check_images(name, records, cfg.MUTUALNET.BAD_RECORDS, decode=decode)
        if "box" in outputs(cfg):
            objects = (a for r in with_usable_images(records) for a in r.get("annotations", ()))
            coco.check_has_objects(name, objects)
