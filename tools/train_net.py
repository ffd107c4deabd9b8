#!/usr/bin/env python3
"""
Train a detector that runs at any width and resolution, or evaluate one operating point of it.

Used like Detectron2's own train_net.py: --config-file, --resume, --eval-only, --num-gpus and
KEY VALUE overrides.
"""

from __future__ import annotations

import argparse
import os

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm

from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import check_num_gpus, test_point
from mutualnet_det.engine import MutualTrainer, setup
from mutualnet_det.errors import reported
from mutualnet_det.evaluation import Grid, evaluate_grid


def evaluate(cfg: CfgNode, resume: bool) -> Grid:
    """Evaluate the operating point that the config names."""
    model, calibrations = load_detector(cfg, find_weights(cfg, resume))
    output = os.path.join(cfg.OUTPUT_DIR, "eval")
    return evaluate_grid(cfg, model, calibrations, [test_point(cfg)], output)


def main(args: argparse.Namespace) -> None:
    with reported():
        cfg = setup(args)
        if args.eval_only:
            if not comm.is_main_process():
                return
            print(evaluate(cfg, args.resume))
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
