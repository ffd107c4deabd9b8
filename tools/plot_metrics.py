#!/usr/bin/env python3
"""
Draw what a training wrote into its metrics.json: losses by kind of operating point, the time of a
step's parts, learning rate, images per second and memory. Several trainings are laid over one
another. A training may still be running.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mutualnet_det.engine.curves import FORMATS, write_curves
from mutualnet_det.errors import reported


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutualnet plot", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="OUTPUT_DIR of a training")
    parser.add_argument(
        "--output",
        default="training.png",
        metavar="FILE",
        help=f"ends in {', '.join(FORMATS)} (default: training.png)",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the runs (default: those of the folders)"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    write_curves(args.folders, args.output, args.names)
    print(f"Written to {args.output}.")


if __name__ == "__main__":
    with reported():
        main(parse_args())
