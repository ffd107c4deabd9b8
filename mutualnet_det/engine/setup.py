"""Setup of a training or an evaluation: the checked config, OUTPUT_DIR, loggers and seeds."""

from __future__ import annotations

import argparse
import logging

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import ConfigError, check_output_dir, find_config, load_config
from ..data.check import check_datasets, check_test_set, training_tables
from ..data.faults import DatasetError
from ..evaluation.rules import rules_of
from ..evaluation.task import dataset_name
from ..terminal import without_colours
from .loggers import check_loggers
from .start import check_start, scaled

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """
    The checked config of a run, with OUTPUT_DIR, loggers and seeds set up.

    Args:
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        ConfigError: before anything is written.
    """
    if args.config_file:
        args.config_file = find_config(args.config_file)  # Detectron2 opens it too
    cfg = load_config(args.config_file, args.opts)
    scaled(cfg, comm.get_world_size())
    check_output_dir(cfg.OUTPUT_DIR)
    evaluates = args.eval_only or cfg.TEST.EVAL_PERIOD > 0
    if args.eval_only:
        dataset_name(cfg)
    elif evaluates:
        try:
            dataset_name(cfg)
        except DatasetError as error:
            raise ConfigError(
                f"TEST.EVAL_PERIOD is {cfg.TEST.EVAL_PERIOD}; expected 0, or one data set. {error}"
            ) from error
    if evaluates:
        rules_of(dataset_name(cfg))  # an error without a package that they need
    if not args.eval_only:
        check_loggers(cfg)
        check_start(cfg, args.resume)
    set_up_loggers(cfg.OUTPUT_DIR)
    default_setup(cfg, args)
    check_datasets(cfg)
    if evaluates:
        check_test_set(cfg)
    if not args.eval_only:
        for table in training_tables(cfg):
            logger.info("Training set %s", table)
    return cfg


def set_up_loggers(folder: str) -> None:
    """Set up the loggers of a process, before Detectron2 does so in colours."""
    rank = comm.get_rank()
    # As in default_setup: what is called in the same way again is not done again.
    without_colours(setup_logger(folder, distributed_rank=rank, name="fvcore"))
    without_colours(setup_logger(folder, distributed_rank=rank))
    without_colours(setup_logger(folder, distributed_rank=rank, name="mutualnet_det"))
