#!/usr/bin/env python3
"""Write the full network of a classification checkpoint as torchvision's or timm's state dict."""

from __future__ import annotations

import argparse

from mutualnet_det.checkpoint import export_backbone
from mutualnet_det.checkpoint.exporting import EXPORTS, TORCHVISION
from mutualnet_det.errors import reported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="a checkpoint of this project")
    parser.add_argument("output", metavar="OUT", help="the file to write, such as mobilenet_v2.pth")
    parser.add_argument(
        "--names", choices=EXPORTS, default=TORCHVISION, help="default: %(default)s"
    )
    args = parser.parse_args()
    layout = export_backbone(args.source, args.output, args.names)
    print(f"Written to {args.output}: {layout}.")


if __name__ == "__main__":
    with reported():
        main()
