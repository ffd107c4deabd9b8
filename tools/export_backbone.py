#!/usr/bin/env python3
"""Write the full network of a classification checkpoint as torchvision's or timm's state dict."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mutualnet_det.checkpoint import export_backbone
from mutualnet_det.checkpoint.exporting import EXPORTS, TORCHVISION
from mutualnet_det.errors import reported


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutualnet export-backbone", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint of this project")
    parser.add_argument("output", metavar="OUT", help="the file to write, such as mobilenet_v2.pth")
    parser.add_argument(
        "--names", choices=EXPORTS, default=TORCHVISION, help="default: %(default)s"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    layout = export_backbone(args.source, args.output, args.names)
    print(f"Written to {args.output}: {layout}.")


if __name__ == "__main__":
    with reported():
        main(parse_args())
