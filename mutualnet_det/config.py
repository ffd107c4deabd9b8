"""Every config key of the project, with its unit, default and meaning, and the checks on them."""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from .detectron2_keys import CHOICES, unused_keys, value_of
from .errors import UserError
from .family import Family, family
from .slimmable import OperatingPoint

# The project's configs: part of an installed package, beside the package in a clone.
_PACKAGE = Path(__file__).resolve().parent
CONFIGS = next(filter(Path.is_dir, (_PACKAGE / "configs", _PACKAGE.parent / "configs")), _PACKAGE)

# Of these, the ones that train the largest width alone.
ALONE = ("independent", "independent_multi_scale")
METHODS = ("mutual", "us_net", "us_net_multi_scale", *ALONE)
SCOPES = ("backbone", "neck", "heads")
PROPOSALS = ("teacher", "own")
NORMS = ("BN", "GN")
STATISTICS = ("batch", "frozen")
AMP_DTYPES = ("float16", "bfloat16")
# The losses that a teacher gives ROI heads, by their key in LOSS_WEIGHTS.
ROI_TERMS = ("CLASS", "BOX", "MASK", "KEYPOINT")
# All that a sub-network of each meta-architecture has.
LOSS_TERMS = {
    "MutualRCNN": ("RPN", "GROUND_TRUTH", *ROI_TERMS, "OBJECTNESS", "FEATURE"),
    "MutualPanopticFPN": (
        *("RPN", "GROUND_TRUTH", *ROI_TERMS, "SEGMENTATION", "OBJECTNESS", "FEATURE"),
    ),
    "MutualRetinaNet": ("GROUND_TRUTH", "CLASS", "BOX", "FEATURE"),
    "MutualSemanticSegmentor": ("GROUND_TRUTH", "SEGMENTATION", "FEATURE"),
    "MutualClassifier": ("GROUND_TRUTH", "CLASS"),
}
OPTIMIZERS = ("SGD", "ADAMW")
TRAINING_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
LOGGERS = ("wandb", "mlflow")
BAD_RECORDS = ("error", "skip")


