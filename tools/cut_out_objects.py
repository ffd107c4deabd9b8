#!/usr/bin/env python3
"""
Cut the objects of a data set in COCO's format out, into one folder of images per class: data to try
a classifier's training on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from mutualnet_det.errors import reported
from mutualnet_det.lab.cut_outs import cut_out_objects


def at_least_one(text: str) -> int:
    """A number from the command line."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tools/cut_out_objects.py", description=__doc__)
    parser.add_argument("annotations", metavar="JSON", help="the annotation file")
    parser.add_argument("images", metavar="IMAGES", help="the folder of its images")
    parser.add_argument("output", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument(
        "--smallest",
        type=int,
        default=24,
        metavar="PX",
        help="shorter side of an object's box, at least (default: %(default)s)",
    )
    parser.add_argument(
        "--most",
        type=at_least_one,
        default=120,
        metavar="N",
        help="objects of a class, at most (default: %(default)s)",
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    numbers = cut_out_objects(
        args.annotations, args.images, args.output, smallest=args.smallest, most=args.most
    )
    print(tabulate(numbers.items(), ["class", "images"]))


if __name__ == "__main__":
    with reported():
        main(parse_args())
