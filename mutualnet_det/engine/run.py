"""What the training tools do: Detectron2's train_net.py, for any network of this project."""

from __future__ import annotations

import argparse
import os

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, launch
from detectron2.utils import comm

from ..checkpoint import find_weights, load_detector
from ..config import check_num_gpus, test_point
from ..errors import reported
from ..evaluation import Grid, evaluate_grid
from .setup import setup
from .trainer import MutualTrainer


def evaluate(cfg: CfgNode, resume: bool) -> Grid:
    """Evaluate the operating point that the config names."""
    model, calibrations = load_detector(cfg, find_weights(cfg, resume))
    output = os.path.join(cfg.OUTPUT_DIR, "eval")
    return evaluate_grid(cfg, model, calibrations, [test_point(cfg)], output)


def main(args: argparse.Namespace, classification: bool) -> None:
    """Train, or evaluate with ``--eval-only``: in each process."""
    with reported():
        cfg = setup(args, classification=classification)
        if args.eval_only:
            if comm.is_main_process():
                print(evaluate(cfg, args.resume))
            return
        trainer = MutualTrainer(cfg)
        trainer.resume_or_load(args.resume)
        trainer.train()


def run(*, classification: bool) -> None:
    """
    Read the command line and start the processes.

    Args:
        classification: train classification networks, or else detectors; a config of the other kind
            is an error.
    """
    args = default_argument_parser().parse_args()
    with reported():
        check_num_gpus(args.num_gpus)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, classification),
    )
