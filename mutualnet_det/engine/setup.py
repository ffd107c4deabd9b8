"""Setup of a training or an evaluation: the checked config, OUTPUT_DIR, loggers and seeds."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import ConfigError, check_output_dir, find_config, load_config
from ..data.check import check_datasets
from ..data.coco import DatasetError
from ..data.sampler import check_share
from ..evaluation.task import dataset_name
from .start import check_start


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
    if not cfg.SOLVER.REFERENCE_WORLD_SIZE:  # with one, the batch follows the processes
        num_micro = cfg.MUTUALNET.MICRO_BATCHES
        check_share(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), num_micro)
    check_output_dir(cfg.OUTPUT_DIR)
    if args.eval_only:
        dataset_name(cfg)
    elif cfg.TEST.EVAL_PERIOD > 0:
        try:
            dataset_name(cfg)
        except DatasetError as error:
            raise ConfigError(
                f"TEST.EVAL_PERIOD is {cfg.TEST.EVAL_PERIOD}; expected 0, or one data set. {error}"
            ) from error
    if not args.eval_only:
        check_start(cfg, args.resume)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="mutualnet_det")
    check_datasets(cfg)
    return cfg
