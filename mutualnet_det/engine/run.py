"""What the training tools do: Detectron2's train_net.py, for any network of this project."""

from __future__ import annotations

import argparse
import os

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint import find_weights, load_detector
from ..config import ConfigError, eval_point
from ..distributed import check_same, together, wait_for_first
from ..evaluation import Grid, evaluate_grid
from .processes import run_in_processes
from .setup import setup
from .trainer import MutualTrainer
from .watch import strictly


def evaluate(cfg: CfgNode, resume: bool) -> Grid:
    """Evaluate the operating point that the config names."""
    model, calibrations = load_detector(cfg, find_weights(cfg, resume))
    output = os.path.join(cfg.OUTPUT_DIR, "eval")
    return evaluate_grid(cfg, model, calibrations, [eval_point(cfg)], output)


def main(args: argparse.Namespace) -> None:
    """Train, or evaluate with ``--eval-only``: in each process."""
    configs = together(lambda: setup(args))
    together(lambda: check_same(configs))
    cfg = configs[comm.get_rank()]
    if args.eval_only:
        if comm.is_main_process():
            print(evaluate(cfg, args.resume))
        wait_for_first()
        return
    built = []
    together(lambda: built.append(MutualTrainer(cfg)))
    trainer = built[0]
    together(lambda: trainer.resume_or_load(args.resume))
    together(lambda: _check_starts(cfg, comm.all_gather(trainer.start_iter)))
    trainer.run_step = strictly(trainer.run_step)
    trainer.train()


def _check_starts(cfg: CfgNode, starts: list[int]) -> None:
    for rank, start in enumerate(starts):
        if start != starts[0]:
            raise ConfigError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR} has a checkpoint to start iteration {start} from on "
                f"rank {rank}, and {starts[0]} on rank 0. It must be one folder that all machines "
                "share, and --resume be given to all or none."
            )


def run(args: argparse.Namespace) -> None:
    """
    Start the processes of a training: see :func:`run_in_processes`.

    Args:
        args: of :func:`~mutualnet_det.arguments.training_parser`.
    """
    run_in_processes(main, args)
