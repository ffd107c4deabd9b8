"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ...config import load_config
from ...data.check import check_datasets


def parse_benchmark_arguments(description: str | None) -> tuple[CfgNode, int]:
    """
    Read the command line of a benchmark.

    Args:
        description: of the tool.

    Returns:
        the config, whose data sets are there, and how many rounds to time.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config-file", default="configs/quickstart_shapes.yaml", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=30, help="that are timed; default: 30")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; expected at least 1")
    cfg = load_config(args.config_file, args.opts)
    setup_logger(name="mutualnet_det")
    check_datasets(cfg)
    return cfg, args.rounds