def add_mutualnet_config(cfg: CfgNode) -> None:
    """Add the project's keys to a Detectron2 config."""
    # COCO-format data sets of the user: [name, JSON file, image folder] each. The names can then be
    # used in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO_FORMAT = []

    # Image classification: folders with one subfolder of images per class: [name, folder] each.
    cfg.DATASETS.IMAGE_FOLDERS = []

    # Classes of the backbone's own classifier. 0: none, as under a detector.
    cfg.MODEL.BACKBONE.NUM_CLASSES = 0
    # The backbone under the slimmable FPN, by its registered name.
    cfg.MODEL.FPN.BOTTOM_UP = "build_slimmable_mobilenet_v2_backbone"

    # "SGD", or "ADAMW" (arXiv 1711.05101), of which SOLVER.MOMENTUM is the first beta.
    cfg.SOLVER.OPTIMIZER = "SGD"

    cfg.MUTUALNET = CfgNode()
    # "mutual": sub-networks learn beside the full network, each at a resolution of its own.
    # "us_net": all at the largest (arXiv 1903.05134). "us_net_multi_scale": all, the full network
    # too, at one resolution drawn per iteration. "independent": the largest width at the largest
    # resolution is trained alone, the usual way. "independent_multi_scale": it alone, at one
    # resolution drawn per iteration.
    cfg.MUTUALNET.METHOD = "mutual"
    # Smallest and largest width. The largest is the full network; it may be above 1.
    cfg.MUTUALNET.WIDTH_RANGE = (0.25, 1.0)
    # Whether training may start from weights that were not trained at the smaller widths, as those
    # of an ordinary network are not. If not, it is an error.
    cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = False
    # Short sides in pixels, largest first. The full network sees the first, sub-networks any.
    cfg.MUTUALNET.RESOLUTIONS = (600, 480, 360, 240)
    # How far the network slims: "backbone", "neck" or "heads".
    cfg.MUTUALNET.SCOPE = "heads"
    # Sub-networks of random width per iteration, beside the full and the narrowest one.
    cfg.MUTUALNET.NUM_RANDOM = 2
    # Micro-batches that each process divides its images of a step into. It trains on one after the
    # other, at the step's operating points, and steps once with the mean of their gradients: a step
    # takes the memory of a micro-batch. SOLVER.IMS_PER_BATCH stays the images of a step. Batch
    # statistics are those of a micro-batch, and so are the numbers of objects that losses are
    # divided by.
    cfg.MUTUALNET.MICRO_BATCHES = 1
    # Weight of each sub-network's gradient beside the full network's, which counts once.
    cfg.MUTUALNET.SUBNETWORK_WEIGHT = 1.0
    # Whose proposals the heads of sub-networks learn on: "teacher", or "own".
    cfg.MUTUALNET.PROPOSALS = "teacher"
    # Temperature of the class distributions that are distilled.
    cfg.MUTUALNET.TEMPERATURE = 1.0
    # Weights of a sub-network's losses. From the ground truth: RPN, and GROUND_TRUTH for what gives
    # the final answer (ROI heads, a dense head, a classifier). From the teacher: distributions over
    # the classes, box deltas, masks, keypoint heatmaps, the pixels' distributions over the classes;
    # OBJECTNESS, the scores that the RPN gives all anchors: see modeling/rpn.py; and FEATURE, the
    # pyramid's features, between levels of the same size: see modeling/features.py. It takes the
    # memory of the teacher's pyramid; 0: none.
    cfg.MUTUALNET.LOSS_WEIGHTS = CfgNode()
    cfg.MUTUALNET.LOSS_WEIGHTS.RPN = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.GROUND_TRUTH = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.CLASS = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.BOX = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.MASK = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.KEYPOINT = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.SEGMENTATION = 1.0
    cfg.MUTUALNET.LOSS_WEIGHTS.OBJECTNESS = 0.0
    cfg.MUTUALNET.LOSS_WEIGHTS.FEATURE = 0.0
    # What slimmable layers are normalised by: "BN", batch normalisation, whose statistics are
    # calibrated at each operating point, or "GN", group normalisation (arXiv 1803.08494), which has
    # none. Detectron2's keys, such as MODEL.FPN.NORM, say where there is a norm, by "BN" for both.
    # Under Detectron2's own meta-architectures "GN" is for the pyramid and what is below it alone.
    cfg.MUTUALNET.NORM = "BN"
    # What batch normalisation uses in training: "batch" statistics, or "frozen" calibrated ones,
    # with widths drawn from GRID.WIDTHS only.
    cfg.MUTUALNET.STATISTICS = "batch"
    # What SOLVER.AMP.ENABLED computes in: "float16", which needs a GPU, or "bfloat16".
    cfg.MUTUALNET.AMP_DTYPE = "float16"
    # Whether backward computes the backbone's activations anew instead of keeping them: less
    # memory, more time.
    cfg.MUTUALNET.RECOMPUTE_ACTIVATIONS = False
    # With several processes: whether batch statistics are those of all their images together, as in
    # one process with the whole batch. If not, each normalises by its own share of the batch, which
    # is quicker and does harm with few images on each.
    cfg.MUTUALNET.SYNC_STATISTICS = True

    cfg.MUTUALNET.CALIBRATION = CfgNode()
    # Training images that statistics are computed on, and how many at most form a batch.
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = 128
    cfg.MUTUALNET.CALIBRATION.BATCH_SIZE = 8
    # With STATISTICS "frozen": iterations after which the statistics are computed anew.
    cfg.MUTUALNET.CALIBRATION.REFRESH_PERIOD = 500

    # Operating points that are calibrated at the end of training and evaluated by
    # `mutualnet evaluate`: widths in ascending order (empty: 4, evenly over what METHOD trains of
    # WIDTH_RANGE) and short sides in pixels, descending (empty: RESOLUTIONS).
    cfg.MUTUALNET.GRID = CfgNode()
    cfg.MUTUALNET.GRID.WIDTHS = ()
    cfg.MUTUALNET.GRID.RESOLUTIONS = ()

    # Operating point of `mutualnet train --eval-only`, such as "0.50x360". Empty: the full network
    # at the largest resolution.
    cfg.MUTUALNET.TEST_POINT = ""
    # Operating points, such as ("0.25x240", "1.00x600"), that TEST.EVAL_PERIOD evaluates. Where the
    # mean of their main metric is the best so far, the weights are kept as model_best.pth. Empty:
    # TEST_POINT alone.
    cfg.MUTUALNET.EVAL_POINTS = ()
    # Evaluations in a row without a better one, after which training ends as if SOLVER.MAX_ITER
    # were reached. 0: it never does.
    cfg.MUTUALNET.PATIENCE = 0
    # Decay per iteration of the moving average of the weights, which is what is evaluated during
    # training, kept as the best and at the end; 0.999 averages over about the last 1000 iterations.
    # It begins with the weights that training starts from, which it forgets in a few times as many.
    # Statistics are not averaged but calibrated for the average. 0: the weights themselves.
    cfg.MUTUALNET.EMA_DECAY = 0.0

    # For the meta-architecture MutualClassifier.
    cfg.MUTUALNET.CLASSIFICATION = CfgNode()
    # Area of the random training crop, as a fraction of the image's.
    cfg.MUTUALNET.CLASSIFICATION.CROP_SCALE = (0.25, 1.0)
    # Pixels that an image of the largest resolution is padded by before a random crop of that
    # resolution. Above 0 it replaces CROP_SCALE, as is usual on CIFAR.
    cfg.MUTUALNET.CLASSIFICATION.PADDING = 0
    # Strength of the random changes of brightness, contrast and saturation, and of the random
    # shifts along the principal components of ImageNet's colours. 0: none.
    cfg.MUTUALNET.CLASSIFICATION.COLOR_JITTER = 0.0
    cfg.MUTUALNET.CLASSIFICATION.LIGHTING = 0.0
    # Share of the target that is spread evenly over all classes. 0: none.
    cfg.MUTUALNET.CLASSIFICATION.LABEL_SMOOTHING = 0.0
    # In the classifier, of MobileNetV2 and VGG alone. The published recipes have none: it would
    # make the teacher noisy.
    cfg.MUTUALNET.CLASSIFICATION.DROPOUT = 0.0
    # An older name of MUTUALNET.EMA_DECAY, for classifiers.
    cfg.MUTUALNET.CLASSIFICATION.EMA_DECAY = 0.0
    # Fraction of the short side that the centre crop of evaluation keeps (224 of 256 px: 0.875).
    cfg.MUTUALNET.CLASSIFICATION.TEST_CROP = 0.875
    # Images per forward in evaluation. Time is measured on single images.
    cfg.MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE = 64

    # Augmentations of a detector's or segmentor's training images, beside INPUT.RANDOM_FLIP and
    # INPUT.CROP. All passes of an iteration see the same augmented image.
    cfg.MUTUALNET.AUGMENTATION = CfgNode()
    # Random changes of colours: factors from 1 - x to 1 + x. 0: none.
    cfg.MUTUALNET.AUGMENTATION.BRIGHTNESS = 0.0
    cfg.MUTUALNET.AUGMENTATION.CONTRAST = 0.0
    cfg.MUTUALNET.AUGMENTATION.SATURATION = 0.0
    # Standard deviation of the random shifts along the principal components of ImageNet's colours;
    # 0.1 is usual. 0: none.
    cfg.MUTUALNET.AUGMENTATION.LIGHTING = 0.0
    # Degrees that an image is turned by at most, either way, in a frame that holds all of it. Boxes
    # become those around their turned masks; without masks, around their turned corners, which is
    # more than the object where the angle is large. 0: none.
    cfg.MUTUALNET.AUGMENTATION.ROTATION = 0
    # Large-scale jitter (arXiv 2012.07177): smallest and largest factor, such as (0.1, 2.0), of the
    # size at which an image is seen, in a frame of the usual size. Empty: none.
    cfg.MUTUALNET.AUGMENTATION.SCALE = ()

    # Loggers that a training writes its scalars to, beside metrics.json and TensorBoard: "wandb"
    # (Weights & Biases), "mlflow". Both keep them on disk, unless their environment variables name
    # a server.
    cfg.MUTUALNET.LOGGERS = ()
    # Checkpoints of a training that are kept, the newest ones, model_final.pth among them: at least
    # 2, so that there is one before the last. 0: all, one every SOLVER.CHECKPOINT_PERIOD.
    cfg.MUTUALNET.CHECKPOINTS_KEPT = 0
    # Iterations in a row that are left out, and counted, because a loss or the gradient is not
    # finite: the weights stay what they were. One more stops the training; 0: the first one does.
    # Where float16's scaler looks for the scale that fits, a few are normal: it has 30 at least.
    # Proposals that are not finite always stop it, as in Detectron2.
    cfg.MUTUALNET.SKIPPED_STEPS = 0
    # What becomes of an annotation or image that cannot be used: "error" names it and stops, "skip"
    # leaves it out and counts it.
    cfg.MUTUALNET.BAD_RECORDS = "error"


