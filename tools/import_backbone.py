#!/usr/bin/env python3
"""
Convert a pretrained backbone or detector to a checkpoint of this project, for MODEL.WEIGHTS.

Understood are checkpoints of the public MutualNet and US-Net code, torchvision's and timm's state
dicts, and Detectron2's ResNets and the detectors on them, as in its model zoo: .pth, .pt, .tar,
.safetensors and .pkl, told by their content. No code in a file is run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from mutualnet_det.checkpoint import import_backbone
from mutualnet_det.errors import reported


def width(text: str) -> float:
    """A width from the command line."""
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def pixels(text: str) -> int:
    """A resolution from the command line."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet import",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="the file to read")
    parser.add_argument("output", metavar="OUT", help="the file to write, such as backbone.pth")
    parser.add_argument(
        "--widths",
        nargs="+",
        type=width,
        metavar="WIDTH",
        help="the widths that the public code's width_mult_list had, in its order (default: as "
        "round as fit the channel counts)",
    )
    parser.add_argument(
        "--resolutions",
        nargs="+",
        type=pixels,
        metavar="PX",
        help="that it was trained at (default: 224 192 160 128; of an ordinary network 224)",
    )
    parser.add_argument(
        "--resolution",
        type=pixels,
        metavar="PX",
        help="that the statistics in the file were made at (default: the largest)",
    )
    parser.add_argument(
        "--prefix",
        metavar="NAME",
        help="what the entries to take begin with, where SOURCE holds several networks, such as "
        "module.encoder_q",
    )
    parser.add_argument(
        "--backbone-only", action="store_true", help="take the backbone of a detector alone"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    print(
        import_backbone(
            args.source,
            args.output,
            widths=args.widths,
            resolutions=args.resolutions,
            resolution=args.resolution,
            prefix=args.prefix,
            backbone_only=args.backbone_only,
        )
    )
    print(f"\nWritten to {args.output}.")


if __name__ == "__main__":
    with reported():
        main(parse_args())
