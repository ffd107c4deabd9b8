#!/usr/bin/env python3
"""
Measure what running a trained detector costs beyond its forwards: the predictor, the evaluation of
a grid and its scoring; and how fast its exports are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from mutualnet_det.errors import reported
from mutualnet_det.evenly import evenly
from mutualnet_det.lab.bench.pairs import timings_table
from mutualnet_det.lab.bench.runtime import (
    compare_exports,
    compare_grid,
    compare_predictor,
    compare_scoring,
)
from mutualnet_det.runtime.device import device_name, device_of
from mutualnet_det.runtime.pretrained import load_pretrained


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutualnet benchmark-runtime", description=__doc__)
    parser.add_argument("folder", help="OUTPUT_DIR of a training that was evaluated")
    parser.add_argument("--points", type=int, default=12, help="of the grid (default: 12)")
    parser.add_argument("--images", type=int, default=16, help="of the test data (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="evaluations (default: 5)")
    parser.add_argument(
        "--calls", type=int, default=50, help="of predictor and exports (default: 50)"
    )
    parser.add_argument("--device", help="default: the config's")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    for name in ("points", "images", "rounds", "calls"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def main(args: argparse.Namespace) -> None:
    setup_logger(name="mutualnet_det")
    pretrained = load_pretrained(args.folder, args.device)
    device = device_of(pretrained.model)
    points = evenly(sorted(pretrained.calibrations), args.points)
    scoring = compare_scoring(Path(args.folder) / "grid", pretrained.cfg.TEST.KEYPOINT_OKS_SIGMAS)
    # An export is for the CPU, or for whatever runs it elsewhere.
    on_cpu = device.type == "cpu"
    exports = compare_exports(pretrained, args.images, args.calls) if on_cpu else []
    timings = [
        *compare_predictor(pretrained, args.images, args.calls),
        *exports,
        *compare_grid(pretrained, points, args.images, args.rounds),
        *scoring,
    ]
    print(f"Medians on {device_name(device)}; a grid of {len(points)} points")
    print(timings_table(timings))


if __name__ == "__main__":
    with reported():
        main(parse_args())
