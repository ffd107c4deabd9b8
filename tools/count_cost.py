#!/usr/bin/env python3
"""
Print the GFLOPs of a config's grid, part by part, and what each scope spans; of a classifier its
MFLOPs. Needs no data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mutualnet_det.arguments import add_overrides, check_overrides
from mutualnet_det.config import load_config
from mutualnet_det.errors import reported
from mutualnet_det.evaluation.scopes import cost_report


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutualnet cost", description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        default=(480, 640),
        metavar=("HEIGHT", "WIDTH"),
        help="of an image before it is resized, in px (default: 480 640)",
    )
    parser.add_argument(
        "--detections", type=float, default=10, help="per image, for the mask head (default: 10)"
    )
    add_overrides(parser)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    check_overrides(parser, args)
    return args


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    print(cost_report(cfg, tuple(args.image_size), args.detections))


if __name__ == "__main__":
    with reported():
        main(parse_args())
