"""Checking the data sets that a config names, whatever it trains."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode

from ..family import Family, family
from . import coco
from .classification import check_classification_datasets

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
