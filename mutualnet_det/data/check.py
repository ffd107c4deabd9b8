"""Checking the data sets that a config names, whatever it trains."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import is_classification
from . import coco
from .classification import check_classification_datasets


def check_datasets(cfg: CfgNode) -> None:
    """
    Check all of ``DATASETS.TRAIN`` and ``DATASETS.TEST``, before any long work.

    Raises:
        DatasetError: see :func:`coco.check_datasets` and :func:`check_classification_datasets`.
    """
    if is_classification(cfg):
        check_classification_datasets(cfg)
    else:
        coco.check_datasets(cfg)
