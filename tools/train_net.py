#!/usr/bin/env python3
"""
Train a detector that runs at any width and resolution, or evaluate one operating point of it.

Used like Detectron2's own train_net.py: --config-file, --resume, --eval-only, --num-gpus and KEY VALUE
overrides.
"""

from __future__ import annotations

import argparse
import logging
import sys

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils.logger import setup_logger

from mutualnet_det.config import check_output_dir, load_config
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.evaluation import evaluate_point
from mutualnet_det.errors import exit_on_user_error


def setup(args: argparse.Namespace) -> CfgNode:
    """The checked config of a run, with loggers, OUTPUT_DIR and seeds set up."""
    cfg = load_config(args.config_file, args.opts)
    check_output_dir(cfg.OUTPUT_DIR)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, name="mutualnet_det")
    return cfg


def main(args: argparse.Namespace) -> None:
    cfg = setup(args)
    check_datasets(cfg)
    if args.eval_only:
        print(evaluate_point(cfg))
        return
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