class ConfigError(UserError, ValueError):
    """A config key has a value that cannot be used."""


def _fail(key: str, value: object, expected: str) -> None:
    raise ConfigError(f"{key} is {value!r}; expected {expected}.")


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        _fail(key, value, "one of " + ", ".join(repr(c) for c in choices))


def _check_device(text: str) -> None:
    """Check a device, without the memory that the first use of a GPU takes."""
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


def default_loss_weights(terms: Sequence[str]) -> dict[str, float]:
    """The default weights of these keys of ``LOSS_WEIGHTS``."""
    return {term: 0.0 if term in ("OBJECTNESS", "FEATURE") else 1.0 for term in terms}


def terms_present(terms: Sequence[str], *, mask_on: bool, keypoint_on: bool) -> list[str]:
    """The keys of ``LOSS_WEIGHTS`` in ``terms`` that a network with or without the heads has."""
    absent = {"MASK": not mask_on, "KEYPOINT": not keypoint_on}
    return [term for term in terms if not absent.get(term, False)]


def check_config(cfg: CfgNode) -> None:
    """
    Check the project's keys; ConfigError names the key, its value and what is expected.

    Called by every tool before anything slow starts.
    """
    node = cfg.MUTUALNET
    _check_choice("MUTUALNET.METHOD", node.METHOD, METHODS)
    _check_choice("MUTUALNET.SCOPE", node.SCOPE, SCOPES)
    _check_choice("MUTUALNET.PROPOSALS", node.PROPOSALS, PROPOSALS)
    _check_choice("MUTUALNET.NORM", node.NORM, NORMS)
    _check_choice("MUTUALNET.STATISTICS", node.STATISTICS, STATISTICS)
    if node.NORM == "GN" and node.STATISTICS == "frozen":
        _fail(
            "MUTUALNET.STATISTICS",
            node.STATISTICS,
            "'batch' where MUTUALNET.NORM is 'GN', which has no statistics to freeze",
        )
    _check_choice("MUTUALNET.AMP_DTYPE", node.AMP_DTYPE, AMP_DTYPES)
    _check_choice("MUTUALNET.BAD_RECORDS", node.BAD_RECORDS, BAD_RECORDS)
    if any(name not in LOGGERS or node.LOGGERS.count(name) > 1 for name in node.LOGGERS):
        _fail("MUTUALNET.LOGGERS", node.LOGGERS, f"some of {', '.join(map(repr, LOGGERS))}")
    _check_sampler(cfg)
    for key, value, only in unused_keys(cfg):
        _fail(key, value, f"{only!r}, the only one there is here")
    for key, choices in CHOICES.items():
        _check_choice(key, value_of(cfg, key), choices)
    steps = list(cfg.SOLVER.STEPS)
    if steps != sorted(steps):
        _fail("SOLVER.STEPS", cfg.SOLVER.STEPS, "iterations in ascending order")
    if cfg.TEST.DETECTIONS_PER_IMAGE == 0:
        _fail("TEST.DETECTIONS_PER_IMAGE", 0, "at least 1, or -1 for all")
    _check_choice("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, OPTIMIZERS)
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
    learns = node.METHOD in ALONE or any(node.LOSS_WEIGHTS[term] for term in terms)
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
            f"False where MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, or MUTUALNET.AMP_DTYPE 'bfloat16'",
        )


