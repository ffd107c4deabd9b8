#!/usr/bin/env python3
"""
Train a classification network that runs at any width and resolution: a detector's backbone.

Used like train_net.py: --config-file, --resume, --eval-only, --num-gpus and KEY VALUE overrides.
"""

from __future__ import annotations

import argparse
import os

from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm

from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import ConfigError, check_num_gpus, is_classification, test_point
from mutualnet_det.engine import MutualTrainer, setup
from mutualnet_det.errors import reported
from mutualnet_det.evaluation import evaluate_grid


def main(args: argparse.Namespace) -> None:
    with reported():
        cfg = setup(args)
        if not is_classification(cfg):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; expected "
                "'MutualClassifier'. Detectors are trained by tools/train_net.py."
            )
        if args.eval_only:
            if not comm.is_main_process():
                return
            model, calibrations = load_detector(cfg, find_weights(cfg, args.resume))
            output = os.path.join(cfg.OUTPUT_DIR, "eval")
            print(evaluate_grid(cfg, model, calibrations, [test_point(cfg)], output))
            return
        trainer = MutualTrainer(cfg)
        trainer.resume_or_load(args.resume)
        trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    with reported():
        check_num_gpus(args.num_gpus)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
