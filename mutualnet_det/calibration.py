"""Calibrating any of the models on its training images, made as evaluation makes them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils import comm
from torch import nn

from .config import ConfigError
from .data.faults import DatasetError
from .data.images import VIEWS, evaluation_view, read_record
from .data.records import training_records
from .distributed import broadcast_weights, sharing_errors
from .family import family
from .modeling.inference import backbone_features, infer_batch
from .modeling.parts import has_norms_behind_backbone
from .seeding import stream
from .slimmable import Calibrations, NoDataError, OperatingPoint, SingleValueError

logger = logging.getLogger(__name__)

# Calibration images depend on this alone, so that a point calibrated later sees the same ones.
IMAGE_SEED = 0


def calibration_images(cfg: CfgNode) -> list[np.ndarray]:
    """
    ``CALIBRATION.NUM_IMAGES`` training images as arrays (H, W, 3) of ``INPUT.FORMAT``, drawn at
    random but always the same, sorted by shape: those of like shape will share a batch, so that
    they are padded hardly more than in evaluation.
    """
    records = training_records(cfg)
    order = stream("calibration", IMAGE_SEED).permutation(len(records))
    images: list[np.ndarray] = []
    for index in order:
        if len(images) == cfg.MUTUALNET.CALIBRATION.NUM_IMAGES:
            break
        try:
            images.append(read_record(records[index], cfg.INPUT.FORMAT))
        except DatasetError as error:
            if cfg.MUTUALNET.BAD_RECORDS == "error":
                raise
            logger.warning("Calibration takes another image. %s", error)
    if not images:
        raise DatasetError(f"None of the {len(records)} training images can be read.")
    if VIEWS[family(cfg)].is_square:  # nothing is padded
        return images
    return sorted(images, key=lambda image: image.shape[0] / image.shape[1])


def calibration_batches(
    cfg: CfgNode, images: list[np.ndarray], resolution: int
) -> list[list[dict]]:
    """
    The images at a resolution (short side, px), as batches of inference inputs.

    Statistics are averaged over batches, each counting as much as any other. So no batch is what
    happens to be left over: as few as hold at most ``CALIBRATION.BATCH_SIZE`` images each differ by
    at most one image.
    """
    views = [evaluation_view(cfg, image, resolution) for image in images]
    count = math.ceil(len(views) / cfg.MUTUALNET.CALIBRATION.BATCH_SIZE)
    parts = np.array_split(np.arange(len(views)), count)
    return [[{"image": views[index]} for index in part] for part in parts]


def calibrate_points(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    points: Iterable[OperatingPoint],
    images: list[np.ndarray] | None = None,
) -> None:
    """
    Calibrate ``points`` of any of the models; one log line for each resolution. Without statistics
    there is nothing to do, and no image is read.

    Processes that train together must call this together: each calibrates some of the points and
    gives them to all. A point is calibrated by one process, as it would be without the others, so
    that statistics do not depend on how many there are.

    Args:
        calibrations: of ``model``, or of its network: see :func:`network_of`.
        images: from :func:`calibration_images`, for a caller who calibrates more than once.

    Raises:
        ConfigError: for a point at which a batch leaves a layer one value per channel.
    """
    by_resolution = sorted(points, key=lambda point: (point.resolution, point.width))
    if not calibrations.has_statistics:
        for point in by_resolution:
            calibrations.calibrate(point, [])
        return
    if comm.get_world_size() == 1:
        _calibrate(cfg, model, calibrations, by_resolution, images)
        return
    # On unlike machines, the last bits of what each has reduced may differ.
    broadcast_weights(model)
    # Dealt out like cards: each process has cheap and dear points.
    mine = by_resolution[comm.get_rank() :: comm.get_world_size()]
    with sharing_errors():
        _calibrate(cfg, model, calibrations, mine, images)
    all_points = calibrations.state_dict()["points"]
    my_points = {str(point): all_points[str(point)] for point in mine}
    fingerprint = calibrations.fingerprint()
    for part in comm.all_gather({"fingerprint": fingerprint, "points": my_points}):
        calibrations.load_state_dict(part)


def _calibrate(
    cfg: CfgNode,
    model: nn.Module,
    calibrations: Calibrations,
    by_resolution: Sequence[OperatingPoint],
    images: list[np.ndarray] | None,
) -> None:
    """Calibrate points in this process."""
    if not by_resolution:
        return
    was_training = model.training
    model.eval()
    images = calibration_images(cfg) if images is None else images
    try:
        for resolution, group in itertools.groupby(by_resolution, lambda p: p.resolution):
            start = time.perf_counter()
            batches = calibration_batches(cfg, images, resolution)
            group = list(group)
            for point in group:
                try:
                    _calibrate_point(model, calibrations, point, batches)
                except SingleValueError as error:
                    node = cfg.MUTUALNET.CALIBRATION
                    raise ConfigError(
                        f"{point} cannot be calibrated: {error} MUTUALNET.CALIBRATION.BATCH_SIZE "
                        f"is {node.BATCH_SIZE} and NUM_IMAGES {node.NUM_IMAGES}; make the batches "
                        "larger, or leave out so low a resolution."
                    ) from error
            logger.info(
                "Calibrated %s on %d images in %.1f s",
                ", ".join(str(point) for point in group),
                len(images),
                time.perf_counter() - start,
            )
    finally:
        model.train(was_training)


def _calibrate_point(
    model: nn.Module, calibrations: Calibrations, point: OperatingPoint, batches: list[list[dict]]
) -> None:
    # The heads only if they hold norms too.
    run = infer_batch if has_norms_behind_backbone(model) else backbone_features
    forward = functools.partial(run, model)
    try:
        calibrations.calibrate(point, batches, forward)
    except NoDataError:
        # Norms of the mask or keypoint head, in a network that is not yet sure of any object.
        with _objects_of_any_score(model):
            calibrations.calibrate(point, batches, forward)


@contextlib.contextmanager
def _objects_of_any_score(model: nn.Module) -> Iterator[None]:
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    thresholds = [predictor.test_score_thresh for predictor in predictors]
    try:
        for predictor in predictors:
            predictor.test_score_thresh = 0.0
        yield
    finally:
        for predictor, threshold in zip(predictors, thresholds, strict=True):
            predictor.test_score_thresh = threshold