def _check_sampler(cfg: CfgNode) -> None:
    loader = cfg.DATALOADER
    # Detectron2's other ones would be left out in silence.
    _check_choice("DATALOADER.SAMPLER_TRAIN", loader.SAMPLER_TRAIN, TRAINING_SAMPLERS)
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


def full_point(cfg: CfgNode) -> OperatingPoint:
    """The full network: the largest width at the largest resolution."""
    return OperatingPoint(float(cfg.MUTUALNET.WIDTH_RANGE[1]), int(cfg.MUTUALNET.RESOLUTIONS[0]))


def eval_point(cfg: CfgNode) -> OperatingPoint:
    """The operating point that ``MUTUALNET.TEST_POINT`` names; the full network if it is empty."""
    text = cfg.MUTUALNET.TEST_POINT
    return OperatingPoint.parse(text) if text else full_point(cfg)


def eval_points(cfg: CfgNode) -> list[OperatingPoint]:
    """The operating points that are evaluated during training, ascending."""
    points = sorted(map(OperatingPoint.parse, cfg.MUTUALNET.EVAL_POINTS))
    return points or [eval_point(cfg)]


def ema_decay(cfg: CfgNode) -> float:
    """Decay of the moving average of the weights; 0: there is none."""
    older = cfg.MUTUALNET.CLASSIFICATION.EMA_DECAY if family(cfg) is Family.CLASSIFIER else 0.0
    return cfg.MUTUALNET.EMA_DECAY or older


def trained_widths(cfg: CfgNode) -> tuple[float, float]:
    """Smallest and largest width that a config trains."""
    low, high = (float(width) for width in cfg.MUTUALNET.WIDTH_RANGE)
    return (high if cfg.MUTUALNET.METHOD in ALONE else low), high


