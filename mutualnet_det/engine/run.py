"""Work of the training tools: Detectron2's train_net.py, for any network of this project."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint import find_weights, load_detector
from ..config import ConfigError, eval_point
from ..distributed import check_same, sharing_errors
from ..errors import reported
from ..evaluation import Grid, evaluate_grid
from .processes import run_in_processes
from .setup import setup
from .start import check_system
from .trainer import MutualTrainer


def evaluate(cfg: CfgNode, resume: bool) -> Grid:
    """Evaluate the operating point that the config names, in all processes together."""
    with sharing_errors():
        model, calibrations = load_detector(cfg, find_weights(cfg, resume))
    output = Path(cfg.OUTPUT_DIR) / "eval"
    return evaluate_grid(cfg, model, calibrations, [eval_point(cfg)], output, together=True)


def main(args: argparse.Namespace) -> None:
    """Train, or evaluate with ``--eval-only``: in each process."""
    with sharing_errors():
        cfg = setup(args)
    configs = comm.all_gather(cfg)
    with sharing_errors():
        check_same(configs)
    if args.eval_only:
        grid = evaluate(cfg, args.resume)
        if comm.is_main_process():
            print(grid)
        return
    with sharing_errors():
        trainer = MutualTrainer(cfg)
    trainer.resume_or_load(args.resume)
    starts = comm.all_gather(trainer.start_iter)
    with sharing_errors():
        _check_starts(cfg, starts)
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
    with reported():
        check_system()
    run_in_processes(main, args)
