"""The folder of a trained model: what a program that runs it needs, read and checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import nn

from ..checkpoint import BEST, CALIBRATIONS_FILE, FINAL, add_calibrations, load_detector
from ..config import ConfigError, check_points, load_config
from ..errors import UserError
from ..family import outputs
from ..slimmable import Calibrations, OperatingPoint, StaleCalibrationError
from .query_table import QueryTable

# What a folder holds, as training and `mutualnet evaluate` leave it in OUTPUT_DIR.
WEIGHTS = f"{FINAL}.pth", f"{BEST}.pth"
CONFIG = "config.yaml"
TABLES = ("query_table.json", "grid/query_table.json")
# What a model may find in one image at most.
MAX_OUTPUT = 8e9  # bytes


class PredictorError(UserError, ValueError):
    """A folder, device or operating point that no prediction can be made with."""


class Pretrained(NamedTuple):
    """
    A model of a folder.

    Attributes:
        cfg: what it was trained with, on the device it is for.
        model: in evaluation mode, on that device.
        calibrations: of the model, or of its network: see
            :func:`~mutualnet_det.modeling.classifier.network_of`.
        table: of these weights.
        table_file: where it stands.
    """

    cfg: CfgNode
    model: nn.Module
    calibrations: Calibrations
    table: QueryTable
    table_file: Path


def load_pretrained(folder: str | Path, device: str | torch.device | None = None) -> Pretrained:
    """
    The model of a folder such as the OUTPUT_DIR of a training and its evaluation.

    Args:
        folder: holds ``model_final.pth`` or ``model_best.pth``, whichever was evaluated,
            ``config.yaml``, and ``query_table.json`` or ``grid/query_table.json``;
            ``calibrations.pth`` or ``grid/calibrations.pth`` if the evaluation calibrated points
            that the weights' checkpoint lacks. Nothing else is read, and no code in any of them is
            run.
        device: to run on; None: the config's ``MODEL.DEVICE``, or the CPU where that is a GPU and
            there is none.

    Raises:
        PredictorError: for a file that is missing, with how to make it; an unknown device; a table
            of other weights.
        CheckpointError, ConfigError, QueryTableError: for a file that cannot be used.
    """
    folder = Path(folder)
    weights, config, table_file = _files(folder)
    if device is not None:
        check_device(device, "device")
    # Half precision is a matter of training, and a config with float16 is for a GPU alone.
    overrides = ["SOLVER.AMP.ENABLED", "False"]
    if device is not None:
        overrides += ["MODEL.DEVICE", str(torch.device(device))]
    cfg = load_config(str(config), overrides)
    check_device(cfg.MODEL.DEVICE, f"{config}: MODEL.DEVICE")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise PredictorError(
            f"{config}: INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; a predictor runs models of RGB "
            "or BGR images."
        )
    table = QueryTable.load(table_file)
    for path in weights:
        try:
            model, calibrations = load_detector(cfg, str(path))
        except StaleCalibrationError as error:
            raise PredictorError(f"{path}: {error}") from error
        if calibrations.fingerprint() == table.model:
            break
    check_weights(table.model, calibrations, f"{table_file}: The query table")
    for place in (folder, folder / "grid"):
        if (place / CALIBRATIONS_FILE).is_file():
            add_calibrations(calibrations, str(place / CALIBRATIONS_FILE))
    return Pretrained(cfg, model, calibrations, table, table_file)


def max_pixels(cfg: CfgNode) -> float:
    """
    The most pixels of an image, so that all that a config's network may find fits in MAX_OUTPUT.

    At the scale of the image a mask takes one byte for each pixel, and the scores of a semantic
    head four for each class. A model without either takes images of any size.
    """
    bytes_per_pixel = 0
    if "mask" in outputs(cfg):
        bytes_per_pixel += max(cfg.TEST.DETECTIONS_PER_IMAGE, 0)
    if "semantic" in outputs(cfg):
        bytes_per_pixel += 4 * cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    return MAX_OUTPUT / bytes_per_pixel if bytes_per_pixel else math.inf


def check_point(cfg: CfgNode, calibrations: Calibrations, point: OperatingPoint) -> None:
    """
    PredictorError for a point that a model cannot run at: one that is not calibrated or, where
    there is nothing to calibrate, one outside the ranges that it was trained in.
    """
    if not calibrations.has_statistics:
        try:
            check_points([point], cfg)
        except ConfigError as error:
            raise PredictorError(str(error)) from None
    elif point not in calibrations:
        known = ", ".join(map(str, sorted(calibrations))) or "none"
        raise PredictorError(f"Operating point {point} is not calibrated; calibrated are {known}.")


def check_weights(fingerprint: str, calibrations: Calibrations, what: str) -> None:
    """PredictorError unless ``what`` was made with the weights of the calibrations' model."""
    weights = calibrations.fingerprint()
    if fingerprint != weights:
        raise PredictorError(
            f"{what} is of other weights (fingerprint {fingerprint[:12]}, the model has "
            f"{weights[:12]}). Evaluate these, with `mutualnet evaluate`."
        )


def _files(folder: Path) -> tuple[list[Path], Path, Path]:
    """
    What there is of weights, the config and the query table; PredictorError says how to make one
    that is missing.
    """
    if not folder.is_dir():
        raise PredictorError(
            f"There is no folder {folder}. Give the OUTPUT_DIR of a training that was evaluated."
        )
    config = folder / CONFIG
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not config.is_file():
        raise PredictorError(
            f"{folder} has no {CONFIG}, which `mutualnet train` writes to OUTPUT_DIR when it "
            "begins."
        )
    if not weights:
        raise PredictorError(
            f"{folder} has no {WEIGHTS[0]}, which ends a training: `mutualnet train --config-file "
            f"{config} --resume` goes on with one."
        )
    for name in TABLES:
        if (folder / name).is_file():
            return weights, config, folder / name
    raise PredictorError(
        f"{folder} has neither {' nor '.join(TABLES)}, which an evaluation writes: "
        f"`mutualnet evaluate --config-file {config} MODEL.WEIGHTS {weights[0]} "
        f"OUTPUT_DIR {folder}`."
    )


def check_device(device: str | torch.device, what: str) -> None:
    """
    PredictorError unless something can be computed on ``device`` and read from it.

    Args:
        what: names what gave the device, such as "--device".
    """
    try:
        torch.zeros(1, device=device).item()
    # Backends that are absent fail in any way there is.
    except Exception as error:
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise PredictorError(
            f"{what} {str(device)!r} cannot be used here; expected one such as "
            f"{', '.join(map(repr, usable))}."
        ) from error
