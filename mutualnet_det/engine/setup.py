"""What a training or an evaluation starts with."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils.logger import setup_logger

from ..config import check_output_dir, load_config
from ..data.check import check_datasets
from .trainer import check_start


def setup(args: argparse.Namespace) -> CfgNode:
    """
    The checked config of a run, with OUTPUT_DIR, loggers and seeds set up.

    Args:
        args: of Detectron2's ``default_argument_parser``.
    """
    cfg = load_config(args.config_file, args.opts)
    check_output_dir(cfg.OUTPUT_DIR)
    if not args.eval_only:
        check_start(cfg, args.resume)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, name="mutualnet_det")
    check_datasets(cfg)
    return cfg
