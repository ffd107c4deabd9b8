"""Checks on config keys: an error names the key, its value and what is expected."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode

from ..errors import ConfigError
from ..family import Family, family
from ..gpu import why_unsupported
from ..slimmable import OperatingPoint
from . import choices
from .detectron2_keys import CHOICES, unused_keys, value_of
from .loss_terms import LOSS_TERMS, terms_present
from .points import check_points


def _fail(key: str, value: object, expected: str) -> None:
    raise ConfigError(f"{key} is {value!r}; expected {expected}.")


def _check_choice(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        _fail(key, value, "one of " + ", ".join(map(repr, allowed)))


def check_device(text: str) -> None:
    """ConfigError for a device that cannot be used; a GPU is not used, which takes memory."""
    try:
        device = torch.device(text)
        if device.type == "cuda":
            usable = device.index is None or device.index < torch.cuda.device_count()
        else:
            usable = torch.zeros(1, device=device).item() == 0
    # Backends that are absent fail in any way there is.
    except Exception:
        usable = False
    if not usable:
        known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        _fail("MODEL.DEVICE", text, f"a device of this machine, such as {', '.join(known)}")
    if device.type == "cuda" and (why := why_unsupported(device.index or 0)):
        raise ConfigError(f"MODEL.DEVICE is {text!r}: {why} MODEL.DEVICE cpu does without.")


def _is_positive(value: Any, types: type | tuple[type, ...]) -> bool:
    is_number = isinstance(value, types) and not isinstance(value, bool)
    return is_number and bool(0 < value < math.inf)


def _check_widths(key: str, values: Sequence[Any], low: float = 0, high: float = math.inf) -> None:
    if not all(_is_positive(v, (int, float)) for v in values):
        _fail(key, values, "a list of positive numbers (fractions of the channels)")
    _check_order(key, values, ascending=True)
    if not all(low <= v <= high for v in values):
        _fail(key, values, f"widths in MUTUALNET.WIDTH_RANGE, {low:g} to {high:g}")


def _check_resolutions(
    key: str, values: Sequence[Any], low: int = 1, high: float = math.inf
) -> None:
    if not all(_is_positive(v, int) for v in values):
        _fail(key, values, "a list of positive integers (px)")
    _check_order(key, values, ascending=False)
    if not all(low <= v <= high for v in values):
        _fail(key, values, f"short sides within MUTUALNET.RESOLUTIONS, {low} to {high} px")


def _check_order(key: str, values: Sequence[Any], *, ascending: bool) -> None:
    if list(values) != sorted(set(values), reverse=not ascending):
        order = "ascending" if ascending else "descending"
        _fail(key, values, f"{order} values without repeats")


def check_config(cfg: CfgNode) -> None:
    """
    Check the project's keys; ConfigError names the key, its value and what is expected.

    Called by every tool before anything slow starts.
    """
    node = cfg.MUTUALNET
    _check_choice("MUTUALNET.METHOD", node.METHOD, choices.METHODS)
    _check_choice("MUTUALNET.SCOPE", node.SCOPE, choices.SCOPES)
    _check_choice("MUTUALNET.PROPOSALS", node.PROPOSALS, choices.PROPOSALS)
    _check_choice("MUTUALNET.NORM", node.NORM, choices.NORMS)
    _check_choice("MUTUALNET.STATISTICS", node.STATISTICS, choices.STATISTICS)
    if node.NORM == "GN" and node.STATISTICS == "frozen":
        _fail(
            "MUTUALNET.STATISTICS",
            node.STATISTICS,
            "'batch' where MUTUALNET.NORM is 'GN', which has no statistics to freeze",
        )
    _check_choice("MUTUALNET.AMP_DTYPE", node.AMP_DTYPE, choices.AMP_DTYPES)
    _check_choice("MUTUALNET.MATMUL_PRECISION", node.MATMUL_PRECISION, choices.MATMUL_PRECISIONS)
    _check_choice("MUTUALNET.BAD_RECORDS", node.BAD_RECORDS, choices.BAD_RECORDS)
    if any(name not in choices.LOGGERS or node.LOGGERS.count(name) > 1 for name in node.LOGGERS):
        _fail("MUTUALNET.LOGGERS", node.LOGGERS, f"some of {', '.join(map(repr, choices.LOGGERS))}")
    _check_sampler(cfg)
    for key, value, only in unused_keys(cfg):
        _fail(key, value, f"{only!r}, the only one there is here")
    for key, allowed in CHOICES.items():
        _check_choice(key, value_of(cfg, key), allowed)
    steps = list(cfg.SOLVER.STEPS)
    if steps != sorted(steps):
        _fail("SOLVER.STEPS", cfg.SOLVER.STEPS, "iterations in ascending order")
    if cfg.TEST.DETECTIONS_PER_IMAGE == 0:
        _fail("TEST.DETECTIONS_PER_IMAGE", 0, "at least 1, or -1 for all")
    _check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, choices.OPTIMIZERS)
    if cfg.SOLVER.OPTIMIZER == "ADAMW" and cfg.SOLVER.NESTEROV:
        _fail("SOLVER.NESTEROV", True, "False where SOLVER.OPTIMIZER is 'ADAMW'")

    bounds = node.WIDTH_RANGE
    if (
        len(bounds) != 2
        or not all(_is_positive(v, (int, float)) for v in bounds)
        or bounds[0] > bounds[1]
    ):
        _fail("MUTUALNET.WIDTH_RANGE", bounds, "(smallest, largest) with 0 < smallest <= largest")
    if not node.RESOLUTIONS:
        _fail("MUTUALNET.RESOLUTIONS", node.RESOLUTIONS, "at least one short side in pixels")
    _check_resolutions("MUTUALNET.RESOLUTIONS", node.RESOLUTIONS)
    _check_widths("MUTUALNET.GRID.WIDTHS", node.GRID.WIDTHS, *bounds)
    _check_resolutions(
        "MUTUALNET.GRID.RESOLUTIONS",
        node.GRID.RESOLUTIONS,
        node.RESOLUTIONS[-1],
        node.RESOLUTIONS[0],
    )
    for key, points in (("TEST_POINT", [node.TEST_POINT]), ("EVAL_POINTS", node.EVAL_POINTS)):
        try:
            check_points([OperatingPoint.parse(str(text)) for text in points if text != ""], cfg)
        except ValueError as error:
            raise ConfigError(f"MUTUALNET.{key} is {node[key]!r}. {error}") from None
    if node.PATIENCE > 0 and cfg.TEST.EVAL_PERIOD <= 0:
        _fail("TEST.EVAL_PERIOD", cfg.TEST.EVAL_PERIOD, "a period where MUTUALNET.PATIENCE is set")
    if not 0 <= node.EMA_DECAY < 1:
        _fail("MUTUALNET.EMA_DECAY", node.EMA_DECAY, "a number from 0 to below 1")
    _CHECKS[family(cfg)](cfg)
    for key, value in node.LOSS_WEIGHTS.items():
        if not 0 <= value < math.inf:
            _fail(f"MUTUALNET.LOSS_WEIGHTS.{key}", value, "a weight of at least 0")
    terms = terms_present(
        # None is known for a meta-architecture of others.
        LOSS_TERMS.get(cfg.MODEL.META_ARCHITECTURE, ()),
        mask_on=cfg.MODEL.MASK_ON,
        keypoint_on=cfg.MODEL.KEYPOINT_ON,
    )
    for term, part in (("FEATURE", "feature pyramid"), ("OBJECTNESS", "RPN")):
        if node.LOSS_WEIGHTS[term] > 0 and terms and term not in terms:
            _fail(
                f"MUTUALNET.LOSS_WEIGHTS.{term}",
                node.LOSS_WEIGHTS[term],
                f"0 for a {cfg.MODEL.META_ARCHITECTURE}, which has no {part}",
            )
    learns = node.METHOD in choices.ALONE or any(node.LOSS_WEIGHTS[term] for term in terms)
    if terms and not learns:
        weights = {term: node.LOSS_WEIGHTS[term] for term in terms}
        _fail("MUTUALNET.LOSS_WEIGHTS", weights, "a weight above 0")
    if not 0 < node.TEMPERATURE < math.inf:
        _fail("MUTUALNET.TEMPERATURE", node.TEMPERATURE, "a temperature above 0")
    if not 0 < node.SUBNETWORK_WEIGHT < math.inf:
        _fail("MUTUALNET.SUBNETWORK_WEIGHT", node.SUBNETWORK_WEIGHT, "a weight above 0")
    for key, value, least in (
        ("MUTUALNET.NUM_RANDOM", node.NUM_RANDOM, 0),
        ("MUTUALNET.MICRO_BATCHES", node.MICRO_BATCHES, 1),
        ("MUTUALNET.CALIBRATION.NUM_IMAGES", node.CALIBRATION.NUM_IMAGES, 1),
        ("MUTUALNET.CALIBRATION.BATCH_SIZE", node.CALIBRATION.BATCH_SIZE, 1),
        ("MUTUALNET.CALIBRATION.REFRESH_PERIOD", node.CALIBRATION.REFRESH_PERIOD, 1),
        ("MUTUALNET.SKIPPED_STEPS", node.SKIPPED_STEPS, 0),
        ("MUTUALNET.PATIENCE", node.PATIENCE, 0),
        ("SOLVER.REFERENCE_WORLD_SIZE", cfg.SOLVER.REFERENCE_WORLD_SIZE, 0),
        ("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, 1),
        ("SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER, 1),
        ("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD, 1),
        ("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS, 0),
    ):
        if value < least:
            _fail(key, value, f"at least {least}")
    if node.CHECKPOINTS_KEPT != 0 and node.CHECKPOINTS_KEPT < 2:
        _fail("MUTUALNET.CHECKPOINTS_KEPT", node.CHECKPOINTS_KEPT, "at least 2, or 0 to keep all")
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    if cfg.SOLVER.AMP.ENABLED and node.AMP_DTYPE == "float16" and not on_gpu:
        _fail(
            "SOLVER.AMP.ENABLED",
            True,
            f"False where MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, or another MUTUALNET.AMP_DTYPE",
        )


def _check_sampler(cfg: CfgNode) -> None:
    loader = cfg.DATALOADER
    # Detectron2's other ones would be left out in silence.
    _check_choice("DATALOADER.SAMPLER_TRAIN", loader.SAMPLER_TRAIN, choices.TRAINING_SAMPLERS)
    if loader.SAMPLER_TRAIN == "TrainingSampler":
        return
    if family(cfg) is Family.SEMANTIC:
        _fail(
            "DATALOADER.SAMPLER_TRAIN",
            loader.SAMPLER_TRAIN,
            "'TrainingSampler' for semantic segmentation, whose records do not tell their classes",
        )
    if not 0 < loader.REPEAT_THRESHOLD <= 1:
        _fail(
            "DATALOADER.REPEAT_THRESHOLD",
            loader.REPEAT_THRESHOLD,
            "a fraction of the images above 0, up to 1, below which a class is rare: such as 0.01",
        )


def _check_augmentation(cfg: CfgNode) -> None:
    node, key = cfg.MUTUALNET.AUGMENTATION, "MUTUALNET.AUGMENTATION"
    for name, high in (("BRIGHTNESS", 1), ("CONTRAST", 1), ("SATURATION", 1), ("ROTATION", 180)):
        if not 0 <= node[name] <= high:
            _fail(f"{key}.{name}", node[name], f"a number from 0 to {high}")
    if not 0 <= node.LIGHTING < math.inf:
        _fail(f"{key}.LIGHTING", node.LIGHTING, "at least 0")
    for name in ("SATURATION", "LIGHTING"):
        if node[name] and cfg.INPUT.FORMAT != "RGB":
            _fail(f"{key}.{name}", node[name], f"0 where INPUT.FORMAT is {cfg.INPUT.FORMAT!r}")
    if node.ROTATION and importlib.util.find_spec("cv2") is None:
        hint = "0 without OpenCV, which turns images: pip install opencv-python-headless"
        _fail(f"{key}.ROTATION", node.ROTATION, hint)
    scale = node.SCALE
    if scale and (
        len(scale) != 2
        or not all(_is_positive(v, (int, float)) for v in scale)
        or scale[0] > scale[1]
    ):
        _fail(f"{key}.SCALE", scale, "(smallest, largest) with 0 < smallest <= largest, or ()")


def _check_images(cfg: CfgNode) -> None:
    """Check how the training images of detectors and segmentors are made."""
    _check_training_size(cfg)
    _check_augmentation(cfg)


def _check_classification(cfg: CfgNode) -> None:
    node, key = cfg.MUTUALNET.CLASSIFICATION, "MUTUALNET.CLASSIFICATION"
    for name, value in cfg.MUTUALNET.AUGMENTATION.items():
        if value:
            _fail(
                f"MUTUALNET.AUGMENTATION.{name}",
                value,
                f"none for a classifier: {key} has its augmentations",
            )
    _check_choice("INPUT.FORMAT", cfg.INPUT.FORMAT, ("RGB", "BGR"))
    if cfg.MODEL.BACKBONE.NUM_CLASSES < 1:
        _fail("MODEL.BACKBONE.NUM_CLASSES", cfg.MODEL.BACKBONE.NUM_CLASSES, "at least 1")
    scale = node.CROP_SCALE
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        _fail(f"{key}.CROP_SCALE", scale, "(smallest, largest) with 0 < smallest <= largest <= 1")
    for name, low, high in (
        ("LABEL_SMOOTHING", 0, 1),
        ("DROPOUT", 0, 1),
        ("EMA_DECAY", 0, 1),
    ):
        if not low <= node[name] < high:
            _fail(f"{key}.{name}", node[name], f"a number from {low} to below {high}")
    if node.EMA_DECAY and cfg.MUTUALNET.EMA_DECAY not in (0, node.EMA_DECAY):
        _fail(f"{key}.EMA_DECAY", node.EMA_DECAY, "0 where MUTUALNET.EMA_DECAY is set")
    for name in ("PADDING", "COLOR_JITTER", "LIGHTING"):
        if not 0 <= node[name] < math.inf:
            _fail(f"{key}.{name}", node[name], "at least 0")
    if not 0 < node.TEST_CROP <= 1:
        _fail(f"{key}.TEST_CROP", node.TEST_CROP, "a fraction above 0, up to 1")
    if node.TEST_BATCH_SIZE < 1:
        _fail(f"{key}.TEST_BATCH_SIZE", node.TEST_BATCH_SIZE, "at least 1")


def _check_training_size(cfg: CfgNode) -> None:
    largest = cfg.MUTUALNET.RESOLUTIONS[0]
    if tuple(cfg.INPUT.MIN_SIZE_TRAIN) != (largest,):
        _fail(
            "INPUT.MIN_SIZE_TRAIN",
            tuple(cfg.INPUT.MIN_SIZE_TRAIN),
            f"({largest},), the largest of MUTUALNET.RESOLUTIONS: every pass of an iteration sees "
            "one image, which is made at that size",
        )


# What counts for networks of one kind alone.
_CHECKS: dict[Family, Callable[[CfgNode], None]] = {
    Family.CLASSIFIER: _check_classification,
    Family.SEMANTIC: _check_images,
    Family.PANOPTIC: _check_images,
    Family.RCNN: _check_images,
    Family.DENSE: _check_images,
}


def check_num_gpus(num_gpus: int, device: str) -> None:
    """ConfigError unless this machine has ``MODEL.DEVICE`` for each of so many processes."""
    if num_gpus < 1:
        raise ConfigError(f"--num-gpus is {num_gpus}; expected at least 1.")
    available = torch.cuda.device_count()
    if device != "cpu" and num_gpus > available:
        raise ConfigError(f"--num-gpus is {num_gpus}, but this machine has {available} GPUs.")


def check_no_gpu_named(cfg: CfgNode) -> None:
    """ConfigError if ``MODEL.DEVICE`` names one GPU, where several processes get one each."""
    if cfg.MODEL.DEVICE.startswith("cuda:"):
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but several processes take a GPU each: say "
            "cuda, and choose GPUs with CUDA_VISIBLE_DEVICES."
        )
