"""Parts that the demo and the live page share: a model, images to try it on, times."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from ..evenly import evenly
from ..family import outputs
from ..slimmable import OperatingPoint
from .device import wait_for
from .predictor import BudgetPredictor, Prediction
from .pretrained import PredictorError
from .sources import is_image_name


def check_finds_objects(cfg: CfgNode) -> None:
    """PredictorError for the config of a model that finds no objects."""
    if "box" not in outputs(cfg):
        raise PredictorError(
            f"The model, a {cfg.MODEL.META_ARCHITECTURE}, finds no objects, and this needs "
            "detections."
        )


def example_images(cfg: CfgNode, count: int) -> list[Path]:
    """Up to ``count`` images of the config's test set, spread over it; none if it is not here."""
    for name in cfg.DATASETS.TEST[:1]:
        declared = [Path(root) for other, _, root in cfg.DATASETS.COCO_FORMAT if other == name]
        known = MetadataCatalog.get(name).get("image_root")
        for folder in declared or ([Path(known)] if known else []):
            if folder.is_dir():
                return evenly(sorted(filter(is_image_name, folder.iterdir())), count)
    return []


def timed(
    predictor: BudgetPredictor, image: np.ndarray, **budget: float | bool | OperatingPoint | None
) -> tuple[Prediction, float]:
    """
    A prediction, and the seconds that it took: of resizing, the network and pasting the masks.

    Args:
        image: RGB, (H, W, 3) in uint8.
        budget: see :class:`BudgetPredictor`.
    """
    start = time.perf_counter()
    prediction = predictor(Image.fromarray(image), **budget)
    wait_for(predictor.device)
    return prediction, time.perf_counter() - start
