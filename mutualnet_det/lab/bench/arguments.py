"""The arguments that all benchmarks have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from ...config import load_config
from ...data.check import check_datasets


def benchmark_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Build the parser of a benchmark: a config, and how many rounds are timed."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--config-file", default="quickstart_shapes", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=30, help="that are timed; default: 30")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    return parser


def parse_benchmark(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the arguments of a benchmark; fewer than one round ends the program."""
    args = parser.parse_args(arguments)
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; expected at least 1")
    return args


def benchmark_config(args: argparse.Namespace) -> CfgNode:
    """Load the config of a benchmark, with its data there."""
    cfg = load_config(args.config_file, args.opts)
    setup_logger(name="mutualnet_det")
    check_datasets(cfg)
    return cfg