def grid_points(cfg: CfgNode) -> list[OperatingPoint]:
    """The operating points of ``MUTUALNET.GRID``, ascending."""
    low, high = trained_widths(cfg)
    even = {low, high}  # as they are: rounded, they may lie outside
    even |= {min(max(round(low + (high - low) * i / 3, 4), low), high) for i in (1, 2)}
    widths = cfg.MUTUALNET.GRID.WIDTHS or even
    resolutions = cfg.MUTUALNET.GRID.RESOLUTIONS or cfg.MUTUALNET.RESOLUTIONS
    return sorted(OperatingPoint(float(w), int(r)) for w in widths for r in resolutions)


def check_points(points: Sequence[OperatingPoint], cfg: CfgNode) -> None:
    """ConfigError, naming the point, for one twice or outside what the config has."""
    low, high = cfg.MUTUALNET.WIDTH_RANGE
    smallest, largest = min(cfg.MUTUALNET.RESOLUTIONS), max(cfg.MUTUALNET.RESOLUTIONS)
    for index, point in enumerate(points):
        if not low <= point.width <= high:
            raise ConfigError(
                f"Operating point {point}: width {point.width:g} is outside "
                f"MUTUALNET.WIDTH_RANGE, {low:g} to {high:g}."
            )
        if not smallest <= point.resolution <= largest:
            raise ConfigError(
                f"Operating point {point}: resolution {point.resolution} px is outside "
                f"MUTUALNET.RESOLUTIONS, {smallest} to {largest} px."
            )
        if point in points[:index]:
            raise ConfigError(f"Operating point {point} is given twice.")


def find_config(name: str, folder: str = "") -> str:
    """
    Find a config by its path, or one that comes with the project by its name.

    Args:
        name: a path that exists, or a name such as "quickstart_shapes", with ".yaml" or without.
        folder: of the project's configs that the name is of; "lab" for plans.

    Raises:
        ConfigError: if there is neither; the message lists names that are close.
    """
    if Path(name).is_file():
        return name
    configs = {path.stem: str(path) for path in sorted((CONFIGS / folder).glob("*.yaml"))}
    stem = name.removesuffix(".yaml")
    if stem in configs:
        return configs[stem]
    close = difflib.get_close_matches(Path(stem).name, configs) or configs
    raise ConfigError(
        f"There is no file {name}, nor does a config of this name come with the project. "
        f"{'Close are' if close is not configs else 'There are'} {', '.join(close)}."
    )


class _ConfigFiles(CfgNode):  # type: ignore[misc]
    """A config whose ``_BASE_`` may be one of the project's, by its name."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        if not Path(filename).is_file():
            filename = find_config(Path(filename).name)
        return super()._open_cfg(filename)


def load_config(config_file: str, opts: Sequence[str] | None = None) -> CfgNode:
    """
    A config from a YAML file and ``KEY VALUE`` overrides, checked.

    A ``MODEL.DEVICE`` of "cuda", Detectron2's default, becomes "cpu" where there is no GPU.

    Args:
        config_file: a path, or the name of one of the project's: see :func:`find_config`. "": none.
            Its ``_BASE_`` is a file, counted from its own folder, or such a name.

    Raises:
        ConfigError: for a missing file, an unknown key or a value that cannot be used.
    """
    if config_file:
        config_file = find_config(config_file)
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    opts = list(opts or [])
    if len(opts) % 2:
        raise ConfigError(f"Overrides come as KEY VALUE pairs, got {' '.join(opts)!r}.")
    where = config_file
    try:
        if config_file:
            files = _ConfigFiles(cfg)
            # Detectron2 would run what an unknown YAML tag asks for.
            files.merge_from_file(config_file, allow_unsafe=False)
            cfg = CfgNode(files)
        where = f"Overrides {' '.join(opts)!r}"
        cfg.merge_from_list(opts)
    except (KeyError, AssertionError, TypeError, AttributeError, ValueError, OSError) as error:
        # A KeyError's own text is in quotes.
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ConfigError(f"{where}: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _check_device(cfg.MODEL.DEVICE)
    check_config(cfg)
    cfg.freeze()
    return cfg


def flattened(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    A config's keys, with dots in their names, and values as they read back from JSON: no tuples.

    Args:
        node: a config, or what YAML reads of one that was written to a file.
        prefix: of the names.
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat


def check_num_gpus(num_gpus: int) -> None:
    """ConfigError for more GPUs than the machine has. One process can do without: on the CPU."""
    available = torch.cuda.device_count()
    if num_gpus > max(available, 1):
        raise ConfigError(f"--num-gpus is {num_gpus}, but this machine has {available} GPUs.")


def check_output_dir(path: str) -> None:
    """Make a folder for results; ConfigError, before any long work, if it cannot be written."""
    try:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {path} cannot be written: {error.strerror}.") from error
