"""Calibrating a detector on its training images, resized as evaluation resizes them."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from torch import nn

from ..config import is_classification
from ..data.classification import evaluation_images, read_classification_image
from ..data.coco import DatasetError
from ..data.loader import training_records
from ..modeling.classifier import MutualClassifier
from ..seeding import stream
from ..slimmable import Calibrations, OperatingPoint, SlimmableBatchNorm2d

logger = logging.getLogger(__name__)

# Calibration images depend on this alone, so that a point calibrated later sees the same ones.
IMAGE_SEED = 0


def calibration_images(cfg: CfgNode) -> list[np.ndarray]:
    """
    ``CALIBRATION.NUM_IMAGES`` training images as arrays (H, W, 3) of ``INPUT.FORMAT``, drawn at
    random but always the same, sorted by shape: those of like shape will share a batch, so that
    they are padded hardly more than in evaluation.
    """
    classifies = is_classification(cfg)
    records = training_records(cfg)
    order = stream("calibration", IMAGE_SEED).permutation(len(records))
    images: list[np.ndarray] = []
    for index in order:
        if len(images) == cfg.MUTUALNET.CALIBRATION.NUM_IMAGES:
            break
        file_name = records[index]["file_name"]
        try:
            if classifies:
                images.append(read_classification_image(records[index], cfg.INPUT.FORMAT))
            else:
                images.append(read_image(file_name, format=cfg.INPUT.FORMAT))
        except Exception as error:
            if cfg.MUTUALNET.BAD_RECORDS == "error":
                raise DatasetError(f"Cannot calibrate on {file_name}: {error}") from error
            logger.warning("Calibration skips %s: %s", file_name, error)
    if not images:
        raise DatasetError(f"None of the {len(records)} training images can be read.")
    if classifies:  # square crops: nothing is padded
        return images
    return sorted(images, key=lambda image: image.shape[0] / image.shape[1])


def calibration_batches(
    cfg: CfgNode, images: list[np.ndarray], resolution: int
) -> list[list[dict]]:
    """The images at a resolution (short side, px), as batches of inference inputs."""
    inputs = []
    if is_classification(cfg):
        inputs = [{"image": x} for x in evaluation_images(cfg, images, resolution)]
    else:
        resize = T.ResizeShortestEdge(resolution, cfg.INPUT.MAX_SIZE_TEST)
        for image in images:
            resized = resize.get_transform(image).apply_image(image).transpose(2, 0, 1)
            inputs.append({"image": torch.as_tensor(np.ascontiguousarray(resized))})
    size = cfg.MUTUALNET.CALIBRATION.BATCH_SIZE
    return [inputs[i : i + size] for i in range(0, len(inputs), size)]


def calibrate_points(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    points: Iterable[OperatingPoint],
    images: list[np.ndarray] | None = None,
) -> None:
    """
    Calibrate ``points`` of a detector or a classifier; one log line for each resolution.

    Args:
        calibrations: of ``model``, or of its network: see :func:`network_of`.
        images: from :func:`calibration_images`, for a caller who calibrates more than once.
    """
    was_training = model.training
    model.eval()
    images = calibration_images(cfg) if images is None else images
    try:
        by_resolution = sorted(points, key=lambda point: (point.resolution, point.width))
        for resolution, group in itertools.groupby(by_resolution, lambda p: p.resolution):
            start = time.perf_counter()
            batches = calibration_batches(cfg, images, resolution)
            group = list(group)
            for point in group:
                calibrations.calibrate(point, batches, _forward(model))
            logger.info(
                "Calibrated %s on %d images in %.1f s",
                ", ".join(str(point) for point in group),
                len(images),
                time.perf_counter() - start,
            )
    finally:
        model.train(was_training)


def _forward(model: nn.Module):
    """What to run: the backbone, and the heads only if they hold norms too."""
    if isinstance(model, MutualClassifier):
        return model.logits
    in_backbone = set(model.backbone.modules())
    for module in model.modules():
        if isinstance(module, SlimmableBatchNorm2d) and module not in in_backbone:
            if not hasattr(model, "inference"):  # dense models: they have nothing to leave out
                return model
            return lambda batch: model.inference(batch, do_postprocess=False)
    return lambda batch: model.backbone(model.preprocess_image(batch).tensor)
