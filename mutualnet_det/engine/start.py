"""Checks of what a training starts on and from, before anything is loaded or written."""

from __future__ import annotations

import signal
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ..checkpoint import checkpoints
from ..config import ConfigError, check_config
from ..data.sampler import check_share
from ..errors import UserError


def check_system() -> None:
    """UserError on Windows, which lacks what a training is stopped and resumed by."""
    if not hasattr(signal, "SIGUSR1"):
        raise UserError(
            "Training needs Linux or macOS: Windows lacks the signals that stop it without loss, "
            "and locks that its processes share. The Windows Subsystem for Linux has both."
        )


def scaled(cfg: CfgNode, world_size: int) -> CfgNode:
    """
    The config of a training on this many processes: with ``SOLVER.REFERENCE_WORLD_SIZE``, batch,
    learning rate and schedule follow them, as in Detectron2.

    Raises:
        ConfigError: for a batch that the processes, or those of the reference, cannot share, and a
            schedule that becomes too short.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference > 0:
        if cfg.SOLVER.IMS_PER_BATCH % reference:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}; expected a multiple of "
                f"SOLVER.REFERENCE_WORLD_SIZE, {reference}."
            )
        cfg = DefaultTrainer.auto_scale_workers(cfg, world_size)
        try:
            check_config(cfg)
        except ConfigError as error:
            raise ConfigError(
                f"For {world_size} processes, where SOLVER.REFERENCE_WORLD_SIZE is {reference}: "
                f"{error}"
            ) from error
    check_share(cfg.SOLVER.IMS_PER_BATCH, world_size, cfg.MUTUALNET.MICRO_BATCHES)
    return cfg


def check_start(cfg: CfgNode, resume: bool) -> None:
    """
    Check what is in ``OUTPUT_DIR``, and the weights to start from if it holds no checkpoint.

    Raises:
        ConfigError: if a fresh run would overwrite checkpoints; see also :func:`check_weights`.
    """
    earlier = checkpoints(Path(cfg.OUTPUT_DIR))
    if not earlier:
        check_weights(cfg)
    elif not resume:
        raise ConfigError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} holds the checkpoint {earlier[0]} of an earlier run. "
            "Add --resume to continue it, or set another OUTPUT_DIR."
        )


def check_weights(cfg: CfgNode) -> None:
    """ConfigError if ``MODEL.WEIGHTS`` is no file, or random weights would be frozen without it."""
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not Path(weights).is_file():
        raise ConfigError(f"MODEL.WEIGHTS is {weights!r}, and there is no such file.")
    if not weights and cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT} and MODEL.WEIGHTS is "
            "empty: stages of random weights would be frozen. Set MODEL.WEIGHTS to a pretrained "
            "backbone, or MODEL.BACKBONE.FREEZE_AT 0."
        )
